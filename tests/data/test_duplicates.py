import io
import itertools

import numpy as np
import pytest
from PIL import Image

from ltcli.data import duplicates
from ltcli.data.duplicates import Mark, alike, described, look, stacked


def photo(seed, size=(96, 64)):
    """A smooth image with some detail, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def stored(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def marks(*images):
    return stacked(
        [Mark(bytes([number] * 32), *look(image)) for number, image in enumerate(images)]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda image: stored(image, 40),
        lambda image: image.resize((60, 40)),
        lambda image: image.point(lambda value: round(value * 0.8)),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["another quality", "smaller", "darker", "grey"],
)
def test_a_changed_copy_looks_the_same_and_another_photo_does_not(change):
    images = [photo(seed) for seed in range(12)]
    looks = marks(*images, *map(change, images))
    places = np.arange(24)
    assert alike(looks, places) == [(seed, seed + 12) for seed in range(12)]
    # Within a place, copies are nobody's concern.
    assert alike(looks, np.zeros(24, np.int64)) == []


def test_equal_bytes_are_found_whatever_they_look_like():
    flat = look(Image.new("RGB", (8, 8), "white"))
    same, other = Mark(b"a" * 32, *flat), Mark(b"b" * 32, *flat)
    assert alike(stacked([same, other, same]), np.arange(3)) == [(0, 2)]


def test_the_search_finds_what_comparing_all_pairs_finds():
    """Hashes a few bits apart, against a loop over all pairs."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40, dtype=np.uint64)
    greys = rng.integers(0, 256, (40, 256), dtype=np.uint8)
    looked = []
    for number in range(400):
        of = number % 40
        flips = rng.choice(64, rng.integers(0, 8), replace=False).astype(np.uint64)
        changed = np.bitwise_xor.reduce(np.uint64(1) << flips, initial=base[of])
        looked.append(Mark(bytes([number % 256, number // 256] * 16), changed, greys[of]))
    looks, places = stacked(looked), rng.integers(0, 3, 400)
    expected = [
        (a, b)
        for a, b in itertools.combinations(range(400), 2)
        if places[a] != places[b]
        and int(looked[a].hash ^ looked[b].hash).bit_count() <= 4
        and a % 40 == b % 40
    ]
    assert len(expected) > 100
    assert alike(looks, places) == expected


def test_many_equal_images_are_compared_with_some_of_the_others_only(monkeypatch):
    monkeypatch.setattr(duplicates, "_MOST", 3)
    looks = stacked([Mark(b"a" * 32, *look(photo(0)))] * 10)
    assert len(alike(looks, np.arange(10))) == 9 + 8 + 7


def test_copies_are_described_by_kind():
    looks = stacked(
        [
            Mark(b"a" * 32, *look(photo(0))),
            Mark(b"b" * 32, *look(stored(photo(0), 60))),
            Mark(b"a" * 32, *look(photo(0))),
            Mark(b"c" * 32, *look(photo(1))),
        ]
    )
    files, parts = ["a.png", "b.jpg", "c.png", "d.png"], ["train", "test", "test", "test"]
    assert described(looks, files, parts, np.array([0, 1, 0, 0])) == {
        "look alike in two classes": [("a.png", "b.jpg"), ("b.jpg", "c.png")],
        "have the same bytes in two parts": [("a.png", "c.png")],
    }
