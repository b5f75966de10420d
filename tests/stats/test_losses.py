import math

import pytest
import torch
from torch.nn import functional as F

from ltcli.stats.losses import focal, margins, reduce, with_margins

CIFAR_10_AT_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_published_margins_of_cifar_10_at_100():
    published = [0.1581, 0.1797, 0.2042, 0.2321, 0.2638, 0.2998, 0.3407, 0.3872, 0.4405, 0.5]
    assert margins(torch.tensor(CIFAR_10_AT_100), 0.5).tolist() == pytest.approx(
        published, abs=1e-4
    )


@pytest.mark.parametrize(("factor", "first"), [(10, 0.2812), (50, 0.1880), (100, 0.1581)])
def test_published_first_margin_of_cifar_100(factor, first):
    counts = torch.tensor([500, 500 // factor])
    assert margins(counts, 0.5).tolist() == pytest.approx([first, 0.5], abs=1e-4)


@pytest.mark.parametrize("largest", [0.0, 0.3, 2.0])
def test_the_rarest_class_has_the_largest_margin_wherever_it_stands(largest):
    found = margins(torch.tensor([16, 1, 81]), largest)
    assert found.tolist() == pytest.approx([largest / 2, largest, largest / 3])


def test_focal_by_hand():
    # p = 1/2, gamma = 2: ln 2 / 4; p = 3/4, gamma = 1: ln(4/3) / 4.
    half, three = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    label = torch.tensor([0])
    assert focal(half, label, 2.0).item() == pytest.approx(0.1733, abs=1e-4)
    assert focal(three, label, 1.0).item() == pytest.approx(math.log(4 / 3) / 4)


def test_focal_without_exponent_is_cross_entropy(rng):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    plain = F.cross_entropy(logits, labels, reduction="none")
    assert focal(logits, labels, 0.0).equal(plain)
    torch.testing.assert_close(focal(logits, labels, 1e-9), plain, rtol=1e-6, atol=0)
    assert (focal(logits, labels, 0.5) < plain).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_gradient_of_focal_flows_through_its_factor(rng, gamma):
    labels = torch.arange(8) % 3
    logits = torch.randn(8, 3, generator=rng, dtype=torch.float64).requires_grad_()
    p = logits.softmax(1)[torch.arange(8), labels]
    (slope,) = torch.autograd.grad(((1 - p) ** gamma * -p.log()).sum(), logits)
    (found,) = torch.autograd.grad(focal(logits, labels, gamma).sum(), logits)
    torch.testing.assert_close(found, slope)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("margin", [1e4, 1e-4, -1e4])
def test_focal_and_its_gradient_are_finite_at_any_certainty(gamma, margin):
    logits = torch.tensor([[margin, 0.0]], requires_grad=True)
    value = focal(logits, torch.tensor([0]), gamma).sum()
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_a_margin_is_taken_off_the_own_logit_alone(rng):
    logits, labels = torch.randn(3, 3, generator=rng), torch.tensor([2, 0, 1])
    lowered = with_margins(logits, labels, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    expected = torch.tensor([[0, 0, 0.3], [0.1, 0, 0], [0, 0.2, 0]])
    assert lowered.dtype == logits.dtype
    torch.testing.assert_close(logits - lowered, expected)
    assert with_margins(logits, labels, torch.zeros(3)).equal(logits)


def test_both_reductions_by_hand():
    losses, weights = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5])
    assert reduce(losses, weights, "weighted-mean").item() == pytest.approx(4 / 3.5)
    assert reduce(losses, weights, "mean-of-weighted").item() == pytest.approx(2)
    same = torch.ones(2)
    assert reduce(losses, same, "weighted-mean") == reduce(losses, same, "mean-of-weighted")
