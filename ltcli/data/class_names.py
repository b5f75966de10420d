"""Names and numbers of classes: from labels as text to the classes 0..C-1 that have images.

Every source follows one rule. A class without test or validation images is taken, a class that has
them but no training image is refused, and a declared class without any image is left out.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ltcli.core.errors import DataError
from ltcli.core.files import read_text
from ltcli.core.text import first_few, is_whole, nfc, plain_names, plural, printable

Labels = NDArray[np.int64]

logger = logging.getLogger(__name__)


def read_names(path: Path | None) -> list[str] | None:
    """Return the class names of a file, one a line from class 0 on, or None for no file."""
    if path is None:
        return None
    names = [nfc(line.strip()) for line in read_text(path, DataError).rstrip().split("\n")]
    if "" in names:
        where = f"{path}:{names.index('') + 1}"
        raise DataError(where, "must be a class name, got an empty line")
    return names


def number_classes(
    labels: Mapping[str, Sequence[str]], class_names: Sequence[str] | None, where: object
) -> tuple[tuple[str, ...], dict[str, Labels]]:
    """Return the class names, and the class of each sample from 0, int64 [N] of each part.

    Where names of the classes 0 ... C-1 are given, labels are these numbers as text. Otherwise the
    classes are the different labels: by value if all are whole numbers, else by text.

    Raises:
        DataError: A label is none of the classes, one number is written in two ways, or a class
            has no training sample.
    """
    plain = plain_names(chain(*labels.values()))
    if "" in plain:
        row, part = min(
            (list(texts).index(""), part) for part, texts in labels.items() if "" in texts
        )
        rule = f"labels must be classes, got an empty one in row {row} of the {part} part"
        raise DataError(where, rule, "fill it in, or leave the row out")
    if class_names is None:
        names = sorted(set(plain.values()))
        # As text, class 10 would come before class 9.
        if all(map(is_whole, names)):
            names = sorted(names, key=int)
            for one, other in pairwise(names):
                if int(one) == int(other):
                    rule = "each class number must be written in one way"
                    raise DataError(where, f"{rule}, got '{one}' and '{other}'")
        ranks = {name: rank for rank, name in enumerate(names)}
    else:
        names = list(class_names)
        ranks = {str(rank): rank for rank in range(len(names))}
        for name in plain.values():
            if name not in ranks:
                rule = f"labels must be from 0 to {len(names) - 1} as there are class names, got"
                raise DataError(where, f"{rule} '{printable(name)}'")
    # Few texts differ, so each is looked up by one step.
    ranks = {text: ranks[name] for text, name in plain.items()}
    numbered = {
        part: np.array([ranks[text] for text in texts], np.int64) for part, texts in labels.items()
    }
    return used_classes(names, numbered, where)


def used_classes(
    names: Sequence[str], labels: Mapping[str, Labels], where: object
) -> tuple[tuple[str, ...], dict[str, Labels]]:
    """Return the classes that have images, and the labels int64 [N] of each part numbered anew.

    Raises:
        DataError: A class has validation or test images, and no training image.
    """
    counts = {part: np.bincount(rows, minlength=len(names)) for part, rows in labels.items()}
    used = counts["train"] > 0
    for part, found in counts.items():
        for label in np.flatnonzero((found > 0) & ~used)[:1]:
            rule = f"class '{printable(names[label])}' must have at least 1 training image, got 0"
            raise DataError(where, rule, f"it stands in the {part} part")
    warn_of_unused([name for name, there in zip(names, used, strict=True) if not there], where)
    ranks = np.cumsum(used) - 1
    kept = tuple(name for name, there in zip(names, used, strict=True) if there)
    return kept, {part: ranks[rows] for part, rows in labels.items()}


def warn_of_unused(names: Sequence[str], where: object) -> None:
    """Name the classes that a data set declares without having images of them."""
    if names:
        classes = f"{plural(len(names), 'class')} without images left out"
        shown = first_few([f"'{printable(name)}'" for name in names])
        logger.warning("%s: %s: %s", where, classes, shown)
