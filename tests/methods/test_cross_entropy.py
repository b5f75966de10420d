import math

import pytest
import torch
from torch.nn import functional as F

from ltcli.methods.cross_entropy import METHOD
from tests.methods.conftest import balances, parameters, planned

COUNTS = [9, 1, 4]


def test_two_samples_by_hand(objective):
    # p = (1/4, 3/4) for label 1, and (1/2, 1/2) for label 0.
    logits = torch.tensor([[0.0, math.log(3)], [2.0, 2.0]])
    loss = objective("cross-entropy", [9, 1])(logits, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((-math.log(0.75) - math.log(0.5)) / 2)


def test_gradient_is_softmax_minus_one_hot(rng, objective):
    logits, labels = torch.randn(5, 3, generator=rng), torch.tensor([0, 2, 1, 1, 0])
    logits.requires_grad_()
    objective("cross-entropy", COUNTS)(logits, labels).backward()
    expected = (logits.detach().softmax(1) - F.one_hot(labels, 3)) / 5
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("num_classes", [10, 100])
def test_small_logits_cost_about_log_of_the_number_of_classes(rng, objective, num_classes):
    logits = 1e-3 * torch.randn(64, num_classes, generator=rng)
    labels = torch.arange(64) % num_classes
    loss = objective("cross-entropy", [1] * num_classes)(logits, labels)
    assert loss.item() == pytest.approx(math.log(num_classes), abs=1e-3)


def test_class_counts_play_no_role(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    one, other = objective("cross-entropy", COUNTS), objective("cross-entropy", COUNTS[::-1])
    assert one(logits, labels).equal(other(logits, labels))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_its_classifier_follows_the_class_prior_unless_weights_or_a_sampler_say_otherwise(stage):
    params = parameters("cross-entropy", stage)
    assert (params.beta, params.sampler) == (0, "instance-balanced")
    assert not balances("cross-entropy", stage)
    assert balances("cross-entropy", stage, beta=0.9)
    assert balances("cross-entropy", stage, sampler="reversed")


def test_it_starts_from_the_trained_classifier():
    run = planned("cross-entropy")
    assert METHOD.head(run.params.options, run).start == "trained"
