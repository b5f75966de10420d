import numpy as np
import pytest
import torch

from ltcli.core.errors import DataError, NumericalError, ParamError
from ltcli.stats.moments import (
    BLOCK,
    class_counts,
    class_means,
    class_rows,
    diagonal_covariances,
    factors,
    full_covariances,
)

# Class 3 of 6 has no samples, class 4 has one.
LABELS = torch.tensor([5, 0, 1, 0, 2, 4, 1, 0, 2, 2, 5, 0, 1, 5, 0, 2, 0, 5, 2, 1])


def draw(rng, samples=20, dim=4):
    return torch.randn(samples, dim, generator=rng) @ torch.randn(dim, dim, generator=rng)


def products(rows, offsets):
    spans = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    return torch.stack([rows[i:j].T.double() @ rows[i:j].double() for i, j in spans])


def test_two_classes_by_hand():
    # Class 0: (0, 0) and (2, 4): mean (1, 2), deviations (-1, -2) and (1, 2).
    features = torch.tensor([[0.0, 0.0], [7.0, 5.0], [2.0, 4.0]])
    labels = torch.tensor([0, 1, 0])
    assert class_counts(labels, 2).tolist() == [2, 1]
    assert class_means(features, labels, 2).tolist() == [[1, 2], [7, 5]]
    population = full_covariances(features, labels, 2, ddof=0)
    torch.testing.assert_close(population[0], torch.tensor([[1.0, 2], [2, 4]]))
    unbiased = full_covariances(features, labels, 2, ddof=1)
    torch.testing.assert_close(unbiased[0], torch.tensor([[2.0, 4], [4, 8]]))
    assert not population[1].any()
    assert not unbiased[1].any()


@pytest.mark.parametrize("ddof", [0, 1])
def test_moments_are_those_of_numpy(rng, ddof):
    features = draw(rng)
    covariances = full_covariances(features, LABELS, 6, ddof=ddof)
    means = class_means(features, LABELS, 6)
    assert (means.dtype, covariances.dtype) == (torch.float64, torch.float32)
    for c in (0, 1, 2, 5):
        own = features[c == LABELS].double().numpy()
        expected = torch.from_numpy(np.cov(own, rowvar=False, ddof=ddof))
        torch.testing.assert_close(covariances[c].double(), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(means[c], torch.from_numpy(own.mean(0)), rtol=0, atol=1e-12)


def test_covariances_are_symmetric_and_positive_semidefinite(rng):
    covariances = full_covariances(draw(rng), LABELS, 6, ddof=1)
    torch.testing.assert_close(covariances, covariances.mT)
    assert torch.linalg.eigvalsh(covariances.double()).min() > -1e-6


@pytest.mark.parametrize("ddof", [0, 1])
def test_the_diagonal_form_is_the_diagonal_of_the_full_one(rng, ddof):
    features = draw(rng)
    full = full_covariances(features, LABELS, 6, ddof=ddof)
    diagonal = diagonal_covariances(features, LABELS, 6, ddof=ddof)
    torch.testing.assert_close(diagonal, full.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("dim", [2, 4, 9], ids=["fewer", "some", "more dimensions than samples"])
def test_factors_multiply_to_the_full_form(rng, ddof, dim):
    features = draw(rng, dim=dim)
    rows, offsets = factors(features, LABELS, 6, ddof=ddof)
    full = full_covariances(features, LABELS, 6, ddof=ddof)
    torch.testing.assert_close(products(rows, offsets), full.double(), rtol=1e-5, atol=1e-5)
    assert offsets.diff().tolist() == [min(n, dim) for n in (6, 4, 5, 0, 1, 4)]
    assert rows.dtype == torch.float32


def test_classes_of_many_blocks_have_the_same_moments(rng):
    features = draw(rng, samples=3 * BLOCK, dim=3) + 5
    labels = (torch.rand(len(features), generator=rng) < 0.2).long()
    full = full_covariances(features, labels, 2, ddof=1)
    expected = [np.cov(features[labels == c].double().numpy(), rowvar=False) for c in (0, 1)]
    torch.testing.assert_close(
        full.double(), torch.from_numpy(np.stack(expected)), rtol=1e-6, atol=1e-6
    )
    diagonal = diagonal_covariances(features, labels, 2, ddof=1)
    torch.testing.assert_close(diagonal, full.diagonal(dim1=1, dim2=2))
    rows, offsets = factors(features, labels, 2, ddof=1)
    assert offsets.tolist() == [0, 3, 6]
    torch.testing.assert_close(products(rows, offsets), full.double(), rtol=1e-5, atol=1e-5)


def test_a_large_mean_costs_no_digits(rng):
    noise = torch.randn(300, 3, generator=rng, dtype=torch.float64)
    labels = torch.arange(300) % 2
    near = full_covariances(noise, labels, 2, ddof=0)
    torch.testing.assert_close(
        full_covariances(noise + 1000, labels, 2, ddof=0), near, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        diagonal_covariances(noise + 1000, labels, 2, ddof=0),
        near.diagonal(dim1=1, dim2=2),
        rtol=1e-6,
        atol=1e-6,
    )


def test_float32_features_of_large_mean_keep_the_covariance_of_what_they_hold(rng):
    features = torch.randn(500, 2, generator=rng) + 1000
    expected = np.cov(features.double().numpy(), rowvar=False, ddof=0)
    labels = torch.zeros(500, dtype=torch.int64)
    found = full_covariances(features, labels, 1, ddof=0)[0].double()
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_a_class_depends_on_its_own_samples_only(rng):
    features, kept = draw(rng), (LABELS == 0) | (LABELS == 5)
    for estimate in (full_covariances, diagonal_covariances):
        everything = estimate(features, LABELS, 6, ddof=1)
        alone = estimate(features[kept], LABELS[kept], 6, ddof=1)
        assert torch.equal(everything[[0, 5]], alone[[0, 5]])
    assert torch.equal(
        class_means(features, LABELS, 6)[[0, 5]],
        class_means(features[kept], LABELS[kept], 6)[[0, 5]],
    )


@pytest.mark.parametrize("ddof", [0, 1])
def test_classes_of_no_and_of_one_sample_have_zero_covariance(rng, ddof):
    features = draw(rng)
    assert not full_covariances(features, LABELS, 6, ddof=ddof)[3:5].any()
    assert not diagonal_covariances(features, LABELS, 6, ddof=ddof)[3:5].any()
    rows, offsets = factors(features, LABELS, 6, ddof=ddof)
    assert not rows[offsets[3] : offsets[5]].any()
    assert not class_means(features, LABELS, 6)[3].any()
    assert class_means(features, LABELS, 6)[4].tolist() == features[5].tolist()


def test_no_samples_at_all():
    features, labels = torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)
    assert not full_covariances(features, labels, 3, ddof=1).any()
    rows, offsets = factors(features, labels, 3, ddof=1)
    assert rows.shape == (0, 2)
    assert offsets.tolist() == [0, 0, 0, 0]


def test_class_rows_are_a_partition_in_input_order():
    found = {c: rows.tolist() for c, rows in class_rows(LABELS, 6)}
    assert found == {
        c: [i for i, label in enumerate(LABELS.tolist()) if label == c] for c in (0, 1, 2, 4, 5)
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_feature_that_is_not_finite_is_named(rng, value):
    features = draw(rng)
    features[[7, 9], 2] = value
    with pytest.raises(NumericalError) as caught:
        full_covariances(features, LABELS, 6, ddof=0)
    assert str(caught.value) == f"class moments: features must be finite, got {value} in sample 7"


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_named(label):
    with pytest.raises(DataError) as caught:
        class_counts(torch.tensor([0, 2, label]), 3)
    expected = f"class counts: labels must be in 0 ... 2, got {label} for sample 2"
    assert str(caught.value) == expected


def test_an_unknown_divisor_is_refused(rng):
    with pytest.raises(ParamError, match="ddof must be 0 or 1, got 2"):
        factors(draw(rng), LABELS, 6, ddof=2)
