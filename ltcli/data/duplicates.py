"""Images that are the same, or look the same, in two parts or under two classes.

Two images look the same if their perceptual hashes differ in at most 4 of 64 bits, and small grey
copies of them have a correlation of at least 0.98. The hash says which of the lowest frequencies of
the image are above their median.

Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010 (the
hash); M. Norouzi et al., Fast Search in Hamming Space with Multi-Index Hashing, CVPR 2012, arXiv
1307.2982 (the search: of 5 pieces of a hash, at least one is equal if 4 bits differ).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ltcli.data.class_names import Labels

_SIDE, _LOW, _BITS, _PIECES, _CORRELATION = 32, 8, 4, 5, 0.98
_ONES = np.array([value.bit_count() for value in range(256)], np.uint8)
# An image is compared with so many others of one piece at most: blank images all have the same.
_MOST = 64
# The cosine transform of type II, [8, 32].
_FREQUENCIES = np.cos(np.pi / _SIDE * np.outer(np.arange(_LOW), np.arange(_SIDE) + 0.5))


@dataclass(frozen=True)
class Mark:
    """What one image is told by: the SHA-256 of its file, and the results of ``look``."""

    digest: bytes
    hash: np.uint64
    grey: NDArray[np.uint8]


@dataclass(frozen=True)
class Looks:
    """What images hold and look like.

    Attributes:
        contents: Start of the SHA-256 of each file, uint64 [N].
        hashes: Perceptual hash of each image, uint64 [N].
        greys: Small grey copy of each image, uint8 [N, 256].
    """

    contents: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    greys: NDArray[np.uint8]

    def __getitem__(self, rows: Labels) -> "Looks":
        """Return those of some images, int64 [M]."""
        return Looks(self.contents[rows], self.hashes[rows], self.greys[rows])


def stacked(marks: Sequence[Mark]) -> Looks:
    """Return the marks of several images as arrays."""
    contents = np.array([int.from_bytes(mark.digest[:8], "little") for mark in marks], np.uint64)
    hashes = np.array([mark.hash for mark in marks], np.uint64)
    greys = np.array([mark.grey for mark in marks], np.uint8).reshape(len(marks), 256)
    return Looks(contents, hashes, greys)


def joined(parts: Sequence[Looks]) -> Looks:
    """Return the looks of several parts as one."""
    return Looks(
        np.concatenate([looks.contents for looks in parts]),
        np.concatenate([looks.hashes for looks in parts]),
        np.concatenate([looks.greys for looks in parts]),
    )


def look(image: Image.Image) -> tuple[np.uint64, NDArray[np.uint8]]:
    """Return the perceptual hash of an image, 64 bits, and a small grey copy, uint8 [256]."""
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    low = _FREQUENCIES @ np.asarray(small, np.float64) @ _FREQUENCIES.T
    bits = (low.ravel() > np.median(low)).view(np.uint8)
    grey = small.resize((16, 16), Image.Resampling.BOX)
    return np.packbits(bits).view(np.uint64)[0], np.asarray(grey, np.uint8).ravel()


def alike(looks: Looks, places: Labels) -> list[tuple[int, int]]:
    """Return the pairs of images that are the same or look alike in two places, ascending.

    ``places`` int64 [N] numbers the part and the class of each image; pairs within a place are
    left out.
    """
    found = set(_neighbours(looks.contents, places, lambda one, _: np.ones(len(one), np.bool_)))
    for piece in range(_PIECES):
        first = piece * 64 // _PIECES
        width = (piece + 1) * 64 // _PIECES - first
        keys = (looks.hashes >> np.uint64(first)) & np.uint64(2**width - 1)
        found.update(_neighbours(keys, places, partial(_look_alike, looks)))
    return sorted(found)


def _neighbours(
    keys: NDArray[np.uint64], places: Labels, same: Callable[[Labels, Labels], NDArray[np.bool_]]
) -> Iterator[tuple[int, int]]:
    """Yield pairs of images with one key and two places that are the same by a function."""
    order = np.argsort(keys, kind="stable").astype(np.int64, copy=False)
    keys = keys[order]
    # A shift compares all images with the one so many places behind.
    for shift in range(1, min(_MOST, len(keys) - 1) + 1):
        start = np.flatnonzero(keys[shift:] == keys[:-shift])
        if not len(start):
            return
        one, two = order[start], order[start + shift]
        apart = places[one] != places[two]
        one, two = one[apart], two[apart]
        pairs = np.sort(np.stack([one, two], 1)[same(one, two)], 1)
        yield from map(tuple, pairs.tolist())


def _look_alike(looks: Looks, one: Labels, two: Labels) -> NDArray[np.bool_]:
    """Return whether the images of each pair look the same, bool [P]."""
    differ = (looks.hashes[one] ^ looks.hashes[two]).view(np.uint8).reshape(-1, 8)
    alike: NDArray[np.bool_] = _ONES[differ].sum(1) <= _BITS
    alike[alike] = _correlation(looks.greys[one[alike]], looks.greys[two[alike]]) >= _CORRELATION
    return alike


def _correlation(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the correlation of each pair of rows, [P]; 0 with an even image, which has none."""
    a, b = (grey - grey.mean(1, keepdims=True, dtype=np.float64) for grey in (one, two))
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    found: NDArray[np.float64] = np.zeros_like(scale)
    np.divide((a * b).sum(1), scale, out=found, where=scale > 0)
    return found


def described(
    looks: Looks, files: Sequence[str], parts: Sequence[str], labels: Labels
) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of files for each kind of copy that there is, as a sentence's subject.

    Args:
        looks: Of all images that were taken.
        files: Path of each image.
        parts: Name of the part of each image.
        labels: Class of each image, int64 [N].
    """
    names, numbers = np.unique(np.array(parts), return_inverse=True)
    found: dict[str, list[tuple[str, str]]] = {}
    for one, two in alike(looks, labels * len(names) + numbers):
        bytes_equal = looks.contents[one] == looks.contents[two]
        verb = "have the same bytes" if bytes_equal else "look alike"
        place = "classes" if labels[one] != labels[two] else "parts"
        found.setdefault(f"{verb} in two {place}", []).append((files[one], files[two]))
    return found
