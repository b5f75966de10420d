"""Image files with their classes, from text lists or a CSV table; no image is read yet.

Source: the lists of ImageNet-LT and Places-LT (Liu et al., Large-Scale Long-Tailed Recognition in
an Open World, CVPR 2019, arXiv 1904.05160) and of iNaturalist (Kang et al., Decoupling
Representation and Classifier, ICLR 2020, arXiv 1910.09217); RFC 4180 for CSV.
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltcli.core.errors import DataError, nearest
from ltcli.core.files import read_table, read_text
from ltcli.core.text import clipped, printable
from ltcli.data.class_names import Labels, number_classes, read_names
from ltcli.data.source_table import PARTS, Request


@dataclass(frozen=True)
class Left:
    """A file or folder left out: its path relative to the root, and the reason, half a sentence."""

    path: str
    reason: str

    def __str__(self) -> str:
        """Return ``path: reason`` on one line, whatever the path holds."""
        return f"{printable(self.path) or '.'}: {self.reason}"


@dataclass(frozen=True)
class Rows:
    """The images of one part: paths relative to the root with ``/``, and classes, int64 [N]."""

    files: list[str]
    labels: Labels


@dataclass(frozen=True)
class Listed:
    """The images of a data set: those of train, and of val and test where it has them.

    Left out are harmless files, which are no images, and bad ones, which should have been images.
    """

    class_names: tuple[str, ...]
    parts: Mapping[str, Rows]
    harmless: tuple[Left, ...] = ()
    bad: tuple[Left, ...] = ()


def read(request: Request) -> Listed:
    """Return the images that a table or the lists of the parts name."""
    files = request.files()
    if "table" in files:
        return load_table(files["table"])
    lists = {part: files[f"{part}_list"] for part in PARTS if f"{part}_list" in files}
    return load_lists(lists, files.get("class_names"))


def load_lists(lists: Mapping[str, Path], class_names: Path | None) -> Listed:
    """Return the images in the list of each part.

    Each line is a path relative to the root, which may hold blanks, then blanks or tabs, then a
    class as a whole number from 0. Without a file of class names, the numbers are the names.

    Raises:
        DataError: A file is not of this form, or a path cannot be taken.
    """
    columns = {part: _read_list(path) for part, path in lists.items()}
    return checked(columns, read_names(class_names), lists["train"])


def _read_list(path: Path) -> tuple[list[str], list[str]]:
    """Return the paths and the labels, as whole numbers in shortest form."""
    names: list[bytes] = []
    labels: list[bytes] = []
    for number, line in enumerate(read_text(path, DataError).encode().split(b"\n"), start=1):
        # Blanks and tabs alone separate bytes, but every space of Unicode would separate text.
        fields = line.rsplit(None, 1)
        # Numbers of 18 digits always fit in an int64.
        if len(fields) == 2 and fields[1].isdigit() and len(fields[1]) <= 18:
            names.append(fields[0])
            labels.append(fields[1])
        elif fields:
            got = printable(b" ".join(fields).decode())[:200]
            rule = f"must be a path and a class number from 0, got '{got}'"
            raise DataError(f"{path}:{number}", rule)
    # Few labels differ, so each is converted once.
    shortest = {label: str(int(label)) for label in set(labels)}
    return [name.decode() for name in names], [shortest[label] for label in labels]


def load_table(path: Path) -> Listed:
    """Return the images in a CSV table with the columns path, label and perhaps split.

    Further columns are ignored. Labels are text, or whole numbers, which are then the order of the
    classes; split is train, val or test.

    Raises:
        DataError: The file is not of this form, or a path cannot be taken.
    """
    found: dict[str, tuple[list[str], list[str]]] = {part: ([], []) for part in PARTS}
    rows = read_table(path, DataError)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    path_at, label_at, split_at = _columns(path, header)
    for number, row in rows:
        if len(row) != len(header):
            rule = f"must have {len(header)} cells, got {len(row)}"
            raise DataError(f"{path}:{number}", rule)
        part = "train" if split_at is None else row[split_at].strip()
        if part not in found:
            rule = f"split must be train, val or test, got '{clipped(part)}'"
            raise DataError(f"{path}:{number}", rule, nearest(part, PARTS))
        paths, labels = found[part]
        paths.append(row[path_at])
        labels.append(row[label_at].strip())
    # The data set lacks a part without rows, but training images it must have.
    used = {part: columns for part, columns in found.items() if columns[0] or part == "train"}
    return checked(used, None, path)


def _columns(path: Path, header: list[str]) -> tuple[int, int, int | None]:
    for name in ("path", "label", "split"):
        if header.count(name) > 1 or (name != "split" and name not in header):
            got = clipped(",".join(header), 200)
            rule = f"header must have one column '{name}', got '{got}'"
            raise DataError(path, rule, _hint_on(header, name))
    split = header.index("split") if "split" in header else None
    return header.index("path"), header.index("label"), split


def _hint_on(header: list[str], name: str) -> str | None:
    """Return the likely fault of a header that lacks a column."""
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        return "separate the columns by commas"
    if name not in header and name in map(str.lower, header):
        return f"write '{name}' in lower case"
    return None


def checked(
    parts: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    class_names: Sequence[str] | None,
    where: Path,
) -> Listed:
    """Return images from paths and labels by part; see ``sound_paths`` and ``number_classes``."""
    paths = sound_paths({part: paths for part, (paths, _) in parts.items()}, where)
    texts = {part: labels for part, (_, labels) in parts.items()}
    names, labels = number_classes(texts, class_names, where)
    return Listed(names, {part: Rows(paths[part], labels[part]) for part in parts})


def sound_paths(parts: Mapping[str, Sequence[str]], where: object) -> dict[str, list[str]]:
    """Return the paths of each part, relative to the root, in their shortest form.

    Raises:
        DataError: A path is absolute, leads out of the root, cannot be a name, or occurs twice.
    """
    sound: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for part, paths in parts.items():
        # Two spellings of one path are one image: a test image must not hide among training images.
        sound[part] = [_shortest(path, where) for path in paths]
        for path in sound[part]:
            if path in seen:
                both = f"in {seen[path]} and in {part}"
                places = f"twice in {part}" if seen[path] == part else both
                rule = f"each path must be listed once, got '{printable(path)}' {places}"
                raise DataError(where, rule, "remove one of the two")
            seen[path] = part
    return sound


def _shortest(path: str, where: object) -> str:
    short = posixpath.normpath(path)
    if short in (".", "..") or short.startswith(("/", "../")) or not _is_name(path):
        rule = f"paths must lead to a file below the root, got '{printable(path)}'"
        raise DataError(where, rule)
    return short


def _is_name(path: str) -> bool:
    # Opening a name that is no UTF-8 or holds a NUL would raise a bare ValueError.
    try:
        return b"\0" not in path.encode()
    except UnicodeEncodeError:
        return False
