import math

import pytest
import torch
from torch.nn import functional as F

from ltcli.data.batches import Batch
from tests.methods.conftest import loss_and_run

BATCH = Batch(0, 0, 0, torch.arange(8))


def loss_of(counts, logits, labels):
    return loss_and_run("balanced-softmax", counts)[0](logits, labels, BATCH)


@pytest.mark.parametrize(("label", "probability"), [(0, 0.9), (1, 0.1)])
def test_two_classes_by_hand(label, probability):
    # z = (0, 0), n = (9, 1). Each class alone: their sum is blind to the sign.
    loss = loss_of([9, 1], torch.zeros(1, 2), torch.tensor([label]))
    assert loss.item() == pytest.approx(-math.log(probability))


def test_equal_counts_give_cross_entropy(rng):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    plain = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(loss_of([7, 7, 7], logits, labels), plain)


def test_only_ratios_of_counts_matter(rng):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    one, other = loss_of([60, 20, 4], logits, labels), loss_of([15, 5, 1], logits, labels)
    torch.testing.assert_close(one, other)


def test_it_is_logit_adjustment_in_the_loss_with_tau_1(rng):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    counts = [100, 10, 1]
    adjusted, _ = loss_and_run("logit-adjustment", counts, tau=1.0)
    torch.testing.assert_close(loss_of(counts, logits, labels), adjusted(logits, labels, BATCH))


def test_renaming_classes_changes_nothing(rng):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    new = torch.tensor([2, 0, 1])
    counts = torch.tensor([100, 10, 1])
    renamed = torch.empty_like(logits).index_copy_(1, new, logits)
    moved = torch.empty_like(counts).index_copy_(0, new, counts)
    one, other = loss_of(counts, logits, labels), loss_of(moved, renamed, new[labels])
    torch.testing.assert_close(one, other)
