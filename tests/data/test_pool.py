import dataclasses

import pytest
import torch

from ltcli.core.errors import DataError
from ltcli.data.pool import Pool, check

POOL = Pool(
    images=torch.zeros(4, 8, 8, 3, dtype=torch.uint8),
    labels=torch.tensor([0, 1, 2, 0]),
    class_names=("cat", "dog", "eel"),
    test_images=torch.zeros(3, 8, 8, 3, dtype=torch.uint8),
    test_labels=torch.tensor([2, 1, 0]),
    files=tuple("abcdefg"),
)
HINT = "leave out classes without images"


def test_a_sound_pool_passes_with_and_without_a_test_part():
    check(POOL, "here")
    check(dataclasses.replace(POOL, test_images=None, test_labels=None, files=()), "here")


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"class_names": ("cat",)}, "number of classes must be at least 2, got 1", None),
        (
            {"class_names": ("cat", "dog", "cat")},
            "class names must all be different, got 'cat' twice",
            None,
        ),
        (
            {"images": torch.zeros(4, 8, 8, 3)},
            "training images must be uint8 [N, H, W, 3], got float32 [4, 8, 8, 3]",
            None,
        ),
        (
            {"test_images": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)},
            "test images must be uint8 [N, H, W, 3], got uint8 [3, 3, 8, 8]",
            None,
        ),
        (
            {"labels": torch.tensor([0, 1, 2])},
            "training labels must be int64 [4], got int64 [3]",
            None,
        ),
        (
            {"test_labels": torch.tensor([0, 1, 2], dtype=torch.int32)},
            "test labels must be int64 [3], got int32 [3]",
            None,
        ),
        (
            {"images": POOL.images[:0], "labels": POOL.labels[:0]},
            "number of training images must be at least 1, got 0",
            None,
        ),
        (
            {"labels": torch.tensor([0, 1, 2, 3])},
            "training labels must be from 0 to 2, got 3",
            None,
        ),
        (
            {"test_labels": torch.tensor([0, -1, 2])},
            "test labels must be from 0 to 2, got -1",
            None,
        ),
        (
            {"labels": torch.tensor([0, 0, 2, 2])},
            "class 'dog' must have at least 1 training image, got 0",
            HINT,
        ),
        (
            {"test_labels": torch.tensor([0, 1, 1])},
            "class 'eel' must have at least 1 test image, got 0",
            HINT,
        ),
        (
            {"test_labels": None},
            "test images and test labels must come together, got one of them",
            None,
        ),
        (
            {"test_images": torch.zeros(3, 9, 8, 3, dtype=torch.uint8)},
            "test images must be [8, 8, 3] like the others, got [9, 8, 3]",
            None,
        ),
        ({"files": ("a", "b")}, "files must be one per image, got 2", None),
    ],
)
def test_an_unsound_pool_is_refused(change, message, hint):
    with pytest.raises(DataError) as caught:
        check(dataclasses.replace(POOL, **change), "here")
    assert (str(caught.value), caught.value.hint) == (f"here: {message}", hint)
