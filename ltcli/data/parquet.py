"""Images in Parquet files, in the form that Hugging Face's datasets library writes.

Source: the dataset repositories of the Hugging Face hub: a column of images (struct of ``bytes``
and ``path``, or bytes alone), a column of labels, and the names of classes in the schema's metadata
under the key ``huggingface``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

from ltcli.core.errors import DataError, ParamError
from ltcli.core.text import nfc
from ltcli.data.class_names import number_classes
from ltcli.data.columns import find_column, find_optional, part_named
from ltcli.data.data_files import find_shards, list_shards
from ltcli.data.formats import BadImageError
from ltcli.data.image_files import Decoder, check_size, require_good, warn_of_bits
from ltcli.data.pool import Part, Pool
from ltcli.data.source_table import PARTS, Request

# Rows in memory at a time: images of a few megabytes each must not add up.
_ROWS = 256
# Types of a column that may hold images; the path of an image may stand in another column.
_IMAGE = "struct|(large_|fixed_size_)?binary"


def parquet_file(path: Path) -> Any:
    """Return an open ``pyarrow.parquet.ParquetFile``, or raise ParamError without pyarrow."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        rule = "Parquet files need pyarrow, which is not installed"
        raise ParamError("split", rule, 'pip install "ltcli[parquet]"') from None
    try:
        return ParquetFile(path)
    except ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise DataError(path, f"must be a Parquet file, got another: {reason}") from None


def read_column(path: Path, column: str) -> Any:
    """Return one column as a ``pyarrow.ChunkedArray`` without empty cells."""
    file = parquet_file(path)
    try:
        values = file.read([column]).column(0)
    except OSError as error:
        raise DataError(path, f"column '{column}' is damaged: {error}") from None
    if values.null_count:
        row = next(row for row, cell in enumerate(values) if not cell.is_valid)
        rule = f"column '{column}' must have no empty cells, got {values.null_count}"
        raise DataError(path, f"{rule}, first in row {row}")
    if str(values.type).startswith("dictionary"):
        # pandas writes its categories this way.
        values = values.cast(values.type.value_type)
    return values


def read_texts(path: Path, column: str) -> list[str]:
    """Return a column of whole numbers or text, such as labels, as text."""
    values = read_column(path, column)
    cells = values.to_pylist()
    if str(values.type) in ("float", "double") and all(map(float.is_integer, cells)):
        # pandas makes floats of whole numbers where some are missing.
        return [str(int(cell)) for cell in cells]
    if not re.fullmatch("u?int[0-9]+|(large_)?string", str(values.type)):
        raise DataError(path, f"column '{column}' must be whole numbers or text, got {values.type}")
    return list(map(str, cells))


def columns_of(path: Path, like: str = "") -> list[str]:
    """Return the names of the columns whose type starts like a regular expression."""
    schema = parquet_file(path).schema_arrow
    return [field.name for field in schema if re.match(like, str(field.type))]


@dataclass(frozen=True)
class _Shard:
    """One file: its columns of images and labels; label and part of each row, and perhaps group."""

    path: Path
    image_column: str
    label_column: str
    labels: list[str]
    parts: list[str]
    groups: list[str]


def read(request: Request) -> Pool:
    """Return images uint8 [N, size, size, 3], cut to the centre square, by file and row.

    The root is a file, or a folder of files whose names start with train, validation, val or test.
    With a column for the part, names of files say nothing.

    Raises:
        ParamError: pyarrow is not installed.
        DataError: A file is not of this form, or an image is bad and may not be.
        ResourceError: The images would take more than 4 GiB.
    """
    root, image_size = request.root, request.stored_size
    base = root if root.is_dir() else root.parent
    shards = _shards(request)
    texts = {part: _of_part(shards, part, "labels") for part in PARTS}
    # The data set lacks a part without rows, but training images it must have.
    texts = {part: labels for part, labels in texts.items() if labels or part == "train"}
    # Labels are small, so the size is known before any image is read.
    check_size(root, sum(map(len, texts.values())), image_size, "lower it")
    declared = next(filter(None, map(_class_names, shards)), None)
    names, labels = number_classes(texts, declared, root)
    decoder = Decoder(image_size, request.max_pixels)
    parts = {}
    for part in texts:
        contents = (
            (f"{shard.path.relative_to(base)} row {row}", partial(_content, cell))
            for shard in shards
            if part in shard.parts
            for row, cell in _cells(shard.path, shard.image_column)
            if shard.parts[row] == part
        )
        images, kept = decoder.decode(part, labels[part], contents)
        groups = _of_part(shards, part, "groups")
        names_of = tuple(groups[row] for row in kept) if groups else ()
        parts[part] = Part(images, torch.from_numpy(labels[part][kept]), groups=names_of)
    require_good(root, decoder.bad, request.on_bad_image)
    warn_of_bits(root, decoder.bits)
    skipped = tuple(map(str, decoder.bad))
    return Pool(names, parts["train"], parts.get("val"), parts.get("test"), skipped=skipped)


def _shards(request: Request) -> list[_Shard]:
    root, options = request.root, request.options
    if "split_column" not in options:
        by_part = find_shards(root, (".parquet",))
        return [_shard(path, options, part) for part, paths in by_part.items() for path in paths]
    paths = list_shards(root, (".parquet",)) if root.is_dir() else [root]
    if not paths:
        raise DataError(root, "must hold a file *.parquet, got none")
    return [_shard(path, options, None) for path in paths]


def _shard(path: Path, options: Mapping[str, str], part: str | None) -> _Shard:
    header = columns_of(path)
    usable = columns_of(path, _IMAGE)
    images = find_column("path_column", header, options, path, usable or None)
    if images not in usable:
        hint = "for a table of paths use source csv, with the table saved as CSV"
        raise DataError(path, f"column '{images}' must hold bytes of images, got others", hint)
    label = find_column("label_column", header, options, path)
    labels = read_texts(path, label)
    parts = [part or ""] * len(labels)
    if part is None:
        cells = read_texts(path, find_column("split_column", header, options, path))
        parts = [part_named(cell, f"{path} row {row}") for row, cell in enumerate(cells)]
    group = find_optional("group_column", header, options, path)
    groups = [] if group is None else read_texts(path, group)
    return _Shard(path, images, label, labels, parts, groups)


def _of_part(shards: list[_Shard], part: str, what: Literal["labels", "groups"]) -> list[str]:
    pairs = (zip(getattr(s, what), s.parts, strict=True) for s in shards if getattr(s, what))
    return [text for text, found in chain(*pairs) if found == part]


def _class_names(shard: _Shard) -> list[str] | None:
    """Return the class names in the metadata, None for none."""
    metadata = parquet_file(shard.path).schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = features[shard.label_column]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    good = isinstance(names, list) and all(type(name) is str for name in names)
    return list(map(nfc, names)) if good else None


def _cells(path: Path, column: str) -> Iterator[tuple[int, Any]]:
    """Yield row number and content of each cell with an image, a few rows in memory at a time."""
    file = parquet_file(path)
    # Counted over batches, since errors name the row of the file.
    row = 0
    try:
        for batch in file.iter_batches(_ROWS, columns=[column]):
            for cell in batch.column(0).to_pylist():
                yield row, cell
                row += 1
    except OSError as error:
        raise DataError(path, f"column '{column}' is damaged: {error}") from None


def _content(cell: Any) -> bytes:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise BadImageError("holds no bytes of an image")
    return content
