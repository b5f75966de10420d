import math

import pytest
import torch
from torch.nn import functional as F

from ltcli.data.batches import Batch
from ltcli.models.classifier import Classifier
from tests.methods.conftest import loss_and_run, solved, solving_run

BATCH = Batch(0, 0, 0, torch.arange(8))


def run_of(counts, rng, tau, form="linear"):
    """A run on a classifier with factors that are not 1."""
    num_classes = len(counts)
    classifier = Classifier(5, num_classes, form)
    classifier.weight.data = torch.randn(num_classes, 5, generator=rng)
    classifier.bias.data = torch.randn(num_classes, generator=rng)
    classifier.scales.data = torch.rand(num_classes, generator=rng) + 0.5
    return solving_run("logit-adjustment", classifier, torch.tensor(counts), tau=tau)


@pytest.mark.parametrize(("label", "probability"), [(0, 81 / 82), (1, 1 / 82)])
def test_loss_of_two_classes_by_hand(label, probability):
    # z = (0, 0), prior = (9/10, 1/10), tau = 2. Each class alone: their sum is blind to the sign.
    loss, _ = loss_and_run("logit-adjustment", [9, 1], tau=2.0)
    value = loss(torch.zeros(1, 2), torch.tensor([label]), BATCH)
    assert value.item() == pytest.approx(-math.log(probability), rel=1e-4)


@pytest.mark.parametrize(
    ("counts", "tau"), [([5, 5, 5], 1.0), ([100, 10, 1], 0.0)], ids=["uniform", "tau=0"]
)
def test_loss_reduces_to_cross_entropy(rng, counts, tau):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    loss, _ = loss_and_run("logit-adjustment", counts, tau=tau)
    found = loss(logits, labels, BATCH)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, reduction="none"))


@pytest.mark.parametrize("form", ["linear", "cosine"])
@pytest.mark.parametrize("tau", [0.0, 1.0, 2.5])
def test_afterwards_tau_log_prior_leaves_the_logits_whatever_the_factors(rng, tau, form):
    run, features = run_of([100, 10, 1], rng, tau, form), torch.randn(8, 5, generator=rng)
    with torch.no_grad():
        before = run.classifier(features)
        after = solved(run)[0](features)
    shift = tau * torch.tensor([math.log(n / 111) for n in (100, 10, 1)])
    torch.testing.assert_close(after, before - shift)


def test_afterwards_a_uniform_prior_leaves_the_predictions(rng):
    run, features = run_of([7] * 4, rng, 1.0), torch.randn(200, 5, generator=rng)
    with torch.no_grad():
        before = run.classifier(features).argmax(1)
        assert solved(run)[0](features).argmax(1).equal(before)


def test_a_second_correction_is_refused(ltcli, copy):
    model = copy / "finetune-crt.safetensors"
    bank = copy / "bank.safetensors"
    assert ltcli("dump-features", "-d", copy, "--model", model, "--out", bank).code == 0
    done = ltcli(
        *("finetune", "--method", "logit-adjustment", "-d", copy, "--model", model),
        *("--features", bank),
    )
    assert done.code == 3
    assert done.lines == [
        f"error: finetune: {model}, by crt, corrects for the class prior already",
        "hint: start from plain cross-entropy, without class weights, another sampler or remix",
    ]
