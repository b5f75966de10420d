"""The optimiser and the classifier that training starts with."""

import pytest
import torch

from ltcli.engine.schedules import SCHEDULES
from ltcli.methods.method import Head
from ltcli.models.classifier import Classifier
from ltcli.models.network import build_network
from ltcli.stages.setting import _train_batch_norms, make_optimizer, start_classifier

PARTS = ("weight", "bias", "scales")
LR, DECAY = SCHEDULES["ldam"].lr, SCHEDULES["ldam"].weight_decay


def moved_without_gradients(head, **options):
    """Each part of a classifier, by how much one step without gradients shrinks it."""
    network = build_network("resnet20", 10, seed=0)
    for part in PARTS:
        getattr(network.classifier, part).data.fill_(1.0)
    start_classifier(network.classifier, head, fresh=False)
    optimizer = make_optimizer(network, head, SCHEDULES["ldam"], **options)
    for group in optimizer.param_groups:
        group["lr"] *= group["rate"]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {part: 1 - getattr(network.classifier, part).detach() for part in PARTS}


@pytest.mark.parametrize("form", ["linear", "cosine", "experts2", "memory"])
def test_the_bias_of_a_classifier_on_cosines_stays(form):
    classifier = Classifier(6, 3, form)
    start_classifier(classifier, Head(trainable=PARTS), fresh=False)
    trained = {name for name, p in classifier.named_parameters() if p.requires_grad}
    assert trained == ({*PARTS} if form == "linear" else {"weight", "scales"})


def test_of_a_frozen_backbone_batch_norms_alone_go_on():
    backbone = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout()).eval()
    _train_batch_norms(backbone)
    assert [module.training for module in backbone] == [True, False]


def test_batch_norms_that_several_processes_share_go_on_too():
    norm = torch.nn.BatchNorm2d(3).eval()
    backbone = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(norm))
    _train_batch_norms(backbone)
    assert backbone[0].training


def test_weights_decay_and_factors_do_not():
    shrunk = moved_without_gradients(Head(trainable=PARTS), momentum=0.9)
    for part, share in (("weight", LR * DECAY), ("bias", LR * DECAY), ("scales", 0.0)):
        torch.testing.assert_close(shrunk[part], torch.full_like(shrunk[part], share))


def test_a_rare_bias_does_not_decay_either():
    shrunk = moved_without_gradients(Head(rare_bias=True), momentum=0.9)
    assert shrunk["bias"].eq(0).all()
    assert shrunk["weight"].gt(0).all()


def test_rates_of_parts_of_the_classifier_multiply_the_rate():
    head = Head(trainable=PARTS, rates={"weight": 0.5})
    shrunk = moved_without_gradients(head, momentum=0.0)
    torch.testing.assert_close(shrunk["weight"], torch.full((10, 64), 0.5 * LR * DECAY))
    torch.testing.assert_close(shrunk["bias"], torch.full((10,), LR * DECAY))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_only_what_has_gradients_is_optimised_and_that_once(kind):
    network = build_network("resnet20", 10, seed=0)
    network.backbone.requires_grad_(False)
    head = Head(trainable=("weight",))
    start_classifier(network.classifier, head, fresh=True)
    optimizer = make_optimizer(network, head, SCHEDULES["cosine"], momentum=0.8, kind=kind)
    assert type(optimizer).__name__.lower() == kind
    (group,) = optimizer.param_groups
    assert [p is network.classifier.weight for p in group["params"]] == [True]
    assert (group["lr"], group["weight_decay"], group["rate"]) == (0.1, 5e-4, 1.0)
    if kind == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.8, True)


def test_factors_start_where_the_method_wants_them():
    network = build_network("resnet20", 10, seed=0)
    start_classifier(network.classifier, Head(), fresh=True)
    assert network.classifier.scales.eq(1).all()
    start_classifier(network.classifier, Head(scale=30.0), fresh=True)
    assert network.classifier.scales.eq(30).all()
