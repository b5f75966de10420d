import numpy as np
import pytest

from ltcli.data.folds import folds


def long_tailed():
    return np.repeat(np.arange(6), [50, 20, 7, 5, 3, 1])


def test_every_image_is_held_out_once_in_equal_shares_of_its_class():
    labels = long_tailed()
    found = folds(labels, 5, 0)
    table = np.array([np.bincount(found[labels == c], minlength=5) for c in range(5)])
    assert table.sum(1).tolist() == [50, 20, 7, 5, 3]
    assert (table.max(1) - table.min(1) <= 1).all()
    # The folds are equally large too.
    assert np.ptp(table.sum(0)) <= 1


def test_a_class_of_one_image_is_never_held_out():
    labels = long_tailed()
    assert folds(labels, 5, 0)[labels == 5].tolist() == [-1]


def test_a_class_of_fewer_images_than_folds_is_held_out_one_by_one():
    labels = long_tailed()
    assert len(set(folds(labels, 5, 0)[labels == 4])) == 3


def test_a_fold_never_holds_a_whole_class():
    for seed in range(20):
        labels = np.random.RandomState(seed).randint(0, 12, 40)
        groups = np.random.RandomState(seed + 99).randint(0, 25, 40)
        for of in (None, groups):
            found = folds(labels, 3, seed, of)
            for fold in range(3):
                left = set(labels[found != fold])
                assert set(labels[found == fold]) <= left


def test_a_group_is_held_out_together():
    labels = np.random.RandomState(0).randint(0, 4, 200)
    groups = np.random.RandomState(1).randint(0, 40, 200)
    found = folds(labels, 5, 0, groups)
    for group in range(40):
        assert len(set(found[groups == group])) == 1
    table = np.array([np.bincount(found[labels == c], minlength=5) for c in range(4)])
    assert (abs(table / table.sum(1, keepdims=True) - 0.2) < 0.08).all()


def test_the_seed_draws_them():
    labels = long_tailed()
    assert folds(labels, 5, 0).tolist() == folds(labels, 5, 0).tolist()
    assert folds(labels, 5, 0).tolist() != folds(labels, 5, 1).tolist()


@pytest.mark.parametrize("labels", [np.zeros(0, np.int64), np.zeros(1, np.int64)])
def test_nothing_to_hold_out(labels):
    assert (folds(labels, 5, 0) == -1).all()
