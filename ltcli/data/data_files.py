"""The files of a data set: recognised by their names, downloaded, and hashed to notice changes."""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ltcli.core.errors import DataError, ResourceError, cause, disk_full
from ltcli.data.formats import fault, is_image, is_none
from ltcli.data.source_table import SOURCES, files_of
from ltcli.data.walk import Found, Left, walk

logger = logging.getLogger(__name__)

Images = TypeVar("Images")
_PART = re.compile(r"(train|validation|val|test)(?![A-Za-z0-9])")


def find_images(root: Path, folders: Iterable[str], *, once: bool = True) -> Found:
    """Return the images below some folders of a root, in whatever files they are; see ``walk``.

    Files of a common suffix of images count unread, those of a suffix of other files do not; of all
    others the header is read.
    """

    def unwanted(name: str) -> str | None:
        return "has no image suffix" if is_none(name) else None

    found = walk(root, folders, unwanted, once=once)
    for files in found.files.values():
        for path in [path for path in files if not is_image(path)]:
            if (why := fault(f"{root}/{path}")) is not None:
                reason, missed = why
                (found.bad if missed else found.harmless).append(Left(path, reason))
                del files[path]
    return found


def with_test(parts: Mapping[str, Images], root: Path) -> dict[str, Images]:
    """Return the parts of a data set, of which val becomes test where there is no test.

    Papers report on the official validation images of such sets. A test part cut from train would
    take images from training, and give figures that fit no paper; choices made by the images that
    are reported on would flatter, so validation images are cut from train.
    """
    if "val" not in parts or "test" in parts:
        return dict(parts)
    rule = "its validation images are the test part, as there is no other"
    logger.info("split: %s: %s; validation images are cut from train", root, rule)
    return {"test" if part == "val" else part: images for part, images in parts.items()}


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
    return with_test(shards, root)


def list_shards(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files below a folder that have one of some suffixes, in the order of paths."""
    found = walk(root, [""], lambda name: None if Path(name).suffix in suffixes else "is another")
    return sorted(root / path for path in found.files[""])


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
        images = find_images(root, [""]).files[""]
        return {"folder": _digest([f"{path}\0{size}" for path, size in images.items()])}
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
