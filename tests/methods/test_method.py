"""Base losses and the weighted mean that methods share."""

import pytest
import torch
from torch.nn import functional as F

from ltcli.data.batches import Batch
from ltcli.engine.steps import weighted_mean
from ltcli.methods.options import Base, base_loss
from ltcli.stats.class_weights import effective_number_weights

COUNTS = torch.tensor([1296, 256, 16])
LABELS = torch.tensor([0, 1, 2, 1])
BATCH = Batch(3, 0, 0, torch.arange(4))


def test_base_losses_are_sample_by_sample_those_of_their_papers(rng):
    logits = torch.randn(4, 3, generator=rng)
    found = {
        name: base_loss(Base(base=name, gamma=1.5, max_margin=0.9), COUNTS)(logits, LABELS, BATCH)
        for name in ("ce", "focal", "ldam")
    }
    # n^(-1/4) is 1/6, 1/4 and 1/2: of the largest margin a third, a half and all.
    margins = torch.tensor([0.3, 0.45, 0.9])
    for i, (z, y) in enumerate(zip(logits, LABELS, strict=True)):
        p = z.softmax(0)[y]
        torch.testing.assert_close(found["ce"][i], -p.log())
        torch.testing.assert_close(found["focal"][i], (1 - p) ** 1.5 * -p.log())
        lowered = z - margins[y] * F.one_hot(y, 3)
        torch.testing.assert_close(found["ldam"][i], -lowered.log_softmax(0)[y])


@pytest.mark.parametrize("reduction", ["weighted-mean", "mean-of-weighted"])
def test_the_mean_has_the_weights_of_the_effective_number_from_an_epoch_on(rng, reduction):
    values = torch.rand(4, generator=rng)
    weights = effective_number_weights(COUNTS, 0.999).float()[LABELS]
    total = (weights * values).sum()
    expected = total / (weights.sum() if reduction == "weighted-mean" else 4)
    for first_epoch in (0, 3):
        mean = weighted_mean(0.999, reduction, COUNTS, first_epoch)
        torch.testing.assert_close(mean(values, LABELS, BATCH), expected)
    before = weighted_mean(0.999, reduction, COUNTS, 4)(values, LABELS, BATCH)
    plain = weighted_mean(0.0, reduction, COUNTS)
    assert before.equal(plain(values, LABELS, BATCH))
    torch.testing.assert_close(before, values.mean())


def test_an_image_with_two_labels_has_the_weights_of_both(rng):
    values, share = torch.rand(8, generator=rng), 0.3
    weights = effective_number_weights(COUNTS, 0.999).float()
    labels, shares = torch.cat([LABELS, LABELS.flip(0)]), torch.tensor([share] * 4 + [0.7] * 4)
    total, weight = 0.0, 0.0
    for value, y, part in zip(values, labels, shares, strict=True):
        total += part * weights[y] * value
        weight += part * weights[y]
    mean = weighted_mean(0.999, "weighted-mean", COUNTS)
    torch.testing.assert_close(mean(values, labels, BATCH, shares), total / weight)
