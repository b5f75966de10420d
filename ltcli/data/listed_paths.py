"""Paths of images as tables and lists write them, brought to one form below the root."""

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from ltcli.core.errors import DataError
from ltcli.core.files import is_file_name
from ltcli.core.text import nfc, printable
from ltcli.data.formats import SUFFIXES
from ltcli.data.source_table import SOURCES, Request

# Of a longer path, only the last names are looked for.
_MAX_NAMES = 16
# Where no image is there, a search for each of many folders finds none either.
_MAX_SEARCHES = 20


@dataclass(frozen=True)
class Entries:
    """The images of one part as a file lists them.

    Attributes:
        file: The table or list.
        paths: Path of each image, as it is written.
        labels: Class of each image, as it is written.
        lines: Line of each image in the file; empty where it has no lines.
        groups: Group of each image, as it is written; empty where the file names none.
    """

    file: Path
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def place(self, row: int) -> str:
        """Return the file and the line of an image, for errors."""
        return f"{self.file}:{self.lines[row]}" if self.lines else str(self.file)


def sound_paths(parts: Mapping[str, Entries], request: Request) -> dict[str, list[str]]:
    """Return the paths of each part, relative to the root, in their shortest form.

    Absolute paths below the root become relative, and the suffix of the request is added to paths
    without it.

    Raises:
        DataError: A path leads out of the root, cannot be a name, or occurs twice; or the first
            path of a folder names no file, and another spelling of it does.
    """
    sound: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    roots = [os.path.abspath(request.root), os.path.realpath(request.root)]
    prefixes = tuple(f"{root.rstrip('/')}/" for root in roots)
    suffix = request.options.get("suffix", "")
    searches = _MAX_SEARCHES
    for part, entries in parts.items():
        sound[part] = []
        folders: set[str] = set()
        for row, written in enumerate(entries.paths):
            path = _relative(written, prefixes)
            if path is None:
                raise _error(entries, row, written, request)
            if suffix and not path.endswith(suffix):
                path += suffix
            # Two spellings of one path are one image: a test image must not hide in training.
            if path in seen:
                both = f"in {seen[path]} and in {part}"
                places = f"twice in {part}" if seen[path] == part else both
                rule = f"each path must be listed once, got '{printable(path)}' {places}"
                raise DataError(entries.place(row), rule, "remove one of the two")
            seen[path] = part
            sound[part].append(path)
            folder = path.rpartition("\\" if "\\" in path else "/")[0]
            # A fault in the spelling of paths shows in each folder's first path.
            if folder not in folders:
                folders.add(folder)
                if searches and not os.path.lexists(os.path.join(request.root, path)):
                    searches -= 1
                    if _spelled(path, request.root) is not None:
                        raise _error(entries, row, path, request)
    return sound


def _relative(path: str, prefixes: tuple[str, ...]) -> str | None:
    """Return a path relative to the root in its shortest form, or None where it leads elsewhere."""
    if not is_file_name(path):
        return None
    short = posixpath.normpath(path)
    if short[0] == "/":
        inside = next((prefix for prefix in prefixes if short.startswith(prefix)), None)
        if inside is None:
            return None
        short = short[len(inside) :]
    return None if short in (".", "..") or short.startswith("../") else short


def _error(entries: Entries, row: int, path: str, request: Request) -> DataError:
    """Return the error of a path that names no file, with the path that it would have to be."""
    rule = f"paths must lead to a file below the root, got '{printable(entries.paths[row])}'"
    found, hint = _spelled(path, request.root), None
    if found is not None and nfc(found) == nfc(path):
        hint = "the file's name is in another form of Unicode; write it as the file has it"
    elif found is not None and found.startswith(path) and _takes_suffix(request):
        hint = f"--suffix {found.removeprefix(path)} makes it '{printable(found)}'"
    elif found is not None:
        hint = f"write '{printable(found)}', relative to {request.root}"
    return DataError(entries.place(row), rule, hint)


def _takes_suffix(request: Request) -> bool:
    return "suffix" in SOURCES[request.source].options and "suffix" not in request.options


def _spelled(path: str, root: Path) -> str | None:
    """Return the file that a path was meant to name, relative to the root, or None.

    The path may hold backslashes or folders above the root, lack the suffix, or be in another form
    of Unicode.
    """
    if not is_file_name(path):
        return None
    names = [name for name in path.replace("\\", "/").split("/") if name not in ("", ".", "..")]
    names = names[-_MAX_NAMES:]
    # From a folder that is there, a file is lost; it is not another one of the same name.
    there = "/".join(names) == path and os.path.isdir(os.path.dirname(root / path))
    tails = ["/".join(names[start:]) for start in range(1 if there else len(names))]
    forms = [normalize(form, tail) for tail in tails for form in ("NFC", "NFD")]
    suffixes = [f".{suffix}" for suffix in SUFFIXES]
    endings = ["", *suffixes, *map(str.upper, suffixes)]
    candidates = (f"{tail}{ending}" for ending in endings for tail in [*tails, *forms])
    return next((file for file in candidates if os.path.isfile(root / file)), None)
