from fractions import Fraction

import pytest
import torch

from ltcli.core.errors import DataError, ParamError
from ltcli.stats.class_weights import effective_number_weights

# CIFAR-10-LT, exponential profile, beta = 0.9999, four decimals.
GOLDEN = {
    10: (
        [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
        [0.2923, 0.3584, 0.4442, 0.5555, 0.6997, 0.8858, 1.1266, 1.4375, 1.8415, 2.3585],
    ),
    20: (
        [5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250],
        [0.1797, 0.2347, 0.3120, 0.4202, 0.5717, 0.7832, 1.0784, 1.4902, 2.0669, 2.8631],
    ),
    50: (
        [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
        [0.0890, 0.1267, 0.1853, 0.2761, 0.4168, 0.6344, 0.9695, 1.4894, 2.2923, 3.5206],
    ),
    100: (
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
        [0.0506, 0.0769, 0.1211, 0.1950, 0.3188, 0.5246, 0.8683, 1.4426, 2.4092, 3.9927],
    ),
    200: (
        [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
        [0.0282, 0.0457, 0.0777, 0.1354, 0.2394, 0.4270, 0.7647, 1.3740, 2.4687, 4.4392],
    ),
}


@pytest.mark.parametrize("imbalance_factor", GOLDEN)
def test_known_weights_of_long_tailed_cifar10(imbalance_factor):
    counts, expected = GOLDEN[imbalance_factor]
    weights = effective_number_weights(torch.tensor(counts), 0.9999)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=5.1e-5)


def test_two_classes_by_hand():
    # Effective numbers 1 and 1.5: raw weights 1 and 2/3, of mean 5/6.
    weights = effective_number_weights(torch.tensor([1, 2]), 0.5)
    assert weights.tolist() == pytest.approx([6 / 5, 4 / 5], rel=1e-15)
    assert weights.dtype == torch.float64


def test_without_overlap_every_class_weighs_one():
    assert effective_number_weights(torch.tensor([5000, 50, 1]), 0.0).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("beta", [1 - 2**-40, 1 - 2**-53])
def test_near_one_the_weights_are_the_inverse_frequency(beta):
    counts = torch.tensor([5000, 50, 1])
    inverse = 1 / counts.double()
    expected = inverse / inverse.mean()
    torch.testing.assert_close(effective_number_weights(counts, beta), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("beta", [0.3, 0.9999, 1 - 1e-7, 1 - 1e-12])
def test_weights_are_those_of_exact_arithmetic(beta):
    counts, overlap = [50, 7, 1], Fraction(beta)
    raw = [(1 - overlap) / (1 - overlap**n) for n in counts]
    expected = torch.tensor([float(3 * w / sum(raw)) for w in raw], dtype=torch.float64)
    weights = effective_number_weights(torch.tensor(counts), beta)
    torch.testing.assert_close(weights, expected, rtol=1e-14, atol=0)


def test_permuting_the_classes_permutes_the_weights(rng):
    counts = torch.randint(1, 500, (20,), generator=rng)
    order = torch.randperm(20, generator=rng)
    weights = effective_number_weights(counts, 0.999)
    torch.testing.assert_close(effective_number_weights(counts[order], 0.999), weights[order])


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_a_beta_outside_its_range_is_refused(beta):
    with pytest.raises(ParamError, match="beta must be at least 0 and below 1, got"):
        effective_number_weights(torch.tensor([3, 1]), beta)


def test_a_class_without_samples_is_refused():
    with pytest.raises(DataError, match="class_counts must be at least 1, got 0 for class 1"):
        effective_number_weights(torch.tensor([3, 0]), 0.9)
