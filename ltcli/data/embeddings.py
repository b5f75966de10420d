"""The source of embeddings: features that another model computed, with labels."""

import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib import format as npy_format
from numpy.lib.npyio import NpzFile
from safetensors import SafetensorError, safe_open

from ltcli.core.errors import DataError, ParamError
from ltcli.core.files import read_table
from ltcli.core.text import clipped
from ltcli.data.class_names import number_classes, read_names
from ltcli.data.columns import filled, find_column, find_optional
from ltcli.data.data_files import find_shards
from ltcli.data.parquet import columns_of, read_column, read_texts
from ltcli.data.pool import Part, Pool
from ltcli.data.source_table import PARTS, SOURCES, Request

# Names of arrays, by parameter, where the user names none.
_KEYS = {"features_key": "features", "labels_key": "labels", "path_column": "files"}
_HINT = "say which they are with --features-key and --labels-key"


@dataclass(frozen=True)
class _Samples:
    """Samples of one part: features float32 [N, D], labels as text, and names of their files."""

    features: torch.Tensor
    labels: list[str]
    files: list[str] = field(default_factory=list)


Found = dict[str, _Samples]


def read(request: Request) -> Pool:
    """Return features float32 [N, D], labels int64 [N], and the names of the files of images.

    The root is a file, or a folder of files whose names start with train, validation, val or test.
    A safetensors or npz file has ``features`` and ``labels``, and perhaps those of several parts
    (``test.features``, in npz ``test_features``). An npy file has its labels in another one.
    Parquet and CSV have a column of labels, Parquet the column ``features``, CSV a header and
    numbers in all other columns. Options name other arrays and columns.

    Raises:
        ParamError: The labels of an npy file are missing, or pyarrow is needed and not installed.
        DataError: A file is not of this form, or a feature is not finite.
    """
    root, files, options = request.root, request.files(), request.options
    labels = files.get("labels")
    shards = find_shards(root, SOURCES[request.source].suffixes)
    if labels is not None and root.suffix != ".npy":
        rule = f"labels must go with an npy file of features, got {root}"
        raise ParamError("split", rule, "other files hold their own labels")
    if root.suffix == ".npy" and options:
        rule = f"{next(iter(options))} must not be given for an npy file, which holds one array"
        raise ParamError("split", rule, "leave the option out")
    if root.is_file():
        found = _read(root, labels, options)
    else:
        found = {part: _joined(paths, options) for part, paths in shards.items()}
    if "train" not in found:
        rule = "must have features and labels of the training part, got none"
        raise DataError(root, rule, _HINT)
    texts = {part: samples.labels for part, samples in found.items()}
    names, numbered = number_classes(texts, read_names(files.get("class_names")), root)
    with_files = [part for part, samples in found.items() if samples.files]
    if 0 < len(with_files) < len(found):
        rule = f"must have names of files in every part or in none, got those of {with_files[0]}"
        raise DataError(root, rule)
    parts = {
        part: Part(found[part].features, torch.from_numpy(rows), tuple(found[part].files))
        for part, rows in numbered.items()
    }
    return Pool(names, parts["train"], parts.get("val"), parts.get("test"), store="features")


def _joined(paths: list[Path], options: Mapping[str, str]) -> _Samples:
    """Return the samples of one part from its files, in their order."""
    pieces: list[_Samples] = []
    for path in paths:
        found = _read(path, None, options)
        if list(found) != ["train"]:
            rule = "must have features and labels of one part, as its name says the part"
            raise DataError(path, rule)
        pieces.append(found["train"])
        first, last = pieces[0].features.shape[1], pieces[-1].features.shape[1]
        if last != first:
            raise DataError(path, f"dimension must be {first} as in {paths[0]}, got {last}")
        if bool(pieces[-1].files) != bool(pieces[0].files):
            rule = f"must have names of files as {paths[0]}, or neither of them"
            raise DataError(path, rule)
    if len(pieces) == 1:
        # One file, however large, is not copied.
        return pieces[0]
    return _Samples(
        torch.cat([piece.features for piece in pieces]),
        [label for piece in pieces for label in piece.labels],
        [file for piece in pieces for file in piece.files],
    )


def _read(path: Path, labels: Path | None, options: Mapping[str, str]) -> Found:
    """Return the parts in one file; arrays without the name of a part are the training part."""
    match path.suffix:
        case ".safetensors":
            return _parts(path, _safetensors(path, options), ".", options)
        case ".npz":
            return _parts(path, _npz(path, options), "_", options)
        case ".npy":
            if labels is None:
                rule = f"labels must be given, as {path} holds features alone"
                raise ParamError("split", rule, "name an npy file with --labels")
            features = _features(path, "features", _npy(path))
            texts = _texts(labels, "labels", _npy(labels), len(features))
            return {"train": _Samples(features, texts)}
        case ".parquet":
            return {"train": _parquet(path, options)}
        case _:
            return {"train": _csv(path, options)}


def _names(options: Mapping[str, str], separator: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each part with the names that its features, labels and files have in an archive."""
    keys = {key: options.get(key, name) for key, name in _KEYS.items()}.values()
    yield "train", tuple(keys)
    for part in PARTS:
        yield part, tuple(f"{part}{separator}{key}" for key in keys)


def _parts(
    path: Path,
    archive: tuple[list[str], Mapping[str, Any]],
    separator: str,
    options: Mapping[str, str],
) -> Found:
    """Group arrays by the part that their names start with."""
    there, arrays = archive
    found: Found = {}
    for part, (features_key, labels_key, files_key) in _names(options, separator):
        present = [name for name in (features_key, labels_key) if name in arrays]
        if len(present) == 1:
            missing = labels_key if present == [features_key] else features_key
            raise DataError(path, f"must have {missing} beside {present[0]}, got none")
        if not present:
            continue
        if part in found:
            raise DataError(path, f"must have features or {features_key}, got both")
        features = _features(path, features_key, arrays[features_key])
        texts = _texts(path, labels_key, arrays[labels_key], len(features))
        files: list[str] = []
        if files_key in arrays:
            files = _texts(path, files_key, arrays[files_key], len(features))
        elif "path_column" in options:
            raise DataError(path, f"must have {files_key} beside {features_key}, got none")
        found[part] = _Samples(features, texts, files)
    if not found:
        got = clipped(", ".join(there), 200) or "none"
        raise DataError(path, f"must have features and labels, got {got}", _HINT)
    return found


def _features(path: Path, name: str, array: Any) -> torch.Tensor:
    """Return finite float32 [N, D]; a float32 array is not copied, as it may fill the memory."""
    tensor = array if isinstance(array, torch.Tensor) else None
    if isinstance(array, np.ndarray) and array.dtype.kind == "f":
        # Numbers beyond single precision become infinite, and are refused below.
        with np.errstate(over="ignore"):
            tensor = torch.from_numpy(np.ascontiguousarray(array, np.float32))
    if tensor is None or not tensor.is_floating_point() or tensor.ndim != 2 or not tensor.shape[1]:
        dtype = str(array.dtype).removeprefix("torch.")
        raise DataError(path, f"{name} must be floating point [N, D], got {dtype} {[*array.shape]}")
    tensor = tensor.float().contiguous()
    # One NaN would make a class mean, and every distance to it, NaN.
    good = np.isfinite(tensor.numpy())
    if not good.all():
        row = int((~good).any(axis=1).argmax())
        raise DataError(path, f"{name} must be finite, got NaN or infinity in row {row}")
    return tensor


def _texts(path: Path, name: str, array: Any, num_samples: int) -> list[str]:
    """Return labels as text; whole numbers may be floats, as pandas makes them."""
    half = isinstance(array, torch.Tensor) and array.dtype in (torch.float16, torch.bfloat16)
    # NumPy lacks some of torch's floating point types.
    values = array.numpy() if isinstance(array, torch.Tensor) and not half else array
    # Half precision does not hold every number of a class, and has rounded it to another.
    whole = getattr(values.dtype, "char", "?") in "fd" and (np.abs(values) < 2**53).all()
    if whole and (values == np.trunc(values)).all():
        values = values.astype(np.int64)
    if getattr(values.dtype, "kind", "f") not in "iuU" or values.ndim != 1:
        got = f"{str(values.dtype).removeprefix('torch.')} {[*values.shape]}"
        raise DataError(path, f"{name} must be whole numbers or text [N], got {got}")
    if len(values) != num_samples:
        rule = f"{name} must be as many as features, {num_samples}, got {len(values)}"
        raise DataError(path, rule)
    return list(map(str, values.tolist()))


def _safetensors(path: Path, options: Mapping[str, str]) -> tuple[list[str], dict[str, Any]]:
    """Return the names of all tensors, and those that are asked for."""
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            names = list(file.keys())
            # Other tensors of the file may be large, and are not read.
            return names, {name: file.get_tensor(name) for name in _asked(options, ".", names)}
    except SafetensorError as error:
        raise DataError(path, f"must be a safetensors file, got another: {error}") from None


def _npz(path: Path, options: Mapping[str, str]) -> tuple[list[str], dict[str, Any]]:
    """Return the names of all arrays, and those that are asked for."""
    try:
        # Pickled objects in an archive could run code.
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as arrays:
            names = arrays.files
            return names, {name: arrays[name] for name in _asked(options, "_", names)}
    except (BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        # RuntimeError: encrypted, or packed in a way that Python does not know.
        raise DataError(path, f"must be an npz file of plain arrays: {error}") from None


def _asked(options: Mapping[str, str], separator: str, there: list[str]) -> list[str]:
    asked = {name for _, names in _names(options, separator) for name in names}
    return [name for name in there if name in asked]


def _npy(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return npy_format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, TokenError) as error:
        raise DataError(path, f"must be an npy file of a plain array: {error}") from None


def _parquet(path: Path, options: Mapping[str, str]) -> _Samples:
    name = options.get("features_key", _KEYS["features_key"])
    header = columns_of(path)
    if header.count(name) != 1:
        rule = f"must have one column '{name}', got '{clipped(','.join(header), 200)}'"
        raise DataError(path, rule, _HINT)
    column = read_column(path, name)
    from pyarrow import ArrowException, compute

    try:
        lengths = compute.unique(compute.list_value_length(column)).to_pylist()
    except ArrowException:
        raise DataError(path, f"column '{name}' must hold lists, got {column.type}") from None
    if len(lengths) != 1:
        rule = f"column '{name}' must hold lists of one length"
        raise DataError(path, f"{rule}, got {sorted(lengths)[:5]}")
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    features = _features(path, name, np.concatenate(flat).reshape(len(column), lengths[0]))
    labels = read_texts(path, find_column("labels_key", header, options, path))
    # The images themselves may lie beside their features.
    files = find_optional("path_column", header, options, path, columns_of(path, "(large_)?string"))
    return _Samples(features, labels, [] if files is None else read_texts(path, files))


def _csv(path: Path, options: Mapping[str, str]) -> _Samples:
    rows: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    labels: list[str] = []
    names: list[str] = []
    lines = read_table(path, DataError)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    label_at = header.index(find_column("labels_key", header, options, path))
    file = find_optional("path_column", header, options, path)
    file_at = None if file is None else header.index(file)
    features_at = _feature_columns(path, header, {label_at, file_at}, options.get("features_key"))
    for number, cells in lines:
        if len(cells) != len(header):
            rule = f"must have {len(header)} cells, got {len(cells)}"
            raise DataError(f"{path}:{number}", rule)
        labels.append(filled(cells[label_at], f"{path}:{number}"))
        if file_at is not None:
            names.append(cells[file_at])
        try:
            rows.append(np.array([cells[place] for place in features_at], np.float32))
        except ValueError as error:
            hint = "say how the columns of features start with --features-key"
            raise DataError(f"{path}:{number}", f"must be numbers: {error}", hint) from None
    matrix = np.stack(rows) if rows else np.empty((0, len(features_at)), np.float32)
    return _Samples(_features(path, "features", matrix), labels, names)


def _feature_columns(
    path: Path, header: list[str], others: Collection[int | None], start: str | None
) -> list[int]:
    """Return the places of the columns of features: all others, or those of a common start.

    A column that may be no feature is refused: without a name, or with one that repeats.
    """
    places = [
        place
        for place, name in enumerate(header)
        if place not in others and (start is None or name.startswith(start))
    ]
    for place in places:
        if not header[place]:
            hint = "leave the numbers of the rows out (pandas: index=False)"
            raise DataError(path, f"column {place + 1} must have a name, got none", hint)
        if header.count(header[place]) > 1:
            rule = f"header must have each column once, got '{clipped(header[place], 80)}' again"
            raise DataError(path, rule)
    if not places:
        which = "of features" if start is None else f"that start with '{clipped(start)}'"
        rule = f"header must have columns {which}, got '{clipped(','.join(header), 200)}'"
        raise DataError(path, rule, "say how their names start with --features-key")
    return places
