import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltcli.core.errors import DataError, ParamError
from ltcli.data.long_tail import (
    cao_indices,
    counts_for_test,
    counts_for_validation,
    cut,
    profile_counts,
)

CIFAR10 = [
    (5000, 10, 20431, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
    (5000, 20, 17023, [5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250]),
    (5000, 50, 13996, [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]),
    (5000, 100, 12406, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
    (5000, 200, 11203, [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25]),
    (4990, 10, 20391, [4990, 3863, 2991, 2316, 1793, 1388, 1075, 832, 644, 499]),
    (4990, 20, 16989, [4990, 3577, 2564, 1838, 1317, 944, 677, 485, 348, 249]),
    (4990, 50, 13967, [4990, 3230, 2091, 1354, 877, 567, 367, 238, 154, 99]),
    (4990, 100, 12380, [4990, 2991, 1793, 1075, 644, 386, 231, 138, 83, 49]),
    (4990, 200, 11177, [4990, 2769, 1537, 853, 473, 262, 145, 80, 44, 24]),
]
# Pool images per class, imbalance factor, total, first, last, many / medium / few.
CIFAR100 = [
    (500, 10, 19573, 500, 50, (69, 31, 0)),
    (500, 20, 15907, 500, 25, (53, 47, 0)),
    (500, 50, 12608, 500, 10, (41, 41, 18)),
    (500, 100, 10847, 500, 5, (35, 35, 30)),
    (500, 200, 9502, 500, 2, (30, 31, 39)),
    (490, 10, 19183, 490, 49, (68, 32, 0)),
    (490, 20, 15594, 490, 24, (53, 47, 0)),
    (490, 50, 12354, 490, 9, (40, 41, 19)),
    (490, 100, 10626, 490, 4, (34, 35, 31)),
    (490, 200, 9304, 490, 2, (30, 30, 40)),
]
STEP = [
    (10, (500, 27500), (50, 27500)),
    (20, (250, 26250), (25, 26250)),
    (50, (100, 25500), (10, 25500)),
    (100, (50, 25250), (5, 25250)),
    (200, (25, 25125), (2, 25100)),
]


@pytest.fixture(scope="module")
def labels():
    """CIFAR-10's 50,000 training labels in some order."""
    return np.random.default_rng(7).permutation(np.repeat(np.arange(10), 5000))


@pytest.mark.parametrize(("largest", "factor", "total", "counts"), CIFAR10)
def test_long_tailed_cifar10_has_the_published_counts(largest, factor, total, counts):
    assert profile_counts("exp", [largest] * 10, factor) == counts
    assert sum(counts) == total


@pytest.mark.parametrize(("largest", "factor", "total", "first", "last", "groups"), CIFAR100)
def test_long_tailed_cifar100_has_the_published_counts(largest, factor, total, first, last, groups):
    counts = np.array(profile_counts("exp", [largest] * 100, factor))
    assert (counts.sum(), counts[0], counts[-1]) == (total, first, last)
    many, few = (counts > 100).sum(), (counts < 20).sum()
    assert (many, 100 - many - few, few) == groups
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize(("factor", "of_ten", "of_hundred"), STEP)
def test_step_profile_has_the_published_counts(factor, of_ten, of_hundred):
    for largest, num_classes, (minority, total) in ((5000, 10, of_ten), (500, 100, of_hundred)):
        counts = profile_counts("step", [largest] * num_classes, factor)
        half = num_classes // 2
        assert counts == [largest] * half + [minority] * half
        assert sum(counts) == total


def test_natural_profile_takes_the_pool_and_ignores_the_factor():
    assert profile_counts("natural", [7, 1, 30], 0.01) == [7, 1, 30]


def test_artificial_profiles_start_from_the_smallest_class_of_the_pool():
    assert profile_counts("exp", [80, 40, 60], 4) == [40, 20, 10]
    assert profile_counts("step", [80, 40, 60], 4) == [40, 10, 10]


@pytest.mark.parametrize("profile", ["exp", "step"])
def test_factor_one_keeps_the_balance_and_one_class_keeps_all(profile):
    assert profile_counts(profile, [9] * 5, 1) == [9] * 5
    assert profile_counts(profile, [9], 3) == [9]


@pytest.mark.parametrize(
    ("factor", "message", "hint"),
    [
        (0.01, "imbalance_factor must be at least 1, got 0.01", "did you mean 100?"),
        (0.005, "imbalance_factor must be at least 1, got 0.005", "did you mean 200?"),
        (0.0, "imbalance_factor must be at least 1, got 0", None),
        (-3, "imbalance_factor must be at least 1, got -3", None),
        (float("nan"), "imbalance_factor must be at least 1, got nan", None),
        (51, "imbalance_factor 51 leaves class 9 no images", "use at most 50"),
        (1e6, "imbalance_factor 1e+06 leaves class 3 no images", "use at most 50"),
        (float("inf"), "imbalance_factor inf leaves class 1 no images", "use at most 50"),
    ],
)
def test_an_impossible_imbalance_factor_is_refused(factor, message, hint):
    with pytest.raises(ParamError) as caught:
        profile_counts("exp", [50] * 10, factor)
    assert (str(caught.value), caught.value.hint) == (f"split: {message}", hint)


@pytest.mark.parametrize("profile", ["exp", "step"])
@pytest.mark.parametrize("largest", [1, 2, 49, 50, 98, 103])
def test_the_factor_in_the_hint_is_feasible_and_the_next_is_not(profile, largest):
    with pytest.raises(ParamError) as caught:
        profile_counts(profile, [largest] * 10, 1000)
    feasible = int(caught.value.hint.removeprefix("use at most "))
    assert min(profile_counts(profile, [largest] * 10, feasible)) == 1
    with pytest.raises(ParamError):
        profile_counts(profile, [largest] * 10, feasible + 1)


def test_a_pool_without_images_of_a_class_is_refused():
    with pytest.raises(DataError) as caught:
        profile_counts("natural", [5, 0, 3], 1)
    assert str(caught.value) == "split: class 1 has no images in the pool"
    with pytest.raises(DataError, match="split: pool has no classes"):
        profile_counts("exp", [], 1)


def test_the_images_are_those_of_the_released_procedure(labels):
    counts = profile_counts("exp", [5000] * 10, 100)
    state = np.random.get_state()  # noqa: NPY002  - the released code uses the global generator
    expected = []
    np.random.seed(0)  # noqa: NPY002
    for label, count in zip(np.unique(labels), counts, strict=True):
        indices = np.where(labels == label)[0]
        np.random.shuffle(indices)  # noqa: NPY002
        expected.extend(indices[:count])
    np.random.set_state(state)  # noqa: NPY002
    chosen = cao_indices(labels, counts, seed=0)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == expected


def test_the_images_are_a_function_of_the_seed_and_leave_global_state_alone(labels):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    counts = [3] * 10
    first, again, other = (cao_indices(labels, counts, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_a_smaller_draw_is_the_start_of_a_larger_one(labels):
    few, many = cao_indices(labels, [20] * 10, 0), cao_indices(labels, [50] * 10, 0)
    assert few.reshape(10, 20).tolist() == many.reshape(10, 50)[:, :20].tolist()


def test_a_pool_with_too_few_images_is_refused():
    with pytest.raises(DataError) as caught:
        cao_indices(np.array([0, 0, 1]), [2, 2], 0)
    assert str(caught.value) == "split: class 1 must have 2 images, got 1"


def test_holding_out_leaves_a_balanced_pool(labels):
    held, rest = cut(labels, [10] * 10, seed=0)
    assert held.dtype == rest.dtype == np.int64
    assert labels[held].tolist() == np.repeat(np.arange(10), 10).tolist()
    assert np.bincount(labels[rest]).tolist() == [4990] * 10
    assert sorted([*held, *rest]) == list(range(50_000))
    assert (np.diff(rest) > 0).all()
    again, other = cut(labels, [10] * 10, seed=0)[0], cut(labels, [10] * 10, seed=1)[0]
    assert held.tolist() == again.tolist()
    assert held.tolist() != other.tolist()


def test_a_class_gives_at_most_half_of_its_images_to_validation():
    for per_class, expected in ((0, [0] * 5), (2, [0, 1, 1, 0, 2]), (100, [0, 1, 1, 0, 4])):
        assert counts_for_validation([1, 2, 3, 0, 9], per_class) == expected


def test_the_validation_cut_of_own_data_leaves_the_tail_alone():
    counts = [0, 1, 9, 10, 19, 20, 399, 400]
    assert counts_for_validation(counts, None) == [0, 0, 0, 1, 1, 2, 39, 40]


def test_an_empty_pool_gives_nothing():
    held, rest = cut(np.empty(0, np.int64), [], seed=0)
    assert held.tolist() == rest.tolist() == cao_indices(rest, [], seed=0).tolist() == []


def test_the_test_cut_leaves_every_class_an_image():
    counts = [1, 2, 3, 6, 10, 0]
    assert counts_for_test(counts, 0.3) == [0, 1, 1, 1, 3, 0]
    assert counts_for_test(counts, 0.99) == [0, 1, 2, 5, 9, 0]


@given(
    st.lists(st.integers(0, 12), min_size=1).map(np.array),
    st.sampled_from([0.01, 0.3, 0.9]),
    st.none() | st.integers(0, 30),
    st.none() | st.integers(1, 9),
)
def test_no_cut_takes_the_last_image_of_a_class(labels, fraction, per_class, num_groups):
    groups = None if num_groups is None else np.arange(len(labels)) % num_groups
    counts = np.bincount(labels, minlength=13).tolist()
    test, rest = cut(labels, counts_for_test(counts, fraction), 3, groups)
    assert sorted([*test, *rest]) == list(range(len(labels)))
    assert (np.diff(rest) > 0).all()
    own = None if groups is None else groups[rest]
    counts = np.bincount(labels[rest], minlength=13).tolist()
    held, kept = cut(labels[rest], counts_for_validation(counts, per_class), 3, own)
    assert set(labels[rest][kept]) == set(labels)
    if groups is not None:
        parts = [set(groups[part]) for part in (test, rest[held], rest[kept])]
        assert len(set().union(*parts)) == sum(map(len, parts))


def test_whole_groups_come_as_close_to_the_counts_as_by_hand():
    # Class 0 has groups of 5, 3, 2 and 2 images, class 1 one of 6 and four of 1.
    labels = np.repeat([0, 1], [12, 10])
    groups = np.repeat(np.arange(9), [5, 3, 2, 2, 6, 1, 1, 1, 1])
    for seed in range(4):
        taken, _ = cut(labels, [4, 3], seed, groups)
        # 5 of class 0 is 1 too many, and nothing smaller brings it closer; 6 of class 1 would be
        # as far from 3 as none, and three single images meet it.
        assert np.bincount(labels[taken]).tolist() == [5, 3]
        assert set(groups[taken]) >= {0}


def test_a_group_over_several_classes_is_taken_by_its_sum():
    # The first group helps class 0 by 2 of 10 and harms class 1 by 1 of 2: it stays.
    labels = np.array([0, 0, 1, *[0] * 8, 1])
    groups = np.array([0, 0, 0, *range(1, 10)])
    taken, _ = cut(labels, [2, 0], 0, groups)
    assert np.bincount(labels[taken], minlength=2).tolist() == [2, 0]
    assert 0 not in groups[taken]


def test_groups_of_one_image_give_the_counts_and_the_seed_draws_them(labels):
    groups = np.arange(len(labels))
    wanted = [3, 0, *[1] * 8]
    draws = [cut(labels, wanted, seed, groups)[0] for seed in (0, 0, 1)]
    assert all(np.bincount(labels[taken]).tolist() == [3, 0, *[1] * 8] for taken in draws)
    assert draws[0].tolist() == draws[1].tolist() != draws[2].tolist()


def test_positions_of_classes_are_those_of_a_search_for_each(labels):
    random, expected = np.random.RandomState(5), []
    for label in range(12):
        positions = np.flatnonzero(labels == label)
        random.shuffle(positions)
        expected += positions[:7].tolist()
    assert cao_indices(labels, [7] * 10 + [0, 0], seed=5).tolist() == expected
