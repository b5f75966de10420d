"""Image files with their classes, from text lists or a CSV table; no image is read yet.

Source: the lists of ImageNet-LT and Places-LT (Liu et al., Large-Scale Long-Tailed Recognition in
an Open World, CVPR 2019, arXiv 1904.05160) and of iNaturalist (Kang et al., Decoupling
Representation and Classifier, ICLR 2020, arXiv 1910.09217); RFC 4180 for CSV.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltcli.core.errors import DataError
from ltcli.core.files import read_table, read_text
from ltcli.core.text import printable
from ltcli.data.class_names import Labels, number_classes, read_names
from ltcli.data.columns import filled, find_column, find_optional, part_named
from ltcli.data.listed_paths import Entries, sound_paths
from ltcli.data.source_table import PARTS, Request
from ltcli.data.walk import Left

# pandas writes whole numbers as floats where a column once had a gap.
_NUMBER = re.compile(rb"[0-9]{1,18}(\.0*)?")


@dataclass(frozen=True)
class Rows:
    """The images of one part: paths relative to the root with ``/``, and classes, int64 [N].

    Where the source names groups, each image has one.
    """

    files: list[str]
    labels: Labels
    groups: Sequence[str] = ()

    def at(self, kept: Sequence[int]) -> "Rows":
        """Return some of the images, by their positions."""
        groups = [self.groups[row] for row in kept] if self.groups else ()
        return Rows([self.files[row] for row in kept], self.labels[list(kept)], groups)


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
        return load_table(files["table"], request)
    lists = {part: files[f"{part}_list"] for part in PARTS if f"{part}_list" in files}
    return load_lists(lists, files.get("class_names"), request)


def load_lists(lists: Mapping[str, Path], class_names: Path | None, request: Request) -> Listed:
    """Return the images in the list of each part.

    Each line is a path relative to the root, which may hold blanks, then blanks or tabs, then a
    class as a whole number from 0. Without a file of class names, the numbers are the names.

    Raises:
        DataError: A file is not of this form, or a path cannot be taken.
    """
    entries = {part: _read_list(path) for part, path in lists.items()}
    return checked(entries, read_names(class_names), request)


def _read_list(path: Path) -> Entries:
    entries = Entries(path)
    numbers: dict[bytes, str] = {}
    for number, line in enumerate(read_text(path, DataError).encode().split(b"\n"), start=1):
        # Blanks and tabs alone separate bytes, but every space of Unicode would separate text.
        fields = line.rsplit(None, 1)
        if len(fields) == 2 and (fields[1] in numbers or _NUMBER.fullmatch(fields[1])):
            # Few labels differ, so each is converted once, to its shortest form.
            if fields[1] not in numbers:
                numbers[fields[1]] = str(int(fields[1].partition(b".")[0]))
            entries.paths.append(fields[0].decode())
            entries.labels.append(numbers[fields[1]])
            entries.lines.append(number)
        elif fields:
            got = printable(b" ".join(fields).decode())[:200]
            rule = f"must be a path and a class number from 0, got '{got}'"
            raise DataError(f"{path}:{number}", rule)
    return entries


def load_table(path: Path, request: Request) -> Listed:
    """Return the images in a CSV table with columns for path and label, and perhaps for the part.

    Further columns are ignored. Labels are text, or whole numbers, which are then the order of the
    classes. Without a column for the part, all are training images.

    Raises:
        DataError: The file is not of this form, or a path cannot be taken.
    """
    found = {part: Entries(path) for part in PARTS}
    rows = read_table(path, DataError)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    path_at = header.index(find_column("path_column", header, request.options, path))
    label_at = header.index(find_column("label_column", header, request.options, path))
    split = find_optional("split_column", header, request.options, path)
    split_at = None if split is None else header.index(split)
    group = find_optional("group_column", header, request.options, path)
    group_at = None if group is None else header.index(group)
    for number, row in rows:
        where = f"{path}:{number}"
        if len(row) != len(header):
            raise DataError(where, f"must have {len(header)} cells, got {len(row)}")
        entries = found["train" if split_at is None else part_named(row[split_at], where)]
        entries.paths.append(row[path_at])
        entries.labels.append(filled(row[label_at], where))
        entries.lines.append(number)
        if group_at is not None:
            entries.groups.append(filled(row[group_at], where, "group"))
    # The data set lacks a part without rows, but training images it must have.
    used = {part: rows for part, rows in found.items() if rows.paths or part == "train"}
    return checked(used, None, request)


def checked(
    parts: Mapping[str, Entries], class_names: Sequence[str] | None, request: Request
) -> Listed:
    """Return the listed images of each part; see ``sound_paths`` and ``number_classes``."""
    paths = sound_paths(parts, request)
    labels = {part: entries.labels for part, entries in parts.items()}
    names, numbered = number_classes(labels, class_names, parts["train"].file)
    rows = {part: Rows(paths[part], numbered[part], of.groups) for part, of in parts.items()}
    return Listed(names, rows)
