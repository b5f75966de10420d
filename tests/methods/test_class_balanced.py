import math

import pytest
import torch
from torch.nn import functional as F

from ltcli.methods import balances
from ltcli.methods.class_balanced import METHOD

REDUCTIONS = ["weighted-mean", "mean-of-weighted"]
STAGES = ["pretrain", "finetune"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("reduction", "divisor"), [(REDUCTIONS[0], 2.8), (REDUCTIONS[1], 3)])
def test_both_reductions_by_hand(objective, reduction, divisor, stage):
    # n = (1, 2), beta = 1/2: raw weights 1 and (1/2)/(3/4) = 2/3, of mean 5/6: w = (1.2, 0.8).
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    loss = objective("class-balanced", [1, 2], stage, beta=0.5, reduction=reduction)
    total = 1.2 * math.log(2) + 0.8 * math.log(4) + 0.8 * math.log(2)
    assert loss(logits, labels).item() == pytest.approx(total / divisor)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("counts", "beta"), [([5, 5, 5], 0.9999), ([100, 10, 1], 0.0)], ids=["uniform", "beta=0"]
)
def test_reduces_to_cross_entropy(rng, objective, counts, beta, reduction):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    loss = objective("class-balanced", counts, beta=beta, reduction=reduction)
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels))


def test_published_weights_of_cifar_10_at_100(objective):
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    loss = objective("class-balanced", counts, reduction="mean-of-weighted")
    weights = [loss(torch.zeros(1, 10), torch.tensor([c])).item() / math.log(10) for c in range(10)]
    published = [0.0506, 0.0769, 0.1211, 0.1950, 0.3188, 0.5246, 0.8683, 1.4426, 2.4092, 3.9927]
    assert weights == pytest.approx(published, abs=1e-4)


def test_the_weighted_mean_of_one_class_is_cross_entropy(rng, objective):
    # All weights of the batch are equal and cancel; the other reduction keeps them.
    logits, labels = torch.randn(4, 2, generator=rng), torch.ones(4, dtype=torch.int64)
    plain = F.cross_entropy(logits, labels)
    weighted = objective("class-balanced", [90, 1])(logits, labels)
    torch.testing.assert_close(weighted, plain)
    scaled = objective("class-balanced", [90, 1], reduction="mean-of-weighted")(logits, labels)
    assert scaled > 1.5 * plain


@pytest.mark.parametrize("stage", STAGES)
def test_without_its_weights_it_follows_the_class_prior(options, stage):
    assert options("class-balanced", stage).beta == 0.9999
    assert balances(METHOD, options("class-balanced", stage))
    assert not balances(METHOD, options("class-balanced", stage, beta=0.0))
