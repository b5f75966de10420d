"""Images in folders: one sub-folder per class, or ``train`` and ``test`` with such sub-folders.

The folder may be messy or hostile. No link is followed, so nothing is read twice, nothing outside
is reached and no loop exists. Each file left out is listed with a reason, and is either harmless (a
text file among images) or bad (an image that will be missed).
"""

import os
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ltcli.core.errors import DataError, cause
from ltcli.core.text import printable
from ltcli.data.data_files import is_image, left_out
from ltcli.data.listed import Left, Listed, Rows
from ltcli.data.source_table import Request

# Deeper trees are a mistake, and a hostile one could be endless.
MAX_DEPTH = 16
VALIDATION_NAMES = {"val", "valid", "validation", "dev"}
PART_NAMES = {"train", "training", "test", "testing"} | VALIDATION_NAMES


@dataclass(frozen=True)
class Listing:
    """The content of a folder, in lists that grow.

    Attributes:
        found: Names of class folders, or paths of images relative to the root with ``/``; sorted.
        harmless: Entries left out without loss.
        bad: Entries left out that may be missed.
    """

    found: list[str] = field(default_factory=list)
    harmless: list[Left] = field(default_factory=list)
    bad: list[Left] = field(default_factory=list)

    def found_in(self, other: "Listing") -> list[str]:
        """Return the entries that another listing found, and take over those it left out."""
        self.harmless.extend(other.harmless)
        self.bad.extend(other.bad)
        return other.found


def read(request: Request) -> Listed:
    """Return the images of a folder, ordered by class and path.

    Classes are the sub-folders of the root, sorted by name; or, if it has no others, the
    sub-folders of ``train`` and, where there is one, of ``test``.

    Raises:
        DataError: The folder is not of this form, or a class is empty.
    """
    root, skip = request.root, request.on_bad_image == "skip"
    seen = Listing()
    parts = _parts(root, seen)
    classes = {part: _classes(root, part, seen) for part in parts}
    names = classes[parts[0]]
    for part in parts[1:]:
        _check_same_classes(root, names, classes[part])
    rows = {}
    for part in parts:
        by_class = [_images(root, _join(part, name), seen, skip) for name in names]
        labels = np.repeat(np.arange(len(names)), [len(files) for files in by_class])
        rows[part or "train"] = Rows([file for files in by_class for file in files], labels)
    return Listed(tuple(names), rows, tuple(seen.harmless), tuple(seen.bad))


def _parts(root: Path, seen: Listing) -> tuple[str, ...]:
    """Return the folders that hold classes: the root itself, written '', or train and test."""
    listing = list_folders(root, "")
    # Case is folded to refuse Train and TEST by name, rather than to take them for classes.
    folded = {name.casefold() for name in listing.found}
    if not folded or not folded <= PART_NAMES:
        return ("",)
    if folded & VALIDATION_NAMES:
        name = next(name for name in listing.found if name.casefold() in VALIDATION_NAMES)
        rule = "folders must be train and test, got a validation folder too"
        hint = "ltcli cuts its own validation set; move its images into train, or remove it"
        raise DataError(root / name, rule, hint)
    if listing.found not in (["train"], ["test", "train"]):
        got = " and ".join(f"'{name}'" for name in listing.found)
        hint = "rename them, or give the folder that holds the classes as --root"
        raise DataError(root, f"folders must be named train and test, got {got}", hint)
    return ("train", "test") if "test" in seen.found_in(listing) else ("train",)


def _classes(root: Path, part: str, seen: Listing) -> list[str]:
    names = seen.found_in(list_folders(root, part))
    if len(names) < 2:
        rule = f"number of class folders must be at least 2, got {len(names)}"
        hint = "the images of each class must be in a sub-folder of their own"
        raise DataError(root / part, rule, hint)
    folded: dict[str, str] = {}
    for name in names:
        # macOS and Windows take such names for one and the same folder.
        other = folded.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            rule = f"class names must differ in more than case, got '{other}' and '{name}'"
            raise DataError(root / part, rule, "merge or rename the folders")
    return names


def _check_same_classes(root: Path, names: list[str], test_names: list[str]) -> None:
    for here, there, part in ((test_names, names, "test"), (names, test_names, "train")):
        if only := [name for name in here if name not in there]:
            rule = f"classes must be the same in train and test, got '{only[0]}' in {part} only"
            raise DataError(root / part / only[0], rule, "add or remove the folder")


def _images(root: Path, folder: str, seen: Listing, skip: bool) -> list[str]:
    """Return the image paths of a class folder."""
    listing = list_images(root, folder)
    # Unless bad files are skipped, a class that has nothing else is reported by the first of them.
    if not listing.found and (not listing.bad or skip):
        left = listing.bad + listing.harmless
        hint = f"of {len(left)} other files, {left[0]}" if left else "add images or remove it"
        raise DataError(root / folder, "class must have at least 1 image, got 0", hint)
    return seen.found_in(listing)


def list_folders(root: Path, folder: str) -> Listing:
    """Return the names of the sub-folders that are classes or parts; the root itself is ''.

    Loose files are harmless; a link to a folder and a name that cannot be printed are bad, as a
    whole class would be lost.
    """
    listing = Listing()
    for entry in _entries(root / folder):
        path = _join(folder, entry.name)
        reason = left_out(entry.name)
        if reason is not None:
            listing.harmless.append(Left(path, reason))
        elif entry.is_symlink() and os.path.isdir(entry.path):
            listing.bad.append(Left(path, "is a link to a folder, and links are not followed"))
        elif not entry.is_dir(follow_symlinks=False):
            listing.harmless.append(Left(path, "is not in a class folder"))
        elif _is_artifacts(entry.path):
            listing.harmless.append(Left(path, "holds artifacts and no images"))
        elif not entry.name.isprintable():
            listing.bad.append(Left(path, "is a class name that cannot be printed"))
        else:
            listing.found.append(entry.name)
    return listing


def _is_artifacts(folder: str) -> bool:
    """Return whether a folder holds artifacts, which people write beside the images."""
    ours = False
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            # The first entry of a class is mostly an image, so a class costs no long search.
            if entry.is_dir() or is_image(entry.name):
                return False
            ours = ours or entry.name.endswith((".safetensors", ".safetensors.lock"))
        return ours
    return False


def list_images(root: Path, folder: str) -> Listing:
    """Return the paths of the images in a folder and below, relative to the root.

    Of several hard links to one file, only the first by name is an image.
    """
    images: dict[str, tuple[int, int]] = {}
    listing = Listing()
    # A list instead of recursion, whose depth Python limits.
    pending = [(folder, 0)]
    while pending:
        parent, depth = pending.pop()
        try:
            entries = _entries(root / parent)
        except OSError as error:
            listing.bad.append(Left(parent, f"cannot be listed: {cause(error)}"))
            continue
        for entry in entries:
            path = _join(parent, entry.name)
            reason = _harmless(entry)
            if reason is not None:
                listing.harmless.append(Left(path, reason))
            elif not _is_utf8(entry.name):
                listing.bad.append(Left(path, "has a name that is not UTF-8"))
            elif not entry.is_dir(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                images[path] = (status.st_dev, status.st_ino)
            elif depth == MAX_DEPTH:
                listing.bad.append(Left(path, f"is more than {MAX_DEPTH} folders below its class"))
            else:
                pending.append((path, depth + 1))
    # Hard links have one inode; two training images that are one file would count twice.
    first: dict[tuple[int, int], str] = {}
    for path in sorted(images):
        same = first.setdefault(images[path], path)
        if same != path:
            listing.harmless.append(Left(path, f"is the same file as {printable(same)}"))
    listing.found.extend(first.values())
    return listing


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    # Sorted, as file systems list names in any order, and the split must not depend on it.
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
    # The split stores paths as UTF-8; other names are read as lone surrogates.
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)
