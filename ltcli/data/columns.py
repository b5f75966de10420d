"""Columns of a table by name: the one that the user named, or the one that has a common name."""

from collections.abc import Mapping, Sequence

from ltcli.core.errors import DataError, nearest
from ltcli.core.text import clipped
from ltcli.data.source_table import PART_NAMES, PARTS

_LABELS = ("label", "labels", "class", "fine_label")
# Names in use, by parameter. A table may have one of them, or the user says which column it is.
COMMON = {
    "path_column": ("path", "file", "filename", "image", "img", "image_id"),
    "label_column": _LABELS,
    "labels_key": _LABELS,
    "split_column": ("split",),
    # Whatever a column is called, only the user knows that its images belong together.
    "group_column": (),
}


def find_column(
    option: str,
    header: Sequence[str],
    options: Mapping[str, str],
    where: object,
    usable: Sequence[str] | None = None,
) -> str:
    """Return the name of the column for one parameter.

    Args:
        option: Parameter that names the column.
        header: All columns of the table.
        options: Parameters that the user gave.
        where: The table, for errors.
        usable: Columns among which common names are looked for; all if None.

    Raises:
        DataError: There is no such column, or there are several.
    """
    found = find_optional(option, header, options, where, usable)
    if found is None:
        raise _error(option, header, where)
    return found


def find_optional(
    option: str,
    header: Sequence[str],
    options: Mapping[str, str],
    where: object,
    usable: Sequence[str] | None = None,
) -> str | None:
    """Return the same, or None where no column has a common name and the user named none."""
    if (name := options.get(option)) is not None:
        if header.count(name) != 1:
            rule = f"must have one column '{clipped(name)}', got '{_listed(header)}'"
            raise DataError(where, rule, nearest(name, list(header)))
        return name
    found = [name for name in header if name in COMMON[option]]
    found = [name for name in found if usable is None or name in usable]
    if len(found) > 1:
        raise _error(option, header, where)
    return found[0] if found else None


def filled(cell: str, where: object, what: str = "label") -> str:
    """Return the label in a cell, or whatever it holds, or raise DataError for an empty one."""
    if text := cell.strip():
        return text
    noun = "a class" if what == "label" else "a name"
    hint = "fill it in, or remove the line"
    raise DataError(where, f"{what} must be {noun}, got an empty cell", hint)


def part_named(cell: str, where: object) -> str:
    """Return the part that a cell names, or raise DataError."""
    part = PART_NAMES.get(cell.strip().lower())
    if part is None:
        rule = f"split must be train, val or test, got '{clipped(cell)}'"
        raise DataError(where, rule, nearest(cell, PARTS))
    return part


def _error(option: str, header: Sequence[str], where: object) -> DataError:
    names = COMMON[option]
    which = (
        f"one of the columns {', '.join(names)}" if len(names) > 1 else f"one column '{names[0]}'"
    )
    rule = f"header must have {which}, got '{_listed(header)}'"
    # A table of one column whose name holds a separator was written with that separator.
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        return DataError(where, rule, "separate the columns by commas")
    return DataError(where, rule, f"say which it is with --{option.replace('_', '-')}")


def _listed(header: Sequence[str]) -> str:
    return clipped(",".join(header), 200)
