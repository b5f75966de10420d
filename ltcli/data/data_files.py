"""The files of a data set: recognised by their names, downloaded, and hashed to notice changes."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ltcli.core.errors import DataError, ResourceError, cause, disk_full
from ltcli.data.source_table import SOURCES, files_of

# Formats that are decoded, by all suffixes in use; the content of a file decides in the end.
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
    """Return the files of each part of a data set in a few large files, in the order of paths.

    The root is a file, which is the training part; or a folder, searched with all folders below,
    whose files start with ``train``, ``validation``, ``val`` or ``test``.

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
    """Return the files below a folder that have one of some suffixes, in the order of paths."""
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix in suffixes
        and path.is_file()
        and not path.is_symlink()
        and not any(map(left_out, path.relative_to(root).parts))
    ]


def fingerprint(name: str, root: Path, named: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of a data set by its role; missing files add nothing.

    It covers the content of the files that list or hold the samples; for images that nothing lists,
    the name and size of each. Published sets of one fixed form have none.

    Raises:
        DataError: A file cannot be read.
    """
    source = SOURCES[name]
    if source.of_files and source.forms == ({},):
        # Reading a million images to hash them would take longer than the split.
        return {"folder": _digest(_names_and_sizes(root))}
    files = files_of(name, root, named)
    if not files and not source.suffixes:
        return {}
    if source.suffixes:
        shards = list_shards(root, source.suffixes) if root.is_dir() else [root]
        files |= {path.relative_to(root).as_posix(): path for path in shards}
    contents = [f"{role}\0{_content(path)}" for role, path in files.items() if path.is_file()]
    # With the role, as a training list and a test list that swap places are another data set.
    return {"data": _digest(contents)}


@contextmanager
def downloading(root: Path) -> Iterator[None]:
    """Turn failures of torchvision's download into a folder into a DataError or ResourceError."""
    # Here, as the command line loads this file for its names alone.
    from http.client import HTTPException

    try:
        yield
    except (OSError, RuntimeError, HTTPException) as error:
        # torchvision's messages have several lines, one per mirror.
        rule = f"download failed: {' '.join(str(error).split()).removesuffix('.')}"
        if disk_full(error):
            raise ResourceError(root, rule, "free some space") from error
        hint = "check the network and try again, or put the files there by other means"
        raise DataError(root, rule, hint) from error


def _names_and_sizes(root: Path) -> list[str]:
    lines = []
    for folder, folders, files in os.walk(root):
        # In place, so that the walk skips the others.
        folders[:] = [name for name in folders if left_out(name) is None]
        for name in files:
            path = os.path.join(folder, name)
            seen = is_image(name) and left_out(name) is None
            if seen and os.path.isfile(path) and not os.path.islink(path):
                lines.append(f"{os.path.relpath(path, root)}\0{os.path.getsize(path)}")
    return lines


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(path, f"cannot be read: {cause(error)}") from None


def _digest(lines: list[str]) -> str:
    # Sorted, as file systems list names in any order; names may be no UTF-8.
    text = "\n".join(sorted(lines)).encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()
