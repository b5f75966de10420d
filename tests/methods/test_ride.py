import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.backbone import backbone_of
from ltcli.artifacts.header import read_header
from ltcli.engine.optimizers import SGD
from ltcli.methods.ride import METHOD, Options, make_steps
from ltcli.models import small_images
from ltcli.models.network import build_network
from ltcli.stats.losses import margins
from tests.methods.conftest import COUNTS, planned


@pytest.fixture
def case(make_run):
    """Two experts on 24 images."""
    run = make_run("ride", whole=True, experts=2)
    network = build_network(small_images.backbone("resnet20", "ride2"), 4, 0, "experts2").train()
    network.classifier.scales.data.fill_(30.0)
    optimizer = SGD(network.parameters(), lr=0.05)
    return dataclasses.replace(run, network=network, optimizer=optimizer)


def ldam(logits, labels):
    lowered = logits - 30 * margins(COUNTS, 0.5).float()[labels, None] * F.one_hot(labels, 4)
    return F.cross_entropy(lowered, labels)


def test_a_step_is_the_sum_of_the_experts_losses_less_their_divergence(case, batch):
    labels = case.labels[batch.rows]
    each = case.network.classifier.each(case.network.backbone(case.inputs(batch)))
    p = each.mean(0).softmax(1)
    expected = 0.0
    for logits in each:
        divergence = (p * (p.log() - logits.log_softmax(1))).sum(1).mean()
        assert float(divergence.detach()) > 0
        expected = expected + ldam(logits, labels) - 0.45 * divergence
    mine = make_steps(Options(experts=2), case).step(batch)
    assert float(mine.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_without_diversity_experts_learn_on_their_own(case, batch):
    labels = case.labels[batch.rows]
    each = case.network.classifier.each(case.network.backbone(case.inputs(batch)))
    weight = case.network.classifier.weight
    alone = torch.autograd.grad(ldam(each[0], labels), weight)[0]
    before = weight.detach().clone()
    make_steps(Options(experts=2, diversity=0.0), case).step(batch)
    moved = (before - weight.detach()) / 0.05
    torch.testing.assert_close(moved[:, :48], alone[:, :48], rtol=1e-3, atol=1e-5)


def test_gradients_by_way_of_the_mean_cancel_over_the_experts(case, batch):
    labels, weight = case.labels[batch.rows], case.network.classifier.weight
    each = case.network.classifier.each(case.network.backbone(case.inputs(batch)))

    def gradient(mean):
        p = mean.softmax(1)
        terms = [
            ldam(z, labels) - 0.45 * (p * (p.log() - z.log_softmax(1))).sum(1).mean() for z in each
        ]
        return torch.autograd.grad(torch.stack(terms).sum(), weight, retain_graph=True)[0]

    held, moving = gradient(each.mean(0).detach()), gradient(each.mean(0))
    before = weight.detach().clone()
    make_steps(Options(experts=2), case).step(batch)
    moved = (before - weight.detach()) / 0.05
    torch.testing.assert_close(moving, held, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved, held, rtol=1e-3, atol=1e-5)


def test_it_trains_and_is_evaluated(ltcli, copy):
    out, scores = copy / "ride.safetensors", copy / "scores.safetensors"
    options = ("--experts", "2", "--backbone", "resnet20", "--epochs", "2")
    assert ltcli("pretrain", "--method", "ride", *options, "--out", out, "-d", copy).code == 0
    header = read_header(out)
    assert str(backbone_of(header)) == "resnet20-ride2"
    assert header.info["classifier"] == "experts2"
    assert header.info["balanced"]
    assert ltcli("evaluate", "--model", out, "--out", scores, "-d", copy).code == 0


def test_the_record_says_what_the_code_says():
    defaults = METHOD.defaults["pretrain"]
    assert (defaults["weight_decay"], defaults["nesterov"]) == (5e-4, True)
    assert (defaults["beta"], defaults["defer"]) == (0.9999, 160)
    for given, experts in (({}, 3), ({"experts": 4}, 4)):
        run = planned("ride", "pretrain", **given)
        assert METHOD.head(run.params.options, run).form == f"experts{experts}"
        assert METHOD.backbone(run.params.options, run) == f"ride{experts}"
