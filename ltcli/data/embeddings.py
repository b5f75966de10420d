"""The source of embeddings: features that another model computed, with labels."""

import zlib
from collections.abc import Mapping
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
from ltcli.data.data_files import find_shards
from ltcli.data.parquet import read_column, read_labels
from ltcli.data.pool import Part, Pool
from ltcli.data.source_table import PARTS, SOURCES, Request

# Part to features float32 [N, D], and labels as text.
Found = dict[str, tuple[torch.Tensor, list[str]]]


def read(request: Request) -> Pool:
    """Return features float32 [N, D] and labels int64 [N].

    The root is a file, or a folder of files whose names start with train, validation, val or test.
    A safetensors or npz file has ``features`` and ``labels``, and perhaps those of several parts
    (``test.features``, in npz ``test_features``). An npy file has its labels in another one.
    Parquet and CSV have a column ``label``, Parquet the column ``features``, CSV a header and
    numbers in all other columns.

    Raises:
        ParamError: The labels of an npy file are missing, or pyarrow is needed and not installed.
        DataError: A file is not of this form, or a feature is not finite.
    """
    root, files = request.root, request.files()
    labels = files.get("labels")
    shards = find_shards(root, SOURCES[request.source].suffixes)
    if labels is not None and root.suffix != ".npy":
        rule = f"labels must go with an npy file of features, got {root}"
        raise ParamError("split", rule, "other files hold their own labels")
    if root.is_file():
        found = _read(root, labels)
    else:
        found = {part: _joined(paths) for part, paths in shards.items()}
    if "train" not in found:
        rule = "must have features and labels of the training part, got none"
        raise DataError(root, rule, "name them features and labels")
    texts = {part: labels for part, (_, labels) in found.items()}
    names, numbered = number_classes(texts, read_names(files.get("class_names")), root)
    parts = {p: Part(found[p][0], torch.from_numpy(rows)) for p, rows in numbered.items()}
    return Pool(names, parts["train"], parts.get("val"), parts.get("test"), store="features")


def _joined(paths: list[Path]) -> tuple[torch.Tensor, list[str]]:
    """Return the samples of one part from its files, in their order."""
    pieces: list[torch.Tensor] = []
    labels: list[str] = []
    for path in paths:
        found = _read(path, None)
        if list(found) != ["train"]:
            rule = "must have features and labels of one part, as its name says the part"
            raise DataError(path, rule)
        features, texts = found["train"]
        pieces.append(features)
        labels += texts
        if features.shape[1] != pieces[0].shape[1]:
            rule = f"dimension must be {pieces[0].shape[1]} as in {paths[0]}"
            raise DataError(path, f"{rule}, got {features.shape[1]}")
    # One file, however large, is not copied.
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces), labels


def _read(path: Path, labels: Path | None) -> Found:
    """Return the parts in one file; arrays without the name of a part are the training part."""
    match path.suffix:
        case ".safetensors":
            return _parts(path, _safetensors(path), ".")
        case ".npz":
            return _parts(path, _npz(path), "_")
        case ".npy":
            if labels is None:
                rule = f"labels must be given, as {path} holds features alone"
                raise ParamError("split", rule, "name an npy file with --labels")
            features = _features(path, "features", _npy(path))
            return {"train": (features, _texts(labels, "labels", _npy(labels), len(features)))}
        case ".parquet":
            return {"train": _parquet(path)}
        case _:
            return {"train": _csv(path)}


def _parts(path: Path, arrays: Mapping[str, Any], separator: str) -> Found:
    """Group arrays by the part that their names start with."""
    found: Found = {}
    for part in PARTS:
        prefixes = ("", f"{part}{separator}") if part == "train" else (f"{part}{separator}",)
        for prefix in prefixes:
            names = (f"{prefix}features", f"{prefix}labels")
            present = [name for name in names if name in arrays]
            if len(present) == 1:
                missing = names[1 - names.index(present[0])]
                raise DataError(path, f"must have {missing} beside {present[0]}, got none")
            if present and part in found:
                raise DataError(path, f"must have features or {names[0]}, got both")
            if present:
                features = _features(path, names[0], arrays[names[0]])
                texts = _texts(path, names[1], arrays[names[1]], len(features))
                found[part] = features, texts
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
    """Return labels as text."""
    of_torch = isinstance(array, torch.Tensor)
    # NumPy lacks some of torch's floating point types.
    values = array.numpy() if of_torch and not array.is_floating_point() else array
    if getattr(values.dtype, "kind", "f") not in "iuU" or values.ndim != 1:
        got = f"{str(values.dtype).removeprefix('torch.')} {[*values.shape]}"
        raise DataError(path, f"{name} must be whole numbers or text [N], got {got}")
    if len(values) != num_samples:
        rule = f"{name} must be as many as features, {num_samples}, got {len(values)}"
        raise DataError(path, rule)
    return list(map(str, values.tolist()))


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            names = file.keys()
            # Other tensors of the file may be large, and are not read.
            return {n: file.get_tensor(n) for n in names if n.endswith(("features", "labels"))}
    except SafetensorError as error:
        raise DataError(path, f"must be a safetensors file, got another: {error}") from None


def _npz(path: Path) -> dict[str, Any]:
    try:
        # Pickled objects in an archive could run code.
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as arrays:
            return {n: arrays[n] for n in arrays.files if n.endswith(("features", "labels"))}
    except (BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        # RuntimeError: encrypted, or packed in a way that Python does not know.
        raise DataError(path, f"must be an npz file of plain arrays: {error}") from None


def _npy(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return npy_format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, TokenError) as error:
        raise DataError(path, f"must be an npy file of a plain array: {error}") from None


def _parquet(path: Path) -> tuple[torch.Tensor, list[str]]:
    column = read_column(path, "features")
    from pyarrow import ArrowException, compute

    try:
        lengths = compute.unique(compute.list_value_length(column)).to_pylist()
    except ArrowException:
        raise DataError(path, f"column 'features' must hold lists, got {column.type}") from None
    if len(lengths) != 1:
        rule = "column 'features' must hold lists of one length"
        raise DataError(path, f"{rule}, got {sorted(lengths)[:5]}")
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    features = _features(path, "features", np.concatenate(flat).reshape(len(column), lengths[0]))
    return features, read_labels(path)


def _csv(path: Path) -> tuple[torch.Tensor, list[str]]:
    rows: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    labels: list[str] = []
    lines = read_table(path, DataError)
    _, header = next(lines, (0, []))
    if header.count("label") != 1 or len(header) < 2:
        rule = "header must have one column 'label' and columns of features"
        raise DataError(path, f"{rule}, got '{clipped(','.join(header), 200)}'")
    _check_columns(path, header)
    place = header.index("label")
    for number, cells in lines:
        if len(cells) != len(header):
            rule = f"must have {len(header)} cells, got {len(cells)}"
            raise DataError(f"{path}:{number}", rule)
        labels.append(cells.pop(place).strip())
        try:
            rows.append(np.array(cells, np.float32))
        except ValueError as error:
            raise DataError(f"{path}:{number}", f"must be numbers: {error}") from None
    matrix = np.stack(rows) if rows else np.empty((0, len(header) - 1), np.float32)
    return _features(path, "features", matrix), labels


def _check_columns(path: Path, header: list[str]) -> None:
    """Refuse columns that may be no features: without a name, or with one that repeats."""
    for number, name in enumerate(header, start=1):
        if not name.strip():
            hint = "leave the numbers of the rows out (pandas: index=False)"
            raise DataError(path, f"column {number} must have a name, got none", hint)
        if header.count(name) > 1:
            rule = f"header must have each column once, got '{clipped(name, 80)}' again"
            raise DataError(path, rule)
