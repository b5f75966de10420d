import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.methods.ldam import METHOD, Options
from ltcli.models.classifier import Classifier
from ltcli.stages.training import start_classifier
from tests.methods.conftest import balances, parameters, planned

CIFAR_10_AT_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
MARGINS = [0.1581, 0.1797, 0.2042, 0.2321, 0.2638, 0.2998, 0.3407, 0.3872, 0.4405, 0.5]
COUNTS = [81, 16, 1]


def test_published_margins_of_cifar_10_at_100_times_the_scale(objective):
    # Of equal logits, l = log(1 + (C - 1) exp(s m)): the margin can be read off the loss.
    loss, found = objective("ldam", CIFAR_10_AT_100, scale=3.0), []
    for c in range(10):
        value = loss(torch.zeros(1, 10), torch.tensor([c])).item()
        found.append(math.log(math.expm1(value) / 9) / 3)
    assert found == pytest.approx(MARGINS, abs=1e-4)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_own_logit_alone_is_lowered_by_scale_times_margin(rng, objective, stage):
    logits, labels = 5 * torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    loss = objective("ldam", COUNTS, stage, max_margin=0.6)
    lowered = logits.clone()
    for i, y in enumerate(labels.tolist()):
        lowered[i, y] -= 30 * [0.2, 0.3, 0.6][y]
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(lowered, labels))


def test_without_margin_and_scale_it_is_cross_entropy_on_cosines(rng, objective):
    classifier = Classifier(5, 3, "cosine")
    run = planned("ldam", max_margin=0.0, scale=1.0)
    start_classifier(classifier, METHOD.head(run.params.options, run), fresh=True)
    features, labels = torch.randn(8, 5, generator=rng), torch.arange(8) % 3
    cosines = F.cosine_similarity(features[:, None], classifier.weight[None], dim=2)
    loss = objective("ldam", COUNTS, max_margin=0.0, scale=1.0)
    value = loss(classifier(features), labels)
    torch.testing.assert_close(value, F.cross_entropy(cosines, labels), rtol=0, atol=1e-6)


def test_the_classifier_is_scaled_cosines_without_bias(rng):
    run = planned("ldam", scale=20.0)
    wanted = METHOD.head(run.params.options, run)
    assert (wanted.start, wanted.form, wanted.trainable) == ("fresh", "cosine", ("weight",))
    classifier = Classifier(5, 3, wanted.form)
    start_classifier(classifier, wanted, fresh=True)
    features = torch.randn(8, 5, generator=rng)
    cosines = F.cosine_similarity(features[:, None], classifier.weight[None], dim=2)
    torch.testing.assert_close(classifier(features), 20 * cosines)
    trained = [name for name, p in classifier.named_parameters() if p.requires_grad]
    assert trained == ["weight"]


def test_the_record_says_what_the_paper_says():
    assert dataclasses.astuple(Options()) == (0.5, 30.0)
    for stage in ("pretrain", "finetune"):
        params = parameters("ldam", stage)
        assert (params.beta, params.sampler) == (0, "instance-balanced")
        assert balances("ldam", stage)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_from_the_command_line_logits_are_cosines_times_30(ltcli, copy, stage):
    out, scores = copy / "ldam.safetensors", copy / "scores.safetensors"
    network = ("--backbone", "resnet20") if stage == "pretrain" else ()
    given = ("--method", "ldam", "--epochs", "1", "--out", out, "-q", "-d", copy)
    assert ltcli(stage, *network, *given).code == 0
    info = read_header(out).info
    assert (info["classifier"], info["balanced"]) == ("cosine", True)
    with open_artifact(out) as model:
        made = model.load("classifier.*")
    assert made["scales"].eq(30).all()
    assert made["bias"].eq(0).all()
    assert ltcli("evaluate", "--model", out, "--out", scores, "-q", "-d", copy).code == 0
    with open_artifact(scores) as predictions:
        logits = predictions.tensor("logits")
    assert logits.isfinite().all()
    # Features behind a ReLU and class vectors in 64 dimensions: nowhere near a corner.
    assert logits.abs().max() <= 30
    assert logits.std() > 0.5


def test_a_method_that_needs_linear_logits_refuses_its_model(ltcli, copy):
    out = copy / "ldam.safetensors"
    given = ("--method", "ldam", "--epochs", "1", "--out", out, "-q", "-d", copy)
    assert ltcli("finetune", *given).code == 0
    done = ltcli("finetune", "--method", "isda", "--model", out, "--data", "images", "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {out}: classifier must be linear, got cosine",
        "hint: start from a model whose logits are linear in the features, not one of ldam or ncm",
    ]
