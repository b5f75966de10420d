"""Image files of a data set as a pool: decoded now, or kept as files with their sizes."""

import hashlib
import logging
import math
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch

from ltcli.compute.environment import usable_cores
from ltcli.core.errors import DataError, ResourceError, cause
from ltcli.core.files import open_regular
from ltcli.core.text import printable
from ltcli.data.class_names import Labels
from ltcli.data.decode import decode_image, grey_bits, open_image
from ltcli.data.duplicates import Mark, look, stacked
from ltcli.data.formats import BadImageError
from ltcli.data.listed import Listed, Rows
from ltcli.data.pool import Part, Pool
from ltcli.data.source_table import MAX_PIXELS, SOURCES, Request
from ltcli.data.walk import Left

logger = logging.getLogger(__name__)

# A split is loaded whole, to the device where it fits; one image file is read whole.
MAX_BYTES = 4 * 2**30
MAX_FILE_BYTES = 256 * 2**20
# Files whose values are looked at where not all are decoded.
_LOOKED_AT = 64

_T = TypeVar("_T")


@dataclass(frozen=True)
class Decoder:
    """Decodes images to squares, and collects bad ones, also copies in another class or part.

    Attributes:
        image_size: Side of the squares in pixels.
        max_pixels: Larger images are bad.
        bad: Images left out.
        bits: Number of 16-bit grey images by the bits that their values take.
    """

    image_size: int
    max_pixels: int = MAX_PIXELS
    bad: list[Left] = field(default_factory=list)
    bits: Counter[int] = field(default_factory=Counter)
    # SHA-256 of a file to the part and class, and the name, of the first image that had it.
    _taken: dict[bytes, tuple[tuple[str, int], str]] = field(default_factory=dict)

    def decode(
        self, part: str, labels: Labels, contents: Iterable[tuple[str, Callable[[], bytes]]]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the good images of a part, uint8 [n, size, size, 3], and their n positions.

        Labels are int64 [N]; ``contents`` has a name and a function to the bytes for each image.
        """
        # All at once, since stacking decoded images would hold them twice.
        images = torch.empty((len(labels), self.image_size, self.image_size, 3), dtype=torch.uint8)
        kept: list[int] = []
        for position, (name, read) in enumerate(contents):
            try:
                content = read()
                images[len(kept)] = decode_image(
                    content, self.image_size, max_pixels=self.max_pixels
                )
                self.bits.update(grey_bits(content, self.max_pixels))
                digest = hashlib.sha256(content).digest()
                self.require_new(part, int(labels[position]), name, digest)
                kept.append(position)
            except BadImageError as error:
                self.bad.append(Left(name, str(error)))
        return images[: len(kept)], kept

    def require_new(self, part: str, label: int, name: str, digest: bytes) -> None:
        """Raise BadImageError for an image whose SHA-256 another part or class has already."""
        # A test image among the training images makes accuracies too high. Copies within a class
        # are kept, as people repeat images on purpose.
        group, first = self._taken.setdefault(digest, ((part, label), name))
        if group != (part, label):
            raise BadImageError(f"has the same bytes as {printable(first)}")


def load_files(request: Request, listed: Listed) -> Pool:
    """Return listed images: decoded uint8 [N, size, size, 3], or sizes of their files int64 [N].

    ``store`` images decodes them, each cut to its centre square and resized; files asks the file
    system for their sizes; auto decodes where a size is named and all of them take at most 4 GiB,
    and keeps the files of a published set. ``verify`` decodes all first, to find bad ones.

    Raises:
        DataError: An image is bad, and ``on_bad_image`` is fail.
        ResourceError: The images were to be decoded, and would take more than 4 GiB.
    """
    root, size, decoded = request.root, request.stored_size, request.store == "images"
    num_images = sum(len(rows.files) for rows in listed.parts.values())
    if decoded:
        check_size(root, num_images, size, "lower it, or keep the files with --store files")
    elif request.store == "auto" and request.image_size and SOURCES[request.source].counts is None:
        decoded = _bytes(num_images, size) <= MAX_BYTES
    decoder = Decoder(size, request.max_pixels, list(listed.bad))
    marks = _verified(request, listed, decoder) if request.verify else {}
    parts = {}
    for part, listed_rows in listed.parts.items():
        rows = listed_rows
        if request.verify:
            rows = rows.at([row for row, file in enumerate(rows.files) if file in marks])
        if decoded:
            contents = ((path, partial(read_file, root / path)) for path in rows.files)
            data, kept = decoder.decode(part, rows.labels, contents)
        else:
            data, kept = _sized(root, rows, decoder)
        rows = rows.at(kept)
        looks = stacked([marks[file] for file in rows.files]) if request.verify else None
        parts[part] = Part(
            data, torch.from_numpy(rows.labels), tuple(rows.files), tuple(rows.groups), looks
        )
    bad = sorted(decoder.bad, key=lambda left: left.path)
    require_good(root, bad, request.on_bad_image)
    warn_of_bits(root, decoder.bits)
    skipped = sorted([*listed.harmless, *bad], key=lambda left: left.path)
    return Pool(
        listed.class_names,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        store="images" if decoded else "files",
        skipped=tuple(map(str, skipped)),
    )


def warn_of_bits(root: Path, bits: Mapping[int, int], of: str = "") -> None:
    """Warn of 16-bit images whose values take fewer bits, which sets how they are scaled.

    ``bits`` has the number of 16-bit images by the bits that their values take.
    """
    if bits.keys() - {16}:
        each = ", ".join(f"{n} hold {number}-bit values" for number, n in sorted(bits.items()))
        rule = "each is scaled by the range of these"
        logger.warning("split: %s: of the 16-bit images%s, %s; %s", root, of, each, rule)


def look_at_bits(root: Path, files: Sequence[str]) -> None:
    """Warn as ``warn_of_bits`` of some image files, spread over all, which stay files."""
    step = -(-len(files) // _LOOKED_AT) or 1
    bits: Counter[int] = Counter()
    for path in files[::step]:
        with suppress(BadImageError):
            bits.update(grey_bits(read_file(root / path)))
    warn_of_bits(root, bits, f" among {len(files[::step])} files looked at")


def check_size(root: Path, num_images: int, image_size: int, remedy: str) -> None:
    """Raise ResourceError for images that would take more than 4 GiB once they are decoded."""
    if (size := _bytes(num_images, image_size)) > MAX_BYTES:
        largest = math.isqrt(MAX_BYTES // (num_images * 3))
        rule = f"decoded images must be at most {MAX_BYTES} bytes"
        hint = f"--image-size must be at most {largest}: {remedy}"
        raise ResourceError(root, f"{rule}, got {size} for {num_images} images", hint)


def _bytes(num_images: int, image_size: int) -> int:
    return num_images * image_size**2 * 3


def require_good(root: Path, bad: list[Left], on_bad_image: Literal["fail", "skip"]) -> None:
    """Raise DataError with the number of bad images and the first, unless they are skipped."""
    if bad and on_bad_image == "fail":
        rule = f"number of bad files must be 0, got {len(bad)}, first {bad[0]}"
        hint = "repair or remove them, or leave them out with --on-bad-image skip"
        raise DataError(root, rule, hint)


def _sized(root: Path, rows: Rows, decoder: Decoder) -> tuple[torch.Tensor, list[int]]:
    """Return the bytes of the good files of a part, int64 [n], and their n positions."""
    sizes: list[int] = []
    kept: list[int] = []
    # Joining text is far faster than joining paths, and there may be a million.
    folder = f"{root}/"
    for row, path in enumerate(rows.files):
        try:
            sizes.append(file_size(folder + path))
            kept.append(row)
        except BadImageError as error:
            decoder.bad.append(Left(path, str(error)))
    return torch.tensor(sizes, dtype=torch.int64), kept


def _verified(request: Request, listed: Listed, decoder: Decoder) -> dict[str, Mark]:
    """Return what each good file holds and looks like, by path; the decoder has the bad ones.

    All are read for copies first, and then decoded: a copy is found soon, and decoding takes long.
    """
    root = request.root

    def digest(path: str) -> bytes:
        return hashlib.sha256(read_file(root / path)).digest()

    def mark(path: str) -> Mark:
        content = read_file(root / path)
        return Mark(
            hashlib.sha256(content).digest(), *look(open_image(content, request.max_pixels))
        )

    good: list[str] = []
    for part, rows in listed.parts.items():
        found = _in_threads(digest, rows.files, decoder)
        for path, label in zip(rows.files, rows.labels.tolist(), strict=True):
            try:
                if path in found:
                    decoder.require_new(part, label, path, found[path])
                    good.append(path)
            except BadImageError as error:
                decoder.bad.append(Left(path, str(error)))
    require_good(root, decoder.bad, request.on_bad_image)
    return _in_threads(mark, good, decoder)


def _in_threads(work: Callable[[str], _T], paths: Sequence[str], decoder: Decoder) -> dict[str, _T]:
    """Return the result of each file by path; the decoder has those that cannot be read."""

    def attempt(path: str) -> _T | BadImageError:
        try:
            return work(path)
        except BadImageError as error:
            return error

    results = {}
    # Threads suffice, as Pillow releases the interpreter's lock while it decodes.
    with ThreadPoolExecutor(usable_cores()) as threads:
        for path, result in zip(paths, threads.map(attempt, paths), strict=True):
            if isinstance(result, BadImageError):
                decoder.bad.append(Left(path, str(result)))
            else:
                results[path] = result
    return results


def file_size(path: str) -> int:
    """Return the size of a file in bytes, or raise BadImageError where ``read_file`` would."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadImageError(f"cannot be read: {cause(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadImageError("cannot be read: not a regular file")
    if status.st_size == 0:
        raise BadImageError("is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise BadImageError(f"is larger than {MAX_FILE_BYTES} bytes")
    return status.st_size


def read_file(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        BadImageError: It is no regular file, empty, too large, or cannot be read.
    """
    size = file_size(str(path))
    try:
        # A pipe may have taken its place, and a file may grow while it is read.
        with open_regular(path) as file:
            # Asking for more takes the memory first; one byte more shows that the file has grown.
            return file.read(size + 1)
    except OSError as error:
        raise BadImageError(f"cannot be read: {cause(error)}") from error
