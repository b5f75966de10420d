"""Images in Parquet files, in the form that Hugging Face's datasets library writes.

Source: the dataset repositories of the Hugging Face hub: columns ``image`` (struct of ``bytes`` and
``path``, or bytes alone) and ``label``, and the names of classes in the schema's metadata under the
key ``huggingface``.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ltcli.core.errors import DataError, ParamError
from ltcli.data.class_names import number_classes
from ltcli.data.data_files import find_shards
from ltcli.data.decode import BadImageError
from ltcli.data.image_files import Decoder, check_size, require_good
from ltcli.data.pool import Part, Pool
from ltcli.data.source_table import Request

# Rows in memory at a time: images of a few megabytes each must not add up.
_ROWS = 256


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
    _require_column(path, file, column)
    try:
        values = file.read([column]).column(0)
    except OSError as error:
        raise DataError(path, f"column '{column}' is damaged: {error}") from None
    if values.null_count:
        rule = f"column '{column}' must have no empty cells, got {values.null_count}"
        raise DataError(path, rule)
    return values


def read_labels(path: Path) -> list[str]:
    """Return the column ``label``, whole numbers or text, as text."""
    column = read_column(path, "label")
    if str(column.type).startswith("dictionary"):
        # pandas writes its categories this way.
        column = column.cast(column.type.value_type)
    if not re.fullmatch("u?int[0-9]+|(large_)?string", str(column.type)):
        raise DataError(path, f"column 'label' must be whole numbers or text, got {column.type}")
    return list(map(str, column.to_pylist()))


def _require_column(path: Path, file: Any, column: str) -> None:
    if file.schema_arrow.names.count(column) != 1:
        names = ", ".join(file.schema_arrow.names)
        raise DataError(path, f"must have one column '{column}', got {names}")


def read(request: Request) -> Pool:
    """Return images uint8 [N, size, size, 3], cut to the centre square, by file and row.

    The root is a file, or a folder of files whose names start with train, validation, val or test.

    Raises:
        ParamError: pyarrow is not installed.
        DataError: A file is not of this form, or an image is bad and may not be.
        ResourceError: The images would take more than 4 GiB.
    """
    root, image_size = request.root, request.image_size
    base = root if root.is_dir() else root.parent
    shards = find_shards(root, (".parquet",))
    class_names = _class_names(shards["train"][0])
    texts = {part: list(chain(*map(read_labels, paths))) for part, paths in shards.items()}
    # Labels are small, so the size is known before any image is read.
    check_size(root, sum(map(len, texts.values())), image_size, "lower it")
    names, labels = number_classes(texts, class_names, root)
    decoder = Decoder(image_size)
    parts = {}
    for part, paths in shards.items():
        contents = (
            (f"{path.relative_to(base)} row {row}", partial(_content, cell))
            for path in paths
            for row, cell in _cells(path)
        )
        images, kept = decoder.decode(part, labels[part], contents)
        parts[part] = Part(images, torch.from_numpy(labels[part][kept]))
    require_good(root, decoder.bad, request.on_bad_image)
    skipped = tuple(map(str, decoder.bad))
    return Pool(names, parts["train"], parts.get("val"), parts.get("test"), skipped=skipped)


def _class_names(path: Path) -> list[str] | None:
    """Return the class names in the metadata, None for none."""
    metadata = parquet_file(path).schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = features["label"]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return names if isinstance(names, list) and all(type(n) is str for n in names) else None


def _cells(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield row number and content of each cell with an image, a few rows in memory at a time."""
    file = parquet_file(path)
    _require_column(path, file, "image")
    # Counted over batches, since errors name the row of the file.
    row = 0
    try:
        for batch in file.iter_batches(_ROWS, columns=["image"]):
            for cell in batch.column(0).to_pylist():
                yield row, cell
                row += 1
    except OSError as error:
        raise DataError(path, f"column 'image' is damaged: {error}") from None


def _content(cell: Any) -> bytes:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise BadImageError("holds no bytes of an image")
    return content
