import math

import pytest
import torch
from torch.nn import functional as F

from ltcli.stats.losses import focal, margins, reduce, remix_shares, sigmoid_focal, with_margins

REDUCTIONS = ["weighted-mean", "mean-of-weighted"]
ZERO = torch.tensor([0])
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


def test_sigmoid_focal_by_hand():
    # Of two classes, p = 1/2 for both: each (1/2)^2 ln 2. Then p = 3/4 for the own one, and 1/4 of
    # the other's is wrong: 3/4 right as well.
    assert sigmoid_focal(torch.zeros(1, 2), ZERO, 2.0).item() == pytest.approx(2 * 0.1733, abs=1e-4)
    three = torch.tensor([[math.log(3), -math.log(3)]])
    assert sigmoid_focal(three, ZERO, 1.0).item() == pytest.approx(2 * math.log(4 / 3) / 4)
    assert sigmoid_focal(three, ZERO + 1, 1.0).item() == pytest.approx(2 * 0.75 * math.log(4))


def test_sigmoid_focal_without_exponent_is_the_sum_of_binary_cross_entropies(rng):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    own = F.one_hot(labels, 3).float()
    plain = F.binary_cross_entropy_with_logits(logits, own, reduction="none").sum(1)
    torch.testing.assert_close(sigmoid_focal(logits, labels, 0.0), plain)
    assert (sigmoid_focal(logits, labels, 0.5) < plain).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_sigmoid_focal_and_its_gradient_are_the_formula_class_by_class(rng, gamma):
    labels = torch.arange(8) % 3
    logits = torch.randn(8, 3, generator=rng, dtype=torch.float64).requires_grad_()
    rows = []
    for row, label in zip(logits.sigmoid(), labels.tolist(), strict=True):
        right = [p if c == label else 1 - p for c, p in enumerate(row)]
        rows.append(sum((1 - p) ** gamma * -p.log() for p in right))
    expected, found = torch.stack(rows), sigmoid_focal(logits, labels, gamma)
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), logits)[0], slope)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("margin", [1e4, 1e-4, -1e4])
def test_sigmoid_focal_and_its_gradient_are_finite_at_any_certainty(gamma, margin):
    logits = torch.tensor([[margin, 0.0], [0.0, margin]], requires_grad=True)
    value = sigmoid_focal(logits, torch.tensor([0, 0]), gamma).sum()
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
    losses, weights, whole = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5]), torch.ones(2)
    assert reduce(losses, weights, "weighted-mean", whole).item() == pytest.approx(4 / 3.5)
    assert reduce(losses, weights, "mean-of-weighted", whole).item() == pytest.approx(2)
    plain = [reduce(losses, whole, name, whole) for name in REDUCTIONS]
    assert plain[0] == plain[1] == losses.mean()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_shares_of_labels_count_like_parts_of_samples(rng, reduction):
    # Three mixed images, each with two labels whose shares add up to 1: one sample at a time.
    first, second, share = torch.rand(3, 3, generator=rng, dtype=torch.float64)
    own, other = torch.rand(2, 3, generator=rng, dtype=torch.float64) + 0.5
    total, weight = 0.0, 0.0
    for i in range(3):
        total += share[i] * own[i] * first[i] + (1 - share[i]) * other[i] * second[i]
        weight += share[i] * own[i] + (1 - share[i]) * other[i]
    found = reduce(
        torch.cat([first, second]),
        torch.cat([own, other]),
        reduction,
        torch.cat([share, 1 - share]),
    )
    expected = total / (weight if reduction == "weighted-mean" else 3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_share_of_nothing_is_a_sample_that_is_not_there(reduction):
    losses, weights = torch.tensor([1.0, 2.0, 50.0]), torch.tensor([3.0, 0.5, 7.0])
    shares = torch.tensor([1.0, 1.0, 0.0])
    without = reduce(losses[:2], weights[:2], reduction, shares[:2])
    assert reduce(losses, weights, reduction, shares).equal(without)


# Two classes of 5000 and 50 images, and two of 100 and 60; the share of the first label.
REMIX = [
    ((5000, 50), 0.4, 0.0),
    ((5000, 50), 0.6, 0.6),
    ((50, 5000), 0.6, 1.0),
    ((50, 5000), 0.4, 0.4),
    ((100, 60), 0.3, 0.3),
    # The ratio itself counts, the share itself does not.
    ((150, 50), 0.4, 0.0),
    ((149, 50), 0.4, 0.4),
    ((5000, 50), 0.5, 0.5),
    ((50, 150), 0.6, 1.0),
    ((50, 149), 0.6, 0.6),
    ((50, 5000), 0.5, 0.5),
]


@pytest.mark.parametrize(("counts", "share", "expected"), REMIX)
def test_published_shares_of_remix(counts, share, expected):
    found = remix_shares(
        share, ZERO, ZERO + 1, class_counts=torch.tensor(counts), ratio=3.0, below=0.5
    )
    assert found.tolist() == pytest.approx([expected])
    assert found.dtype == torch.float32


@pytest.mark.parametrize("limit", [{"ratio": math.inf, "below": 0.5}, {"ratio": 3.0, "below": 0.0}])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_remix_of_an_infinite_ratio_or_below_nothing_is_mixup(rng, limit, share):
    labels, others = torch.randint(4, (2, 50), generator=rng)
    counts = torch.tensor([5000, 500, 50, 5])
    shares = remix_shares(share, labels, others, class_counts=counts, **limit)
    assert shares.equal(torch.full((50,), share))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize(("ratio", "below"), [(3.0, 0.5), (20.0, 0.2), (1.0, 0.5)])
def test_remix_pair_by_pair(rng, share, ratio, below):
    labels, others = torch.randint(4, (2, 50), generator=rng)
    counts = torch.tensor([5000, 500, 50, 40])
    expected = []
    for i, j in zip(labels.tolist(), others.tolist(), strict=True):
        n, m = counts[i].item(), counts[j].item()
        if n / m >= ratio and share < below:
            expected.append(0.0)
        elif n / m <= 1 / ratio and 1 - share < below:
            expected.append(1.0)
        else:
            expected.append(share)
    found = remix_shares(share, labels, others, class_counts=counts, ratio=ratio, below=below)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_remix_turned_round_gives_the_other_label_the_same_share(rng):
    labels, others = torch.randint(4, (2, 50), generator=rng)
    options = {"class_counts": torch.tensor([5000, 500, 50, 40]), "ratio": 3.0, "below": 0.5}
    one = remix_shares(0.3, labels, others, **options)
    other = remix_shares(0.7, others, labels, **options)
    torch.testing.assert_close(one, 1 - other)
