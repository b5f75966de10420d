import numpy as np
import pytest
import torch

from ltcli.core.errors import DataError, NumericalError
from ltcli.stats import moments
from ltcli.stats.moments import class_counts, class_means, class_moments, class_rows, merge

FORMS = ("full", "diagonal", "factor")

# Class 3 of 6 has no samples, class 4 has one.
LABELS = torch.tensor([5, 0, 1, 0, 2, 4, 1, 0, 2, 2, 5, 0, 1, 5, 0, 2, 0, 5, 2, 1])


def draw(rng, samples=20, dim=4):
    return torch.randn(samples, dim, generator=rng) @ torch.randn(dim, dim, generator=rng)


def scatters(features, labels, form):
    """Scatters of the classes, whatever the form, as [D, D] or [D]."""
    found = {c: known.scatter for c, known in class_moments(features, labels, 6, form)}
    if form == "factor":
        found = {c: rows.T @ rows for c, rows in found.items()}
    return found


def naive(rows, form="full"):
    """The formula, sample by sample."""
    rows = rows.double()
    apart = rows - rows.mean(0)
    total = sum(torch.outer(one, one) for one in apart)
    return total.diag() if form == "diagonal" else total


def test_two_classes_by_hand():
    # Class 0: (0, 0) and (2, 4): mean (1, 2), deviations (-1, -2) and (1, 2).
    features = torch.tensor([[0.0, 0.0], [7.0, 5.0], [2.0, 4.0]])
    labels = torch.tensor([0, 1, 0])
    assert class_counts(labels, 2).tolist() == [2, 1]
    assert class_means(features, labels, 2).tolist() == [[1, 2], [7, 5]]
    (_, first), (_, second) = class_moments(features, labels, 2, "full")
    assert (first.count, first.mean.tolist()) == (2, [1, 2])
    assert first.scatter.tolist() == [[2, 4], [4, 8]]
    assert (second.count, second.mean.tolist()) == (1, [7, 5])
    assert not second.scatter.any()


@pytest.mark.parametrize("dim", [2, 4, 9], ids=["fewer", "some", "more dimensions than samples"])
@pytest.mark.parametrize("form", FORMS)
def test_moments_are_those_of_the_formula(rng, form, dim):
    features = draw(rng, dim=dim)
    found = scatters(features, LABELS, form)
    assert list(found) == [0, 1, 2, 4, 5]
    for c, known in class_moments(features, LABELS, 6, form):
        own = features[c == LABELS]
        torch.testing.assert_close(found[c], naive(own, form), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(known.mean, own.double().mean(0), rtol=0, atol=1e-12)
        assert known.count == len(own)
        if form == "factor":
            assert len(known.scatter) == min(len(own), dim)


@pytest.mark.parametrize("block", [1, 2, 3, 5])
@pytest.mark.parametrize("dim", [3, 40])
@pytest.mark.parametrize("form", FORMS)
def test_the_size_of_blocks_changes_nothing_but_rounding(rng, monkeypatch, form, dim, block):
    features = draw(rng, dim=dim)
    whole = scatters(features, LABELS, form)
    sizes = [len(known.scatter) for _, known in class_moments(features, LABELS, 6, form)]
    monkeypatch.setattr(moments, "BLOCK", block)
    torch.testing.assert_close(scatters(features, LABELS, form), whole, rtol=1e-11, atol=1e-11)
    again = list(class_moments(features, LABELS, 6, form))
    assert [len(known.scatter) for _, known in again] == sizes
    for c, known in again:
        expected = features[c == LABELS].double().mean(0)
        torch.testing.assert_close(known.mean, expected, rtol=0, atol=1e-12)


class Reader:
    """Features that note which rows were asked for, and how many at a time."""

    def __init__(self, features):
        self.features, self.shape, self.asked = features, features.shape, []

    def __getitem__(self, index):
        self.asked.append(index.tolist())
        return self.features[index]


@pytest.mark.parametrize("form", FORMS)
def test_each_row_is_read_once_and_a_block_at_a_time(rng, monkeypatch, form):
    monkeypatch.setattr(moments, "BLOCK", 3)
    reader = Reader(draw(rng))
    list(class_moments(reader, LABELS, 6, form))
    assert sorted(row for block in reader.asked for row in block) == list(range(20))
    assert max(map(len, reader.asked)) == 3
    assert all(len(set(LABELS[block].tolist())) == 1 for block in reader.asked)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("one", "two"), [(2, 1), (1, 7), (6, 3), (30, 20)])
def test_merged_sets_have_the_moments_of_all_samples(rng, form, one, two):
    # Far apart: the difference of the means counts most.
    rows = torch.cat([draw(rng, one), draw(rng, two) + 50])

    def of(part):
        return next(class_moments(part, torch.zeros(len(part), dtype=torch.int64), 1, form))[1]

    both, whole = merge(of(rows[:one]), of(rows[one:]), form), of(rows)
    assert both.count == one + two
    torch.testing.assert_close(both.mean, whole.mean, rtol=1e-12, atol=1e-12)
    assert both.scatter.shape == whole.scatter.shape
    found = both.scatter.T @ both.scatter if form == "factor" else both.scatter
    torch.testing.assert_close(found, naive(rows, form), rtol=1e-10, atol=1e-9)


def test_a_large_mean_costs_no_digits(rng, monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", 64)
    noise = torch.randn(300, 3, generator=rng, dtype=torch.float64)
    labels = torch.arange(300) % 2
    for form in FORMS:
        near, far = (scatters(noise + by, labels, form) for by in (0, 1000))
        torch.testing.assert_close(far, near, rtol=1e-9, atol=1e-9)


def test_means_of_float32_features_are_those_of_what_they_hold(rng):
    features = torch.randn(4096, 2, generator=rng) + 1000
    found = moments.class_means(features, torch.zeros(4096, dtype=torch.int64), 1)
    expected = features.double().mean(0, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_float32_features_of_large_mean_keep_the_covariance_of_what_they_hold(rng):
    features = torch.randn(500, 2, generator=rng) + 1000
    expected = np.cov(features.double().numpy(), rowvar=False, ddof=0) * 500
    found = scatters(features, torch.zeros(500, dtype=torch.int64), "full")[0]
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_a_class_depends_on_its_own_samples_only(rng, form):
    features, kept = draw(rng), (LABELS == 0) | (LABELS == 5)
    everything = dict(class_moments(features, LABELS, 6, form))
    for c, alone in class_moments(features[kept], LABELS[kept], 6, form):
        assert torch.equal(everything[c].scatter, alone.scatter)
        assert torch.equal(everything[c].mean, alone.mean)
    assert torch.equal(
        class_means(features, LABELS, 6)[[0, 5]],
        class_means(features[kept], LABELS[kept], 6)[[0, 5]],
    )


def test_no_samples_at_all():
    features, labels = torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)
    assert list(class_moments(features, labels, 3, "full")) == []
    assert not class_means(features, labels, 3).any()


def test_class_rows_are_a_partition_in_input_order():
    found = {c: rows.tolist() for c, rows in class_rows(LABELS, 6)}
    assert found == {
        c: [i for i, label in enumerate(LABELS.tolist()) if label == c] for c in (0, 1, 2, 4, 5)
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_feature_that_is_not_finite_is_named(rng, value):
    features = draw(rng)
    features[[7, 9], 2] = value
    expected = f"class moments: features must be finite, got {value} in sample 7"
    with pytest.raises(NumericalError) as caught:
        list(class_moments(features, LABELS, 6, "full"))
    assert str(caught.value) == expected
    with pytest.raises(NumericalError) as caught:
        class_means(features, LABELS, 6)
    assert str(caught.value) == expected


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_named(label):
    with pytest.raises(DataError) as caught:
        class_counts(torch.tensor([0, 2, label]), 3)
    expected = f"class counts: labels must be in 0 ... 2, got {label} for sample 2"
    assert str(caught.value) == expected
