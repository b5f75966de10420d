"""Image files with their classes, as a list or a folder names them; no image is read yet."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ltcli.core.errors import DataError
from ltcli.core.text import printable
from ltcli.data.scan import Left
from ltcli.data.source_table import Counts

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """The images of one part: paths relative to the root with ``/``, and classes, int64 [N]."""

    files: list[str]
    labels: Labels


@dataclass(frozen=True)
class Listed:
    """The images of a data set.

    Args:
        class_names: Name of each class, in label order.
        parts: ``train``, and ``val`` and ``test`` where the data set has them.
        harmless: What was left out without loss.
        bad: What was left out, but may be missed.
    """

    class_names: tuple[str, ...]
    parts: Mapping[str, Rows]
    harmless: tuple[Left, ...] = ()
    bad: tuple[Left, ...] = ()


def number_classes(
    labels: Mapping[str, Sequence[str]], class_names: Sequence[str] | None, where: object
) -> tuple[tuple[str, ...], dict[str, Labels]]:
    """Number the classes of a data set from 0.

    Args:
        labels: Class of each sample of a part, as text.
        class_names: Names of the classes 0 ... C-1, where labels are these numbers. None where the
            classes are the different labels of the training samples: by value if all are whole
            numbers, else by text.
        where: For the message.

    Returns:
        The class names, and int64 [N] of each part.

    Raises:
        DataError: A label is none of the classes, or one number is written in two ways.
    """
    if class_names is None:
        names = tuple(sorted(set(labels["train"])))
        if all(map(_is_whole, names)):
            names = tuple(sorted(names, key=int))
            for one, other in pairwise(names):
                if int(one) == int(other):
                    rule = (
                        f"each class number must be written in one way, got '{one}' and '{other}'"
                    )
                    raise DataError(where, rule)
        ranks = {name: rank for rank, name in enumerate(names)}
    else:
        names = tuple(class_names)
        ranks = {str(rank): rank for rank in range(len(names))}
    numbered = {}
    for part, texts in labels.items():
        try:
            numbered[part] = np.array([ranks[text] for text in texts], np.int64)
        except KeyError as error:
            label = printable(str(error.args[0]))
            if class_names is None:
                rule = f"class '{label}' must have at least 1 training image, got 0"
                raise DataError(where, rule, f"it stands in the {part} part") from None
            rule = f"labels must be from 0 to {len(names) - 1} as there are class names, got"
            raise DataError(where, f"{rule} '{label}'") from None
    return names, numbered


def _is_whole(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 18


def sound_paths(parts: Mapping[str, Sequence[str]], where: object) -> dict[str, list[str]]:
    """Return paths in their shortest form, and refuse those that no list should hold.

    Args:
        parts: The paths of each part, relative to the root, with ``/``.
        where: The list, for the message.

    Raises:
        DataError: A path is absolute, leads out of the root, cannot be written, or stands twice.
    """
    sound: dict[str, list[str]] = {}
    for part, paths in parts.items():
        plain = _are_plain(paths)
        sound[part] = list(paths) if plain else [_shortest(path, where) for path in paths]
        once = set(sound[part])
        if len(once) < len(paths):
            ordered = sorted(sound[part])
            twice = next(a for a, b in pairwise(ordered) if a == b)
            _refuse_repeated(where, twice, f"twice in {part}")
        for other in list(sound)[:-1]:
            if both := once.intersection(sound[other]):
                _refuse_repeated(where, min(both), f"in {other} and in {part}")
    return sound


def _are_plain(paths: Sequence[str]) -> bool:
    """Return whether ``_shortest`` would change or refuse none, looked at all at once."""
    text = "\n".join(["", *paths, ""])
    odd = ("//", "/.", "\n.", "\n/", "/\n", "\n\n")
    return not any(mark in text for mark in odd) and _is_name(text)


def _shortest(path: str, where: object) -> str:
    short = posixpath.normpath(path)
    if short in (".", "..") or short.startswith(("/", "../")) or not _is_name(path):
        rule = f"paths must lead to a file below the root, got '{printable(path)}'"
        raise DataError(where, rule)
    return short


def _is_name(path: str) -> bool:
    """Return whether a file can have such a name: it is UTF-8 and holds no NUL."""
    try:
        return b"\0" not in path.encode()
    except UnicodeEncodeError:
        return False


def _refuse_repeated(where: object, path: str, places: str) -> None:
    rule = f"each path must be listed once, got '{printable(path)}' {places}"
    raise DataError(where, rule, "remove one of the two")


def check_counts(listed: Listed, counts: Counts, where: object) -> None:
    """Refuse a published data set that has not the published number of classes or images.

    Raises:
        DataError: A number differs.
    """
    sizes = {part: len(rows.files) for part, rows in listed.parts.items()}
    expected = {
        "classes": (len(listed.class_names), counts.classes),
        "training images": (sizes["train"], counts.train),
        "validation images": (sizes.get("val", 0), counts.val or 0),
        "test images": (sizes.get("test", 0), counts.test),
    }
    for what, (got, wanted) in expected.items():
        if got != wanted:
            rule = f"number of {what} must be {wanted}, got {got}"
            raise DataError(where, rule, "take the published files, or a part with --partial")
