import torch

from ltcli.artifacts.store import open_artifact
from ltcli.methods.lws import METHOD
from ltcli.models.classifier import Classifier
from tests.methods.conftest import balances, planned


def test_unit_scales_leave_the_predictions(rng):
    classifier = Classifier(5, 4)
    features = torch.randn(50, 5, generator=rng)
    classifier.bias.data = torch.randn(4, generator=rng)
    expected = features @ classifier.weight.T + classifier.bias
    torch.testing.assert_close(classifier(features), expected)


def test_scales_multiply_logits_with_their_bias(rng):
    classifier = Classifier(5, 4)
    features = torch.randn(50, 5, generator=rng)
    classifier.bias.data = torch.randn(4, generator=rng)
    before = classifier(features)
    classifier.scales.data = torch.tensor([1.0, 2.0, 0.5, -1.0])
    torch.testing.assert_close(classifier(features), before * classifier.scales)


def test_the_stage_trains_the_scales_and_nothing_else(ltcli, copy):
    assert ltcli("finetune", "--method", "lws", "--epochs", "1", "-d", copy).code == 0
    with open_artifact(copy / "pretrain.safetensors") as before:
        old = before.load("classifier.*", "backbone.*")
    with open_artifact(copy / "finetune-lws.safetensors") as after:
        new = after.load("classifier.*", "backbone.*")
    moved = [name for name in old if not new[name].equal(old[name])]
    assert moved == ["scales"]
    assert old["scales"].equal(torch.ones(10))


def test_the_record_says_what_the_paper_says():
    run = planned("lws")
    head = METHOD.head(run.params.options, run)
    assert head.start == "trained"
    assert head.trainable == ("scales",)
    assert run.params.sampler == "class-aware"
    assert balances("lws", "finetune")
    assert not balances("lws", "finetune", sampler="instance-balanced")
