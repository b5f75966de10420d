"""Lists of images as text: lines ``path label``, or a CSV table; and names of classes, one a line.

Source: the lists of ImageNet-LT and Places-LT (Liu et al., Large-Scale Long-Tailed Recognition in
an Open World, CVPR 2019, arXiv 1904.05160) and of iNaturalist (Kang et al., Decoupling
Representation and Classifier, ICLR 2020, arXiv 1910.09217); RFC 4180 for CSV.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from ltcli.core.errors import DataError, nearest
from ltcli.core.text import clipped, printable
from ltcli.data.listed import Listed, Rows, number_classes, sound_paths
from ltcli.data.source_table import PARTS


def load_lists(lists: Mapping[str, Path], class_names: Path | None) -> Listed:
    """Read the list of each part.

    Args:
        lists: Part to file; lines of a path relative to the root, which may hold blanks, blanks or
            tabs, and a class, a whole number from 0. Empty lines are passed over.
        class_names: File of the names of the classes 0 ... C-1, one a line; None where the classes
            are the numbers that the training list holds.

    Raises:
        DataError: A file is not of this form, or a path cannot be taken.
    """
    read = {part: _read_list(path) for part, path in lists.items()}
    where = lists["train"]
    paths = sound_paths({part: paths for part, (paths, _) in read.items()}, where)
    names, labels = number_classes(
        {part: labels for part, (_, labels) in read.items()}, read_names(class_names), where
    )
    return Listed(names, {part: Rows(paths[part], labels[part]) for part in lists})


def _read_list(path: Path) -> tuple[list[str], list[str]]:
    """Return the paths and the labels, as whole numbers in shortest form."""
    content = _read_text(path).encode()
    names: list[bytes] = []
    labels: list[bytes] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        # Of bytes, only blanks and tabs separate; of text, every kind of space that Unicode has.
        fields = line.rsplit(None, 1)
        if len(fields) == 2 and fields[1].isdigit() and len(fields[1]) <= 18:
            names.append(fields[0])
            labels.append(fields[1])
        elif fields:
            got = printable(b" ".join(fields).decode())[:200]
            rule = f"line {number} must be a path and a class number from 0, got '{got}'"
            raise DataError(path, rule)
    shortest = {label: str(int(label)) for label in set(labels)}
    return [name.decode() for name in names], [shortest[label] for label in labels]


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(path, "must be UTF-8 text, got other bytes") from None


def read_names(path: Path | None) -> list[str] | None:
    """Return the class names of a file, one a line, or None for no file.

    Raises:
        DataError: It is not UTF-8, or a line is empty.
    """
    if path is None:
        return None
    names = [line.strip() for line in _read_text(path).rstrip().split("\n")]
    if "" in names:
        rule = f"line {names.index('') + 1} must be a class name, got an empty line"
        raise DataError(path, rule)
    return names


def load_table(path: Path) -> Listed:
    """Read a table with the columns ``path``, ``label`` and perhaps ``split``, and any others.

    Args:
        path: The CSV file, comma-separated with a header. Labels are text, or whole numbers, which
            are then the order of the classes; ``split`` is train, val or test.

    Raises:
        DataError: It is not of this form, or a path cannot be taken.
    """
    found: dict[str, tuple[list[str], list[str]]] = {part: ([], []) for part in PARTS}
    rows = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        path_at, label_at, split_at = _columns(path, header)
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                rule = f"line {rows.line_num} must have {len(header)} fields, got {len(row)}"
                raise DataError(path, rule)
            part = "train" if split_at is None else row[split_at].strip()
            if part not in found:
                rule = f"line {rows.line_num}: split must be train, val or test, got '{part}'"
                raise DataError(path, rule, nearest(part, PARTS))
            paths, labels = found[part]
            paths.append(row[path_at])
            labels.append(row[label_at].strip())
    except csv.Error as error:
        raise DataError(path, f"line {rows.line_num} is not CSV: {error}") from None
    parts = [part for part in PARTS if found[part][0] or part == "train"]
    sound = sound_paths({part: found[part][0] for part in parts}, path)
    names, numbered = number_classes({part: found[part][1] for part in parts}, None, path)
    return Listed(names, {part: Rows(sound[part], numbered[part]) for part in parts})


def _columns(path: Path, header: list[str]) -> tuple[int, int, int | None]:
    for name in ("path", "label", "split"):
        if header.count(name) > 1 or (name != "split" and name not in header):
            got = clipped(",".join(header), 200)
            rule = f"header must have one column '{name}', got '{got}'"
            raise DataError(path, rule, _hint_on(header, name))
    return (
        header.index("path"),
        header.index("label"),
        header.index("split") if "split" in header else None,
    )


def _hint_on(header: list[str], name: str) -> str | None:
    """Return what may be wrong with a header that lacks a column."""
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        return "separate the columns by commas"
    if name not in header and name in map(str.lower, header):
        return f"write '{name}' in lower case"
    return None
