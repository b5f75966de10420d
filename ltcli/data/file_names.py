"""Which files belong to a data set, and to which part of it, by their names."""

import os
import re
from pathlib import Path

from ltcli.core.errors import DataError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm"),
)
JUNK = ("__macosx", "thumbs.db", "desktop.ini")
_PART = re.compile(r"(train|validation|val|test)(?![A-Za-z0-9])")


def is_image(name: str) -> bool:
    """Return whether a file of this name counts as an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def left_out(name: str) -> str | None:
    """Return why a file or folder of this name belongs to no data set, or None."""
    if name.startswith("."):
        return "is hidden"
    return "is left by an operating system" if name.lower() in JUNK else None


def find_shards(root: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Return the files of each part, for data sets in a few large files.

    Args:
        root: A file, which is the training part; or a folder, searched with all folders below,
            whose files start with ``train``, ``validation``, ``val`` or ``test``.
        suffixes: Suffixes of the files to take, with the dot.

    Returns:
        ``train``, and ``val`` and ``test`` where there are files of them, in the order of paths.

    Raises:
        DataError: There is no such file or folder, no training file, or a name that says no part.
    """
    if root.is_file():
        if root.suffix not in suffixes:
            raise DataError(root, f"suffix must be one of {', '.join(suffixes)}")
        return {"train": [root]}
    if not root.is_dir():
        raise DataError(root, "no such file or folder", "name the data set with --root")
    shards: dict[str, list[Path]] = {}
    for path in list_shards(root, suffixes):
        match = _PART.match(path.name)
        if match is None:
            rule = "file name must start with train, validation, val or test"
            raise DataError(path, rule, "rename the file")
        # Hugging Face writes validation, everything here says val.
        part = "val" if match[1] == "validation" else match[1]
        shards.setdefault(part, []).append(path)
    if "train" not in shards:
        wanted = " or ".join(f"train*{suffix}" for suffix in suffixes)
        raise DataError(root, f"must hold a file {wanted}, got none")
    return shards


def list_shards(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files below a folder that have one of some suffixes, in the order of paths.

    Links, hidden files and what an operating system leaves are passed over.
    """
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix in suffixes
        and path.is_file()
        and not path.is_symlink()
        and not any(map(left_out, path.relative_to(root).parts))
    ]
