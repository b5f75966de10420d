"""Walk a folder of images that may be messy or hostile, and read its files without surprises.

No link is followed, so nothing is seen twice, nothing outside is reached and no loop exists; and
only regular files are opened, so no pipe or device is waited for. What is left out is listed with
a reason, and is either harmless (a text file among images) or bad (an image that will be missed).
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ltcli.core.errors import cause
from ltcli.core.text import printable
from ltcli.data.decode import BadImageError
from ltcli.data.names import is_image, left_out

MAX_DEPTH = 16
MAX_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Left:
    """Something left out: its path relative to the root, and why, as half a sentence."""

    path: str
    reason: str

    def __str__(self) -> str:
        """Return ``path: reason`` on one line, whatever the path holds."""
        return f"{printable(self.path) or '.'}: {self.reason}"


@dataclass(frozen=True)
class Listing:
    """What was found in a folder.

    Args:
        found: Names of class folders, or paths of images relative to the root with ``/``; sorted.
        harmless: What was left out without loss.
        bad: What was left out, but may be missed.
    """

    found: tuple[str, ...]
    harmless: tuple[Left, ...]
    bad: tuple[Left, ...]


def list_folders(root: Path, folder: str) -> Listing:
    """List the sub-folders that are classes, or parts, by name.

    Args:
        root: The data set.
        folder: Path relative to the root, empty for the root itself.

    Returns:
        The names; loose files are harmless, a link to a folder and a name that cannot be printed
        are bad, as a whole class would be lost.

    Raises:
        OSError: The folder cannot be listed.
    """
    names: list[str] = []
    harmless: list[Left] = []
    bad: list[Left] = []
    for entry in _entries(root / folder):
        path = _join(folder, entry.name)
        reason = left_out(entry.name)
        if reason is not None:
            harmless.append(Left(path, reason))
        elif entry.is_symlink() and os.path.isdir(entry.path):
            bad.append(Left(path, "is a link to a folder, and links are not followed"))
        elif not entry.is_dir(follow_symlinks=False):
            harmless.append(Left(path, "is not in a class folder"))
        elif _is_artifacts(entry.path):
            harmless.append(Left(path, "holds artifacts and no images"))
        elif not entry.name.isprintable():
            bad.append(Left(path, "is a class name that cannot be printed"))
        else:
            names.append(entry.name)
    return Listing(tuple(names), tuple(harmless), tuple(bad))


def _is_artifacts(folder: str) -> bool:
    """Return whether a folder is one of artifacts, as where they are written beside the images."""
    ours = False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # Of a class, mostly the first one.
                if entry.is_dir() or is_image(entry.name):
                    return False
                ours = ours or entry.name.endswith((".safetensors", ".safetensors.lock"))
    except OSError:
        return False
    return ours


def list_images(root: Path, folder: str) -> Listing:
    """List the image files of one class, in its folder and in all folders below.

    Args:
        root: The data set.
        folder: Path of the class folder, relative to the root.

    Returns:
        The paths; of several hard links to one file, the first by name.
    """
    images: dict[str, tuple[int, int]] = {}
    harmless: list[Left] = []
    bad: list[Left] = []
    pending = [(folder, 0)]
    while pending:
        parent, depth = pending.pop()
        try:
            entries = _entries(root / parent)
        except OSError as error:
            bad.append(Left(parent, f"cannot be listed: {cause(error)}"))
            continue
        for entry in entries:
            path = _join(parent, entry.name)
            reason = _harmless(entry)
            if reason is not None:
                harmless.append(Left(path, reason))
            elif not _is_utf8(entry.name):
                bad.append(Left(path, "has a name that is not UTF-8"))
            elif entry.is_dir(follow_symlinks=False):
                if depth == MAX_DEPTH:
                    bad.append(Left(path, f"is more than {MAX_DEPTH} folders below its class"))
                else:
                    pending.append((path, depth + 1))
            else:
                status = entry.stat(follow_symlinks=False)
                images[path] = (status.st_dev, status.st_ino)
    first: dict[tuple[int, int], str] = {}
    for path in sorted(images):
        same = first.setdefault(images[path], path)
        if same != path:
            harmless.append(Left(path, f"is the same file as {printable(same)}"))
    return Listing(tuple(sorted(first.values())), tuple(harmless), tuple(bad))


def file_size(path: str) -> int:
    """Return the size of a file that ``read_file`` would read, in bytes, without opening it.

    Raises:
        BadImageError: It is missing, empty, too large, a link, or no regular file.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise BadImageError(f"cannot be read: {cause(error)}") from error
    if stat.S_ISLNK(status.st_mode):
        raise BadImageError("is a link, and links are not followed")
    if not stat.S_ISREG(status.st_mode):
        raise BadImageError("is no regular file")
    if status.st_size == 0:
        raise BadImageError("is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise BadImageError(f"is larger than {MAX_FILE_BYTES} bytes")
    return status.st_size


def read_file(path: Path) -> bytes:
    """Read a regular file whole, and refuse anything that has taken its place since the scan.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        BadImageError: It is no regular file, is too large, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadImageError("is no regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise BadImageError(f"is larger than {MAX_FILE_BYTES} bytes")
            with open(descriptor, "rb", closefd=False) as file:
                # A file may grow while it is read; what comes after the limit is not waited for.
                return file.read(MAX_FILE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        # What O_NOFOLLOW says of a link.
        if error.errno == errno.ELOOP:
            raise BadImageError("is a link, and links are not followed") from error
        raise BadImageError(f"cannot be read: {cause(error)}") from error


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _harmless(entry: os.DirEntry[str]) -> str | None:
    """Return why nobody will miss this entry, or None for a folder or an image."""
    reason = left_out(entry.name)
    if reason is not None or entry.is_dir(follow_symlinks=False):
        return reason
    if entry.is_symlink():
        return "is a link, and links are not followed"
    if not entry.is_file(follow_symlinks=False):
        return "is a pipe, socket or device"
    if not is_image(entry.name):
        return "has no image suffix"
    return None


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
