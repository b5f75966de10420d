"""Images in folders: one sub-folder per class, or ``train`` and ``test`` with such sub-folders."""

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ltcli.core.errors import DataError
from ltcli.data.listed import Listed, Rows
from ltcli.data.scan import Left, Listing, list_folders, list_images

PARTS_HINT = (
    "rename the folders to train and test, or give the one that holds the classes as --root"
)
VALIDATION_NAMES = {"val", "valid", "validation", "dev"}
PART_NAMES = {"train", "training", "test", "testing"} | VALIDATION_NAMES


@dataclass(frozen=True)
class _Report:
    """Lists that grow: what was left out so far."""

    harmless: list[Left] = field(default_factory=list)
    bad: list[Left] = field(default_factory=list)

    def add(self, listing: Listing) -> tuple[str, ...]:
        """Note what a listing left out and return what it found."""
        self.harmless.extend(listing.harmless)
        self.bad.extend(listing.bad)
        return listing.found


def list_folder(root: Path, on_bad_image: Literal["fail", "skip"]) -> Listed:
    """List a folder of images.

    Links are never followed. Hidden files, files without an image suffix and the like are left out
    and listed.

    Args:
        root: The folder. Classes are its sub-folders, sorted by name; or, if it has no others, the
            sub-folders of ``train`` and, where there is one, of ``test``.
        on_bad_image: With ``fail``, a class of bad files only is left to be reported by the first
            of these.

    Returns:
        The images, ordered by class and path.

    Raises:
        DataError: The folder is missing or not of this form, or a class is empty.
    """
    if not root.exists():
        raise DataError(root, "no such folder", "name the folder of images with --root")
    if not root.is_dir():
        raise DataError(root, "root of a folder source must be a folder, got a file")
    report = _Report()
    parts = _parts(root, report)
    classes = {part: _classes(root, part, report) for part in parts}
    names = classes[parts[0]]
    for part in parts[1:]:
        _check_same_classes(root, names, classes[part])
    rows = {}
    for part in parts:
        by_class = _images(root, part, names, report, on_bad_image)
        labels = np.repeat(np.arange(len(names)), [len(files) for files in by_class])
        rows[part or "train"] = Rows([file for files in by_class for file in files], labels)
    return Listed(names, rows, tuple(report.harmless), tuple(report.bad))


def _parts(root: Path, report: _Report) -> tuple[str, ...]:
    """Return the folders that hold classes: the root itself, written '', or train and test."""
    listing = list_folders(root, "")
    folded = {name.casefold() for name in listing.found}
    if not folded or not folded <= PART_NAMES:
        return ("",)
    if folded & VALIDATION_NAMES:
        name = next(name for name in listing.found if name.casefold() in VALIDATION_NAMES)
        raise DataError(
            root / name,
            "folders must be train and test, got a validation folder too",
            "ltcli cuts its own validation set; move its images into train, or remove it",
        )
    if listing.found not in (("train",), ("test", "train")):
        got = " and ".join(f"'{name}'" for name in listing.found)
        raise DataError(root, f"folders must be named train and test, got {got}", PARTS_HINT)
    report.add(listing)
    return ("train", "test") if "test" in listing.found else ("train",)


def _classes(root: Path, part: str, report: _Report) -> tuple[str, ...]:
    names = report.add(list_folders(root, part))
    if len(names) < 2:
        raise DataError(
            root / part,
            f"number of class folders must be at least 2, got {len(names)}",
            "the images of each class must be in a sub-folder of their own",
        )
    seen: dict[str, str] = {}
    for name in names:
        # macOS and Windows take such names for one and the same folder.
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise DataError(
                root / part,
                f"class names must differ in more than case, got '{other}' and '{name}'",
                "merge or rename the folders",
            )
    return names


def _check_same_classes(root: Path, names: tuple[str, ...], test_names: tuple[str, ...]) -> None:
    for here, there, part in ((test_names, names, "test"), (names, test_names, "train")):
        only = [name for name in here if name not in there]
        if only:
            raise DataError(
                root / part / only[0],
                f"classes must be the same in train and test, got '{only[0]}' in {part} only",
                "add or remove the folder",
            )


def _images(
    root: Path,
    part: str,
    names: tuple[str, ...],
    report: _Report,
    on_bad_image: Literal["fail", "skip"],
) -> list[tuple[str, ...]]:
    """Return the image paths of each class folder, in label order."""
    paths = []
    for name in names:
        folder = f"{part}/{name}" if part else name
        listing = list_images(root, folder)
        # Under "fail", a class that has nothing but bad files is reported by the first of these.
        if not listing.found and (not listing.bad or on_bad_image == "skip"):
            left = listing.bad + listing.harmless
            hint = f"of {len(left)} other files, {left[0]}" if left else "add images or remove it"
            raise DataError(root / folder, "class must have at least 1 image, got 0", hint)
        paths.append(report.add(listing))
    return paths
