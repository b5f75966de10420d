"""The files below some folders: links are followed, and each file and folder is met once."""

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ltcli.core.errors import cause
from ltcli.core.text import printable

# Deeper trees are a mistake, and a hostile one could be endless.
MAX_DEPTH = 16
_JUNK = ("__macosx", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Left:
    """A file or folder left out: its path relative to the root, and the reason, half a sentence."""

    path: str
    reason: str

    def __str__(self) -> str:
        """Return ``path: reason`` on one line, whatever the path holds."""
        return f"{printable(self.path) or '.'}: {self.reason}"


@dataclass(frozen=True)
class Found:
    """The files below some folders, in lists that grow.

    Attributes:
        files: Bytes of each file by its path relative to the root, with ``/``; by folder.
        harmless: Entries left out without loss.
        bad: Entries left out that may be missed.
    """

    files: dict[str, dict[str, int]]
    harmless: list[Left] = field(default_factory=list)
    bad: list[Left] = field(default_factory=list)


class _Place(NamedTuple):
    """A path, its depth below the folder that the walk began with, and that; None above all."""

    path: str
    depth: int
    top: str | None


def left_out(name: str) -> str | None:
    """Return why a file or folder of this name belongs to no data set, or None."""
    if name.startswith("."):
        return "is hidden"
    return "is left by an operating system" if name.lower() in _JUNK else None


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder, of which '' is the root."""
    return f"{folder}/{name}" if folder else name


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the content of a folder by name, as file systems list it in any order."""
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)


def walk(
    root: Path, folders: Iterable[str], unwanted: Callable[[str], str | None], *, once: bool = True
) -> Found:
    """Return the regular files below some folders, but those that ``unwanted`` has a reason for.

    Of several names of one file or folder, by hard or symbolic links, the first by path counts that
    is no symbolic link. The others are harmless, and bad below another of the folders.

    Args:
        root: Folder that all paths start from.
        folders: Paths of folders, none within another; '' is the root.
        unwanted: Function from the name of a file to the reason to leave it out, or None.
        once: Whether one name of a file counts, or all do.
    """
    steps = _Walk(root, unwanted, once, Found({folder: {} for folder in folders}))
    steps.enter_above()
    places = [_Place(top, 0, top) for top in steps.found.files]
    linked = [place for place in places if os.path.islink(root / place.path)]
    # Real names first, so that no link takes the place of what it leads to.
    linked += steps.look([place for place in places if place not in linked])
    while linked:
        linked = steps.look(sorted(linked))
    return steps.found


@dataclass(frozen=True)
class _Walk:
    """Everything met so far, by device and inode, which several names of one file share."""

    root: Path
    unwanted: Callable[[str], str | None]
    once: bool
    found: Found
    files: dict[tuple[int, int], _Place] = field(default_factory=dict)
    folders: dict[tuple[int, int], _Place] = field(default_factory=dict)

    def enter_above(self) -> None:
        """Count the folders above those of the walk as met, so that no link leads in a circle."""
        for top in self.found.files:
            while top:
                top = top.rpartition("/")[0]
                status = os.stat(self.root / top)
                self.folders[status.st_dev, status.st_ino] = _Place(top, 0, None)

    def look(self, places: Iterable[_Place]) -> list[_Place]:
        """Take the files at some places and below; return the links found there."""
        links: list[_Place] = []
        files: list[tuple[_Place, os.stat_result]] = []
        # A list instead of recursion, whose depth Python limits.
        pending = list(places)[::-1]
        while pending:
            place = pending.pop()
            try:
                status = os.stat(self.root / place.path)
            except OSError:
                self.found.bad.append(Left(place.path, "is a link that leads nowhere"))
                continue
            if not stat.S_ISDIR(status.st_mode):
                files.append((place, status))
            elif place.depth > MAX_DEPTH:
                rule = f"is more than {MAX_DEPTH} folders below its class"
                self.found.bad.append(Left(place.path, rule))
            elif self._is_new(place, status, self.folders, "is the same folder as"):
                self._enter(place, pending, links, files)
        for place, status in sorted(files):
            if not stat.S_ISREG(status.st_mode):
                self.found.harmless.append(Left(place.path, "is a pipe, socket or device"))
            elif not self.once or self._is_new(place, status, self.files, "is the same file as"):
                assert place.top is not None
                self.found.files[place.top][place.path] = status.st_size
        return links

    def _enter(
        self,
        folder: _Place,
        pending: list[_Place],
        links: list[_Place],
        files: list[tuple[_Place, os.stat_result]],
    ) -> None:
        """Add what a folder holds to the lists of folders to enter, links and files."""
        try:
            inside = entries(self.root / folder.path)
        except OSError as error:
            self.found.bad.append(Left(folder.path, f"cannot be listed: {cause(error)}"))
            return
        for entry in inside:
            place = _Place(join(folder.path, entry.name), folder.depth + 1, folder.top)
            is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
            reason = left_out(entry.name) or (None if is_folder else self.unwanted(entry.name))
            if reason is not None:
                self.found.harmless.append(Left(place.path, reason))
            elif not _is_utf8(entry.name):
                self.found.bad.append(Left(place.path, "has a name that is not UTF-8"))
            elif entry.is_symlink():
                links.append(place)
            elif is_folder:
                pending.append(place)
            else:
                files.append((place, entry.stat(follow_symlinks=False)))

    def _is_new(
        self, place: _Place, status: os.stat_result, met: dict[tuple[int, int], _Place], rule: str
    ) -> bool:
        """Return whether a file or folder is met for the first time, or leave it out."""
        first = met.setdefault((status.st_dev, status.st_ino), place)
        if first is place:
            return True
        # Below another class or part, the image would have two labels, or be trained and tested on.
        into = self.found.harmless if first.top in (place.top, None) else self.found.bad
        into.append(Left(place.path, f"{rule} {printable(first.path) or '.'}"))
        return False


def _is_utf8(name: str) -> bool:
    # The split stores paths as UTF-8; other names are read as lone surrogates.
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)
