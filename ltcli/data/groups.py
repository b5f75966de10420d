"""Images that belong together: those of one animal, patient, plate, trajectory or burst."""

import re
from collections.abc import Mapping

import numpy as np

from ltcli.core.errors import DataError
from ltcli.core.text import printable
from ltcli.data.class_names import Labels
from ltcli.data.pool import Part


def numbered(parts: Mapping[str, Part], pattern: str | None, where: object) -> dict[str, Labels]:
    """Return the group of each image, from 0, int64 [N] of each part; nothing where there are none.

    Args:
        parts: Parts that the source has.
        pattern: Regular expression that finds the name of the group in the path of an image: its
            parentheses, or all that it matches where it has none. None takes the names of groups
            that the source read.
        where: What an error names.

    Raises:
        DataError: The images have no paths, or the pattern is not found in one of them.
    """
    if pattern is None:
        names = {part: list(images.groups) for part, images in parts.items() if images.groups}
    else:
        names = {part: _found(pattern, images, where) for part, images in parts.items()}
    ranks: dict[str, int] = {}
    return {
        part: np.array([ranks.setdefault(name, len(ranks)) for name in of], np.int64)
        for part, of in names.items()
    }


def _found(pattern: str, images: Part, where: object) -> list[str]:
    if len(images.files) != len(images.labels):
        raise DataError(where, "images must have paths for --group-by", "leave the option out")
    search, groups = re.compile(pattern).search, []
    for file in images.files:
        match = search(file)
        if match is None:
            rule = f"--group-by must match every path, got '{printable(file)}'"
            raise DataError(where, rule, "add an alternative for such paths, as in 'A|B'")
        groups.append("\0".join(part or "" for part in match.groups()) or match[0])
    return groups
