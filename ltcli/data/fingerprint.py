"""SHA-256 of the data set behind a split, so that ``split`` runs again when the data changed."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from ltcli.core.errors import DataError, cause
from ltcli.data.file_names import is_image, left_out, list_shards
from ltcli.data.source_table import SOURCES, files_of


def fingerprint(name: str, root: Path, named: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of a data set by its role; missing files add nothing.

    It covers the content of the files that list or hold the samples; for images that nothing lists,
    the name and size of each. Published sets of one fixed form have none.

    Args:
        name: Name in the table of sources.
        root: Folder or file of the data set.
        named: Files that describe the data set, by parameter.

    Raises:
        DataError: A file cannot be read.
    """
    source = SOURCES[name]
    if source.of_files and source.forms == ({},):
        return {"folder": _digest(_names_and_sizes(root))}
    files = files_of(name, root, named)
    if not files and not source.suffixes:
        return {}
    if source.suffixes:
        shards = list_shards(root, source.suffixes) if root.is_dir() else [root]
        files |= {path.relative_to(root).as_posix(): path for path in shards}
    contents = [f"{role}\0{_content(path)}" for role, path in files.items() if path.is_file()]
    return {"data": _digest(contents)}


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
