import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.backbone import backbone_of
from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.compute.seeds import derive
from ltcli.core.params import NoOptions
from ltcli.data.batches import Batch
from ltcli.data.samplers import order_of
from ltcli.engine.optimizers import SGD
from ltcli.methods.bbn import METHOD, make_steps, share
from ltcli.models import small_images
from ltcli.models.network import build_network, load_network


@pytest.fixture
def case(make_run):
    """A network of two branches on 24 images."""
    run = make_run("bbn", whole=True, epochs=200)
    network = build_network(small_images.backbone("resnet20", "bbn"), 4, seed=0).train()
    optimizer = SGD(network.parameters(), lr=0.05)
    return dataclasses.replace(run, network=network, optimizer=optimizer)


def test_the_share_falls_as_in_the_released_code():
    assert [share(epoch, 200) for epoch in (0, 100, 160)] == pytest.approx([1, 0.75, 0.36])
    assert share(199, 200) == pytest.approx(1 - 0.995**2)


def test_features_of_an_image_are_those_of_both_branches(case, batch):
    backbone, x = case.network.eval().backbone, case.inputs(batch)
    both = torch.cat([backbone.of_branch(x, 0), backbone.of_branch(x, 1)], dim=1)
    assert both.shape == (12, 128)
    assert not torch.equal(both[:, :64], both[:, 64:])
    torch.testing.assert_close(backbone(x), both)
    torch.testing.assert_close(backbone.maps(x).mean((2, 3)), both)
    torch.testing.assert_close(backbone.late(backbone.early(x, 2), 2), backbone.maps(x))


def test_a_step_is_the_mix_of_both_branches_term_by_term(case, batch):
    at = Batch(100, 1, 12, batch.rows)
    seed = derive("second", 0)
    rare = order_of("reversed", case.labels, 4, seed=seed, epoch=100, epochs=200)[12:24]
    assert not torch.equal(rare.sort().values, batch.rows.sort().values)
    backbone = case.network.backbone
    usual = backbone.of_branch(case.inputs(at), 0)
    other = backbone.of_branch(case.inputs(Batch(100, 1, 12, rare)), 1)
    z = case.network.classifier(torch.cat([2 * 0.75 * usual, 2 * 0.25 * other], 1))
    ours, theirs = F.cross_entropy(z, case.labels[at.rows]), F.cross_entropy(z, case.labels[rare])
    expected = 0.75 * ours + 0.25 * theirs
    mine = make_steps(NoOptions(), case).step(at)
    assert float(mine.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_in_the_first_epoch_the_second_branch_learns_nothing(case, batch):
    branches = case.network.backbone.branches
    before = [[p.detach().clone() for p in branch.parameters()] for branch in branches]
    make_steps(NoOptions(), case).step(batch)
    moved = [
        any(not torch.equal(p, q) for p, q in zip(branch.parameters(), old, strict=True))
        for branch, old in zip(branches, before, strict=True)
    ]
    assert moved == [True, False]


def test_half_a_share_is_what_a_test_image_gets(case, batch):
    network, x = case.network.eval(), case.inputs(batch)
    both = [network.backbone.of_branch(x, branch) for branch in (0, 1)]
    mixed = network.classifier(2 * torch.cat([0.5 * both[0], 0.5 * both[1]], dim=1))
    torch.testing.assert_close(network(x), mixed)


def test_the_two_batches_are_augmented_differently(case, batch):
    asked = []
    inputs = case.inputs

    def watched(asked_for):
        asked.append((asked_for.first, asked_for.stream))
        return inputs(asked_for)

    make_steps(NoOptions(), dataclasses.replace(case, inputs=watched)).step(batch)
    assert asked == [(0, "augment"), (0, "augment second")]


def test_from_images_to_a_better_classifier(ltcli, copy):
    model = copy / "bbn.safetensors"
    first = ("pretrain", "--method", "bbn", "--backbone", "resnet20", "--epochs", "2")
    assert ltcli(*first, "--out", model, "-d", copy).code == 0
    header = read_header(model)
    assert (str(backbone_of(header)), header.info["balanced"]) == ("resnet20-bbn", True)
    with open_artifact(model) as artifact:
        network = load_network(artifact, torch.device("cpu"))
    assert network.classifier.weight.shape == (10, 128)
    bank = copy / "bbn-features.safetensors"
    assert ltcli("dump-features", "--maps", "--model", model, "--out", bank, "-d", copy).code == 0
    use = ("--model", model, "--features", bank, "-d", copy)
    assert ltcli("finetune", "--method", "crt", "--epochs", "1", *use).code == 0
    evaluated = copy / "evaluate-bbn.safetensors"
    assert ltcli("evaluate", "--model", model, "--out", evaluated, "-d", copy).code == 0


def test_mixup_is_refused(ltcli, copy):
    done = ltcli("pretrain", "--method", "bbn", "--mixup", "1", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: pretrain: mixup must be 0 for bbn, got 1",
        "hint: its steps need every image by itself",
    ]


def test_the_record_says_what_the_code_says():
    assert METHOD.defaults["pretrain"] == {"schedule": "bbn"}
    assert METHOD.stages == ("pretrain",)


def test_class_weights_are_refused(ltcli, copy):
    done = ltcli("pretrain", "--method", "bbn", "--beta", "0.9", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: pretrain: beta must be 0 for bbn, got 0.9",
        "hint: the second branch sees rare classes more often instead",
    ]


def test_one_process_runs_it():
    assert METHOD.alone
