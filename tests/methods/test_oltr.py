import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.engine.optimizers import SGD
from ltcli.methods.oltr import METHOD, Options, centroid_loss, make_steps
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network
from tests.methods.conftest import planned


def test_the_centroid_loss_by_hand():
    centroids = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    features = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    labels = torch.tensor([0, 1])
    # Own: 1 and 0. Others: 4 + 16 and 25, over 2 x 2.
    expected = 0.5 * 1 / 2 + 0.01 * max(0.0, 20.0 - 45 / 4)
    found = centroid_loss(features, labels, centroids, Options(push_margin=20.0))
    assert float(found) == pytest.approx(expected)


def test_it_is_zero_at_the_centroids_if_they_are_apart():
    centroids = torch.tensor([[0.0, 0.0], [30.0, 40.0]])
    assert float(centroid_loss(centroids, torch.tensor([0, 1]), centroids, Options())) == 0


def test_a_step_is_the_sum_and_centroids_start_at_the_means(make_run, batch, rng):
    means = torch.randn(4, 5, generator=rng, dtype=torch.float64)
    case = make_run("oltr")
    classifier = Classifier(5, 4, "memory").double()
    network = Network(torch.nn.Identity(), classifier)
    optimizer = SGD(classifier.parameters(), lr=0.05)
    case = dataclasses.replace(case, network=network, optimizer=optimizer, means=means)
    steps = make_steps(Options(), case)
    assert torch.equal(classifier.memory.centroids.detach(), means)
    x, labels = case.inputs(batch), case.labels[batch.rows]
    expected = F.cross_entropy(classifier(x), labels)
    expected = expected + 0.01 * centroid_loss(x, labels, means, Options())
    assert float(steps.step(batch).detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert not torch.equal(classifier.memory.centroids.detach(), means)


def test_it_tunes_the_whole_network_and_is_evaluated(ltcli, copy):
    assert ltcli("finetune", "--method", "oltr", "--epochs", "1", "-d", copy).code == 0
    out = copy / "finetune-oltr.safetensors"
    assert read_header(out).info["classifier"] == "memory"
    with open_artifact(out) as tuned, open_artifact(copy / "pretrain.safetensors") as model:
        assert tuned.tensor("classifier.memory.centroids").shape == (10, 64)
        moved = tuned.tensor("backbone.conv1.weight") - model.tensor("backbone.conv1.weight")
    assert moved.abs().max() > 0
    assert ltcli("evaluate", "--model", out, "-d", copy).code == 0


def test_other_methods_refuse_its_classifier(ltcli, copy):
    assert ltcli("finetune", "--method", "oltr", "--epochs", "1", "-d", copy).code == 0
    out = copy / "finetune-oltr.safetensors"
    bank = copy / "bank.safetensors"
    assert ltcli("dump-features", "--model", out, "--out", bank, "-d", copy).code == 0
    done = ltcli("finetune", "--method", "isda", "--model", out, "--features", bank, "-d", copy)
    assert done.code == 3
    assert done.lines[0] == f"error: {out}: classifier must be linear, got memory"


def test_the_record_says_what_the_code_says():
    defaults = METHOD.defaults["finetune"]
    assert (defaults["epochs"], defaults["milestones"]) == (60, (20, 40))
    assert defaults["sampler"] == "class-aware"
    run = planned("oltr")
    assert METHOD.head(run.params.options, run).rates == {"memory.centroids": 0.1, "backbone": 0.1}


def test_centroids_learn_from_the_centroid_loss_alone(make_run, batch, rng):
    means = torch.randn(4, 5, generator=rng, dtype=torch.float64)
    case = make_run("oltr")
    classifier = Classifier(5, 4, "memory").double()
    network = Network(torch.nn.Identity(), classifier)
    optimizer = SGD(classifier.parameters(), lr=0.05)
    case = dataclasses.replace(case, network=network, optimizer=optimizer, means=means)
    before = classifier.memory.hallucinator.weight.detach().clone()
    make_steps(Options(centre_weight=0.0), case).step(batch)
    assert torch.equal(classifier.memory.centroids.detach(), means)
    assert not torch.equal(classifier.memory.hallucinator.weight.detach(), before)
