import math

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.engine.schedules import SCHEDULES
from ltcli.methods.focal import METHOD
from ltcli.models import small_images
from ltcli.models.network import build_network
from ltcli.stages.training import make_optimizer, start_classifier
from ltcli.stats.class_weights import effective_number_weights
from tests.methods.conftest import balances, planned

COUNTS = [60, 20, 4]
RARE = -math.log(9)


def test_one_sample_of_two_classes_by_hand(objective):
    # p = 1/2, gamma = 2: ln 2 / 4, and with one choice per class twice that.
    logits, label = torch.zeros(1, 2), torch.tensor([0])
    softmax = objective("focal", [9, 1], gamma=2.0)(logits, label)
    sigmoid = objective("focal", [9, 1], gamma=2.0, form="sigmoid")(logits, label)
    assert softmax.item() == pytest.approx(0.1733, abs=1e-4)
    assert sigmoid.item() == pytest.approx(2 * 0.1733, abs=1e-4)


def test_without_exponent_it_is_cross_entropy_or_the_sum_of_binary_ones(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    softmax = objective("focal", COUNTS, gamma=0.0)(logits, labels)
    torch.testing.assert_close(softmax, F.cross_entropy(logits, labels))
    own = F.one_hot(labels, 3).float()
    binary = F.binary_cross_entropy_with_logits(logits, own, reduction="none").sum(1).mean()
    sigmoid = objective("focal", COUNTS, gamma=0.0, form="sigmoid")(logits, labels)
    torch.testing.assert_close(sigmoid, binary)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_a_larger_exponent_is_never_more_loss(rng, objective, form):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    values = [
        objective("focal", COUNTS, gamma=gamma, form=form)(logits, labels).item()
        for gamma in (0.0, 0.5, 1.0, 2.0)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_class_weights_stand_outside(rng, objective, stage):
    # With the weight in p, as in some released code, the value would be another.
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    weights = effective_number_weights(torch.tensor(COUNTS), 0.999).float()
    total, norm = 0.0, 0.0
    for row, y in zip(logits.softmax(1), labels.tolist(), strict=True):
        total += weights[y] * (1 - row[y]) ** 1.5 * -row[y].log()
        norm += weights[y]
    value = objective("focal", COUNTS, stage, gamma=1.5, beta=0.999)(logits, labels)
    torch.testing.assert_close(value, total / norm)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_with_one_choice_per_class_the_bias_is_rare_and_does_not_decay(form):
    network = build_network(small_images.backbone("resnet20"), 10, seed=0)
    run = planned("focal", "pretrain", form=form)
    wanted = METHOD.head(run.params.options, run)
    start_classifier(network.classifier, wanted, fresh=True)
    bias, weight = network.classifier.bias, network.classifier.weight
    if form == "sigmoid":
        torch.testing.assert_close(bias.sigmoid().detach(), torch.full((10,), 0.1))
        assert bias.tolist() == pytest.approx([RARE] * 10)
    else:
        assert bias.eq(0).all()
        bias.data.fill_(1.0)
    optimizer = make_optimizer(network, wanted, SCHEDULES["ldam"], momentum=0.0)
    before = bias.detach().clone(), weight.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # What moves without a gradient decays.
    assert bias.equal(before[0]) == (form == "sigmoid")
    torch.testing.assert_close(weight, before[1] * (1 - 0.1 * 2e-4))


def test_its_classifier_follows_the_class_prior():
    for stage in ("pretrain", "finetune"):
        assert not balances("focal", stage)
        assert balances("focal", stage, beta=0.9)


def test_a_trained_bias_is_where_fine_tuning_goes_on(ltcli, copy):
    start, out = copy / "start.safetensors", copy / "more.safetensors"
    given = ("--method", "focal", "--form", "sigmoid", "--epochs", "1", "-q", "-d", copy)
    network = ("--backbone", "resnet20", "--lr", "0.01", "--warmup", "0")
    assert ltcli("pretrain", *network, *given, "--out", start).code == 0
    nowhere = ("--model", start, "--data", "images", "--lr", "1e-12")
    assert ltcli("finetune", *nowhere, *given, "--out", out).code == 0
    with open_artifact(start) as before, open_artifact(out) as after:
        bias = before.tensor("classifier.bias")
        torch.testing.assert_close(after.tensor("classifier.bias"), bias)
    # Near its start, for it was not trained for long, and not at it.
    assert bias.mean().item() == pytest.approx(RARE, abs=0.5)
    assert bias.std() > 0
    info = read_header(start).info
    assert not info["balanced"]
    assert info["classifier"] == "linear"
