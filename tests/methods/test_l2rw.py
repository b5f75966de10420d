import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ltcli.data.batches import Batch
from ltcli.methods.bilevel import Reweighting
from ltcli.methods.l2rw import METHOD, make_steps
from tests.methods.conftest import ALL_HELD_OUT, HELD_OUT, planned


def weights_of(case, batch):
    """By hand: the gradient of every sample, and that of the held-out batch."""
    classifier = case.network.classifier
    parameters = [classifier.weight, classifier.bias]
    held_out = classifier(case.held_out(ALL_HELD_OUT))
    v = torch.autograd.grad(F.cross_entropy(held_out, HELD_OUT), parameters)
    losses = F.cross_entropy(
        classifier(case.inputs(batch)), case.labels[batch.rows], reduction="none"
    )
    agreed = []
    for loss in losses:
        g = torch.autograd.grad(loss, parameters, retain_graph=True)
        agreed.append(sum(float((a * b).sum()) for a, b in zip(g, v, strict=True)))
    positive = torch.tensor(agreed, dtype=torch.float64).clamp(min=0)
    return positive / positive.sum(), losses


def test_a_step_is_that_of_the_weighted_sum(make_run, batch):
    case = make_run("l2rw")
    weights, losses = weights_of(case, batch)
    assert 0 < int((weights > 0).sum()) < 12
    value = (weights * losses).sum()
    slope = torch.autograd.grad(value, case.network.classifier.weight)[0]
    expected = case.network.classifier.weight.detach() - 0.05 * slope
    mine = make_steps(Reweighting(), case).step(batch)
    assert float(mine.detach()) == pytest.approx(float(value.detach()), abs=1e-12)
    torch.testing.assert_close(
        case.network.classifier.weight.detach(), expected, rtol=0, atol=1e-12
    )


def test_the_rate_of_the_virtual_step_cancels(make_run, batch):
    values = [
        float(make_steps(Reweighting(), make_run("l2rw", lr=lr)).step(batch).detach())
        for lr in (1e-4, 1.0)
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_samples_that_all_disagree_have_no_weight_and_nothing_moves(make_run, batch):
    case = make_run("l2rw")
    # Held-out samples that are the training samples with every label wrong.
    data = case.inputs(Batch(0, 0, 0, batch.rows[:8]))
    wrong = dataclasses.replace(
        case,
        inputs=lambda b: data[:1].repeat(len(b.rows), 1),
        held_out=lambda b: data[:1].repeat(len(b.rows), 1),
        labels=torch.zeros(24, dtype=torch.int64),
        held_out_labels=torch.ones(8, dtype=torch.int64),
    )
    with torch.no_grad():
        # Sure of class 0, so that the way to class 1 leads away from it.
        case.network.classifier.weight.zero_()
        case.network.classifier.bias.copy_(torch.tensor([0.0, 0.0, -50.0, -50.0]))
    before = case.network.classifier.weight.detach().clone()
    assert float(make_steps(Reweighting(), wrong).step(batch).detach()) == 0
    assert torch.equal(case.network.classifier.weight.detach(), before)


def test_the_record_says_what_the_paper_says():
    assert METHOD.stages == ("pretrain", "finetune")
    for given, reads in (({}, ("held-out",)), ({"meta_source": "train"}, ())):
        run = planned("l2rw", **given)
        assert METHOD.reads(run.params.options, run) == reads


def test_a_classifier_that_is_not_linear_is_refused(ltcli, copy):
    assert ltcli("finetune", "--method", "ncm", "-d", copy).code == 0
    model = copy / "finetune-ncm.safetensors"
    done = ltcli("finetune", "--method", "l2rw", "--model", model, "-d", copy)
    assert done.code == 3
    assert done.lines[0] == f"error: {model}: classifier must be linear, got cosine"


def test_class_weights_are_refused(ltcli, copy):
    for stage in ("pretrain", "finetune"):
        done = ltcli(stage, "--method", "l2rw", "--beta", "0.9", "--force", "-d", copy)
        assert done.code == 2
        assert done.lines == [
            f"error: {stage}: beta must be 0 for l2rw, got 0.9",
            "hint: the method finds a weight for every sample itself",
        ]
