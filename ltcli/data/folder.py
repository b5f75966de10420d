"""Images in folders: one sub-folder per class, or ``train`` and ``test`` with such sub-folders."""

import hashlib
import math
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from ltcli.core.errors import DataError, ResourceError
from ltcli.data.decode import BadImageError, decode_image
from ltcli.data.pool import Pool
from ltcli.data.scan import Left, Listing, list_folders, list_images, read_file, shown

MAX_BYTES = 4 * 2**30
PARTS_HINT = (
    "rename the folders to train and test, or give the one that holds the classes as --root"
)
VALIDATION_NAMES = {"val", "valid", "validation", "dev"}
PART_NAMES = {"train", "training", "test", "testing"} | VALIDATION_NAMES


@dataclass(frozen=True)
class _Report:
    """Lists that grow: what was left out so far, and the content of every image taken."""

    harmless: list[Left] = field(default_factory=list)
    bad: list[Left] = field(default_factory=list)
    # By SHA-256 of the file: the class folder, and the path, of the first that had it.
    taken: dict[bytes, tuple[str, str]] = field(default_factory=dict)

    def add(self, listing: Listing) -> tuple[str, ...]:
        """Note what a listing left out and return what it found."""
        self.harmless.extend(listing.harmless)
        self.bad.extend(listing.bad)
        return listing.found


def load_folder(root: Path, image_size: int, on_bad_image: Literal["fail", "skip"]) -> Pool:
    """Load a folder of images, each cut to its centre square and resized.

    Links are never followed. Hidden files, files without an image suffix and the like are left out
    and listed; a bad image is one that is damaged, or of which a copy lies in another class or
    part, where one of the two labels is wrong or the test would be on training images.

    Args:
        root: The folder. Classes are its sub-folders, sorted by name; or, if it has no others, the
            sub-folders of ``train`` and, where there is one, of ``test``.
        image_size: Side of the images, pixels.
        on_bad_image: ``fail`` reports the number of bad images and the first, ``skip`` leaves them
            out and lists them.

    Returns:
        A pool with images uint8 [N, image_size, image_size, 3], ordered by class and path.

    Raises:
        DataError: The folder is missing or not of this form, a class is empty, or an image is bad.
        ResourceError: The images would take more than 4 GiB.
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
    paths = {part: _images(root, part, names, report, on_bad_image) for part in parts}
    _check_size(
        root, sum(len(files) for part in parts for files in paths[part].values()), image_size
    )
    decoded = [_decode(root, paths[part], image_size, report) for part in parts]
    bad = sorted(report.bad, key=lambda left: left.path)
    if bad and on_bad_image == "fail":
        raise DataError(
            root,
            f"number of bad files must be 0, got {len(bad)}, first {bad[0]}",
            "repair or remove them, or leave them out with --on-bad-image skip",
        )
    images, labels, files = decoded[0]
    test_images, test_labels, test_files = decoded[1] if len(decoded) > 1 else (None, None, [])
    skipped = sorted([*report.harmless, *bad], key=lambda left: left.path)
    return Pool(
        images=images,
        labels=labels,
        class_names=names,
        test_images=test_images,
        test_labels=test_labels,
        files=(*files, *test_files),
        skipped=tuple(str(left) for left in skipped),
    )


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
) -> dict[str, tuple[str, ...]]:
    """Return the image paths of each class folder, in label order."""
    paths = {}
    for name in names:
        folder = f"{part}/{name}" if part else name
        listing = list_images(root, folder)
        # Under "fail", a class that has nothing but bad files is reported by the first of these.
        if not listing.found and (not listing.bad or on_bad_image == "skip"):
            left = listing.bad + listing.harmless
            hint = f"of {len(left)} other files, {left[0]}" if left else "add images or remove it"
            raise DataError(root / folder, "class must have at least 1 image, got 0", hint)
        paths[folder] = report.add(listing)
    return paths


def _check_size(root: Path, num_images: int, image_size: int) -> None:
    size = num_images * image_size**2 * 3
    if size > MAX_BYTES:
        largest = math.isqrt(MAX_BYTES // (num_images * 3))
        raise ResourceError(
            root,
            f"decoded images must be at most {MAX_BYTES} bytes, got {size} for {num_images} images",
            f"lower --image-size to at most {largest}",
        )


def _decode(
    root: Path, paths: dict[str, tuple[str, ...]], image_size: int, report: _Report
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Return uint8 [N, image_size, image_size, 3], int64 [N] and the paths of the good images."""
    num_images = sum(map(len, paths.values()))
    images = torch.empty((num_images, image_size, image_size, 3), dtype=torch.uint8)
    labels: list[int] = []
    files: list[str] = []
    for label, (folder, class_paths) in enumerate(paths.items()):
        for path in class_paths:
            try:
                content = read_file(root / path)
                image = decode_image(content, image_size)
                # Copies within a class are kept: people repeat images on purpose.
                digest = hashlib.sha256(content).digest()
                first_folder, first = report.taken.setdefault(digest, (folder, path))
                if first_folder != folder:
                    raise BadImageError(f"has the same bytes as {shown(first)}")
            except BadImageError as error:
                report.bad.append(Left(path, str(error)))
                continue
            images[len(files)] = image
            labels.append(label)
            files.append(path)
    return images[: len(files)], torch.tensor(labels, dtype=torch.int64), files
