"""Image files of a data set as a pool: decoded now, or kept as files with their sizes."""

import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from ltcli.compute.environment import usable_cores
from ltcli.core.errors import DataError, ResourceError, cause
from ltcli.core.files import open_regular
from ltcli.core.text import printable
from ltcli.data.decode import BadImageError, decode_image, open_image
from ltcli.data.listed import Labels, Left, Listed, Rows
from ltcli.data.pool import Part, Pool
from ltcli.data.source_table import SOURCES, Request

MAX_BYTES = 4 * 2**30
MAX_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Decoder:
    """Decodes images, and collects the bad ones, among them copies with another label or part.

    Args:
        image_size: Side of the images, pixels.
        bad: List that grows: the bad images so far.
    """

    image_size: int
    bad: list[Left] = field(default_factory=list)
    # By SHA-256 of the file: the part and class, and the name, of the first that had it.
    _taken: dict[bytes, tuple[tuple[str, int], str]] = field(default_factory=dict)

    def decode(
        self, part: str, labels: Labels, contents: Iterable[tuple[str, Callable[[], bytes]]]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the good images of a part, uint8 [n, size, size, 3], and their n positions.

        Args:
            part: Name of the part.
            labels: int64 [N], class of each image.
            contents: Name of each image, and a function that returns its bytes.
        """
        # All at once, since stacking decoded images would hold them twice.
        images = torch.empty((len(labels), self.image_size, self.image_size, 3), dtype=torch.uint8)
        kept: list[int] = []
        for position, (name, read) in enumerate(contents):
            try:
                content = read()
                images[len(kept)] = decode_image(content, self.image_size)
                digest = hashlib.sha256(content).digest()
                self.require_new(part, int(labels[position]), name, digest)
                kept.append(position)
            except BadImageError as error:
                self.bad.append(Left(name, str(error)))
        return images[: len(kept)], kept

    def require_new(self, part: str, label: int, name: str, digest: bytes) -> None:
        """Refuse an image whose SHA-256 stands in another part or class already.

        A test image among the training images makes accuracies too high. Copies within a class are
        kept, as people repeat images on purpose.

        Raises:
            BadImageError: It is a copy of an image there.
        """
        group, first = self._taken.setdefault(digest, ((part, label), name))
        if group != (part, label):
            raise BadImageError(f"has the same bytes as {printable(first)}")


def load_files(request: Request, listed: Listed) -> Pool:
    """Return listed images: decoded uint8 [N, size, size, 3], or sizes of their files int64 [N].

    Args:
        request: ``store`` images decodes them, each cut to its centre square and resized; files
            asks the file system for their sizes; auto decodes where all of them take at most
            4 GiB, and keeps the files of a published set. ``on_bad_image`` fail reports the number
            of bad images and the first, skip leaves them out and lists them. ``verify`` decodes
            images that stay files once, to find damaged ones and copies under another label or in
            another part.
        listed: The images.

    Raises:
        DataError: An image is bad.
        ResourceError: The images were to be decoded, and would take more than 4 GiB.
    """
    root, size, decoded = request.root, request.image_size, request.store == "images"
    num_images = sum(len(rows.files) for rows in listed.parts.values())
    if decoded:
        check_size(root, num_images, size, "lower it, or keep the files with --store files")
    elif request.store == "auto" and SOURCES[request.source].counts is None:
        decoded = _bytes(num_images, size) <= MAX_BYTES
    decoder = Decoder(size, list(listed.bad))
    parts = {
        part: _decoded(root, part, rows, decoder)
        if decoded
        else _sized(root, part, rows, decoder, request.verify)
        for part, rows in listed.parts.items()
    }
    bad = sorted(decoder.bad, key=lambda left: left.path)
    require_good(root, bad, request.on_bad_image)
    skipped = sorted([*listed.harmless, *bad], key=lambda left: left.path)
    return Pool(
        listed.class_names,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        store="images" if decoded else "files",
        skipped=tuple(map(str, skipped)),
    )


def check_size(root: Path, num_images: int, image_size: int, remedy: str) -> None:
    """Refuse images that would take more than 4 GiB once they are decoded.

    Raises:
        ResourceError: They would.
    """
    size = _bytes(num_images, image_size)
    if size > MAX_BYTES:
        largest = math.isqrt(MAX_BYTES // (num_images * 3))
        rule = f"decoded images must be at most {MAX_BYTES} bytes"
        hint = f"--image-size must be at most {largest}: {remedy}"
        raise ResourceError(root, f"{rule}, got {size} for {num_images} images", hint)


def _bytes(num_images: int, image_size: int) -> int:
    return num_images * image_size**2 * 3


def require_good(root: Path, bad: list[Left], on_bad_image: Literal["fail", "skip"]) -> None:
    """Refuse bad images unless they are skipped.

    Raises:
        DataError: There are some; the message names their number and the first.
    """
    if bad and on_bad_image == "fail":
        rule = f"number of bad files must be 0, got {len(bad)}, first {bad[0]}"
        hint = "repair or remove them, or leave them out with --on-bad-image skip"
        raise DataError(root, rule, hint)


def _decoded(root: Path, part: str, rows: Rows, decoder: Decoder) -> Part:
    """Return the good images of a part."""
    contents = ((path, partial(read_file, root / path)) for path in rows.files)
    images, kept = decoder.decode(part, rows.labels, contents)
    return Part(images, *_rows(rows, kept))


def _rows(rows: Rows, kept: list[int]) -> tuple[torch.Tensor, tuple[str, ...]]:
    return torch.from_numpy(rows.labels[kept]), tuple(rows.files[row] for row in kept)


def _sized(root: Path, part: str, rows: Rows, decoder: Decoder, verify: bool) -> Part:
    """Return the bytes of the good files of a part, int64 [N]."""
    faults = _faults(root, part, rows, decoder) if verify else {}
    sizes: list[int] = []
    kept: list[int] = []
    # Joining text is far faster than joining paths, and there may be a million.
    folder = f"{root}/"
    for row, path in enumerate(rows.files):
        try:
            if path in faults:
                raise BadImageError(faults[path])
            sizes.append(file_size(folder + path))
            kept.append(row)
        except BadImageError as error:
            decoder.bad.append(Left(path, str(error)))
    return Part(torch.tensor(sizes, dtype=torch.int64), *_rows(rows, kept))


def _faults(root: Path, part: str, rows: Rows, decoder: Decoder) -> dict[str, str]:
    """Return why some files of a part cannot be taken, by path; several are decoded at once."""
    faults: dict[str, str] = {}

    def digest(path: str) -> bytes | None:
        try:
            content = read_file(root / path)
            open_image(content)
        except BadImageError as error:
            faults[path] = str(error)
            return None
        return hashlib.sha256(content).digest()

    # Threads suffice, as Pillow releases the interpreter's lock while it decodes.
    with ThreadPoolExecutor(usable_cores()) as threads:
        digests = threads.map(digest, rows.files)
        for path, label, found in zip(rows.files, rows.labels.tolist(), digests, strict=True):
            try:
                if found is not None:
                    decoder.require_new(part, label, path, found)
            except BadImageError as error:
                faults[path] = str(error)
    return faults


def file_size(path: str) -> int:
    """Return the size in bytes of a file that ``read_file`` would read, without opening it.

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
        raise BadImageError("cannot be read: not a regular file")
    if status.st_size == 0:
        raise BadImageError("is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise BadImageError(f"is larger than {MAX_FILE_BYTES} bytes")
    return status.st_size


def read_file(path: Path) -> bytes:
    """Return the content of a regular file, refusing what took its place since it was listed.

    Raises:
        BadImageError: It is a link or no regular file, empty, too large, or cannot be read.
    """
    file_size(str(path))
    try:
        # A link or a pipe may have come in between, and a file may grow while it is read.
        with open_regular(path, os.O_NOFOLLOW) as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise BadImageError(f"cannot be read: {cause(error)}") from error
