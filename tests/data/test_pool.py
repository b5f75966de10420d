import dataclasses

import pytest
import torch

from ltcli.core.errors import DataError
from ltcli.data.pool import Part, Pool, checked

TRAIN = Part(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]), tuple("abcd"))
TEST = Part(torch.zeros(3, 8, 8, 3, dtype=torch.uint8), torch.tensor([2, 1, 0]), tuple("efg"))
POOL = Pool(("cat", "dog", "eel"), TRAIN, test=TEST)
SIZES = Part(torch.ones(4, dtype=torch.int64), TRAIN.labels, TRAIN.files)
FEATURES = Part(torch.zeros(4, 5), TRAIN.labels)
HINT = "it stands in the test part"


def but(part, **changes):
    return dataclasses.replace(part, **changes)


def test_a_sound_pool_passes_with_any_parts_and_in_any_store():
    checked(POOL, "here")
    checked(but(POOL, test=None), "here")
    checked(but(POOL, val=TEST), "here")
    checked(but(POOL, train=but(TRAIN, files=())), "here")
    checked(but(POOL, train=SIZES, test=SIZES, store="files"), "here")
    checked(but(POOL, train=FEATURES, test=None, store="features"), "here")


def test_a_class_may_lack_validation_and_test_images():
    rare = but(TEST, labels=torch.tensor([1, 1, 1]))
    checked(but(POOL, val=rare, test=rare), "here")


def test_class_names_come_in_one_form_of_unicode():
    names = checked(but(POOL, class_names=("cafe\u0301", "dog", "eel")), "here").class_names
    assert names == ("caf\u00e9", "dog", "eel")


def test_a_class_without_samples_is_left_out_and_the_others_keep_their_order(caplog):
    one = but(TRAIN, labels=torch.tensor([2, 0, 2, 0]))
    pool = checked(but(POOL, train=one, test=but(TEST, labels=torch.tensor([2, 2, 0]))), "here")
    assert pool.class_names == ("cat", "eel")
    assert pool.train.labels.tolist() == [1, 0, 1, 0]
    assert pool.test.labels.tolist() == [1, 1, 0]
    assert (pool.train.files, pool.val) == (TRAIN.files, None)
    assert caplog.messages == ["here: 1 class without images left out: 'dog'"]


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (
            {"train": but(TRAIN, labels=torch.zeros(4, dtype=torch.int64)), "test": None},
            "number of classes must be at least 2, got 1",
            None,
        ),
        (
            {"class_names": ("cat", "dog", "cat")},
            "class names must all be different, got 'cat' twice",
            None,
        ),
        (
            {"class_names": ("caf\u00e9", "dog", "cafe\u0301")},
            "class names must all be different, got 'caf\u00e9' twice",
            None,
        ),
        ({"class_names": ("cat", "", "eel")}, "class names must be printable text, got ''", None),
        (
            {"class_names": ("cat", "d\nog", "eel")},
            "class names must be printable text, got 'd\\nog'",
            None,
        ),
        (
            {"train": but(TRAIN, data=torch.zeros(4, 8, 8, 3))},
            "training images must be uint8 [N, H, W, 3], got float32 [4, 8, 8, 3]",
            None,
        ),
        (
            {"test": but(TEST, data=torch.zeros(3, 3, 8, 8, dtype=torch.uint8))},
            "test images must be uint8 [N, H, W, 3], got uint8 [3, 3, 8, 8]",
            None,
        ),
        (
            {"train": but(FEATURES, data=torch.zeros(4, 0)), "store": "features"},
            "training features must be float32 [N, D], got float32 [4, 0]",
            None,
        ),
        (
            {"train": FEATURES, "test": but(FEATURES, data=torch.ones(4, 6)), "store": "features"},
            "test features must be [5] like the others, got [6]",
            None,
        ),
        (
            {"train": FEATURES, "store": "files"},
            "training files must be int64 [N], got float32 [4, 5]",
            None,
        ),
        (
            {"train": but(TRAIN, labels=torch.tensor([0, 1, 2]))},
            "training labels must be int64 [4], got int64 [3]",
            None,
        ),
        (
            {"test": but(TEST, labels=torch.tensor([0, 1, 2], dtype=torch.int32))},
            "test labels must be int64 [3], got int32 [3]",
            None,
        ),
        (
            {"train": Part(TRAIN.data[:0], TRAIN.labels[:0])},
            "number of training images must be at least 1, got 0",
            None,
        ),
        (
            {"val": Part(TRAIN.data[:0], TRAIN.labels[:0])},
            "number of validation images must be at least 1, got 0",
            None,
        ),
        (
            {"train": but(TRAIN, labels=torch.tensor([0, 1, 2, 3]))},
            "training labels must be from 0 to 2, got 3",
            None,
        ),
        (
            {"test": but(TEST, labels=torch.tensor([0, -1, 2]))},
            "test labels must be from 0 to 2, got -1",
            None,
        ),
        (
            {"train": but(TRAIN, labels=torch.tensor([0, 0, 2, 2]))},
            "class 'dog' must have at least 1 training image, got 0",
            HINT,
        ),
        (
            {"test": but(TEST, data=torch.zeros(3, 9, 8, 3, dtype=torch.uint8))},
            "test images must be [8, 8, 3] like the others, got [9, 8, 3]",
            None,
        ),
        (
            {"train": but(TRAIN, files=("a", "b", "c\ud800", "d"))},
            "names of files must be UTF-8 without NUL, got 'c\\ud800'",
            None,
        ),
        (
            {"train": but(TRAIN, files=("a", "b"))},
            "files must be one per training image, got 2",
            None,
        ),
    ],
)
def test_an_unsound_pool_is_refused(change, message, hint):
    with pytest.raises(DataError) as caught:
        checked(but(POOL, **change), "here")
    assert (str(caught.value), caught.value.hint) == (f"here: {message}", hint)
