import pytest
import torch
from torch.nn import functional as F

from ltcli.methods.meta_class_weight import METHOD, Options, make_steps
from ltcli.stats.class_weights import effective_number_weights
from tests.methods.conftest import ALL_HELD_OUT, COUNTS, HELD_OUT


def by_double_backward(case, batch, meta_lr):
    """The loss of the real step, its corrections found by differentiating twice."""
    weights = effective_number_weights(COUNTS, 0.99)[case.labels[batch.rows]]
    classifier = case.network.classifier
    losses = F.cross_entropy(
        classifier(case.inputs(batch)), case.labels[batch.rows], reduction="none"
    )
    corrections = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    theta = [classifier.weight, classifier.bias]
    slopes = torch.autograd.grad(((weights + corrections) * losses).sum(), theta, create_graph=True)
    w, b = (p - 0.05 * g for p, g in zip(theta, slopes, strict=True))
    x = case.held_out(ALL_HELD_OUT)
    held_out = F.cross_entropy(classifier.scales * (x @ w.T + b), HELD_OUT)
    (slope,) = torch.autograd.grad(held_out, corrections, retain_graph=True)
    return ((weights - meta_lr * slope) * losses).mean(), meta_lr * slope.abs().mean()


def test_a_step_has_the_corrections_of_double_backward(make_run, batch):
    case = make_run("meta-class-weight", beta=0.99)
    value, size = by_double_backward(case, batch, 50.0)
    slope = torch.autograd.grad(value, case.network.classifier.weight)[0]
    expected = case.network.classifier.weight.detach() - 0.05 * slope
    steps = make_steps(Options(meta_lr=50.0), case)
    mine = steps.step(batch)
    assert float(mine.detach()) == pytest.approx(float(value.detach()), rel=1e-6)
    torch.testing.assert_close(case.network.classifier.weight.detach(), expected, rtol=0, atol=1e-7)
    assert steps.facts()["weight_step"] == pytest.approx(float(size), rel=1e-5)
    assert steps.facts() == {"weight_step": 0.0}


def test_without_a_correction_it_is_class_balanced_training(make_run, batch):
    case = make_run("meta-class-weight", beta=0.99)
    weights = effective_number_weights(COUNTS, 0.99)[case.labels[batch.rows]]
    logits = case.network.classifier(case.inputs(batch))
    losses = F.cross_entropy(logits, case.labels[batch.rows], reduction="none")
    value = make_steps(Options(meta_lr=0.0), case).step(batch)
    assert float(value.detach()) == pytest.approx(
        float((weights * losses).mean().detach()), rel=1e-6
    )


def test_the_record_says_what_the_paper_says():
    defaults = METHOD.defaults["finetune"]
    assert (defaults["beta"], defaults["reduction"]) == (0.9999, "mean-of-weighted")
    assert (defaults["epochs"], defaults["milestones"], defaults["factors"]) == (40, (20,), (0.01,))
    assert Options().meta_lr == 0.01


def test_a_classifier_that_is_not_linear_is_refused(ltcli, copy):
    assert ltcli("finetune", "--method", "ncm", "-d", copy).code == 0
    model = copy / "finetune-ncm.safetensors"
    done = ltcli("finetune", "--method", "meta-class-weight", "--model", model, "-d", copy)
    assert done.code == 3
    assert done.lines[0] == f"error: {model}: classifier must be linear, got cosine"
