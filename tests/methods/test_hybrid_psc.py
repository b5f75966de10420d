import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.store import open_artifact
from ltcli.data.batches import Batch
from ltcli.engine.steps import second_batches
from ltcli.methods.hybrid_psc import METHOD, Options, contrast, make_steps


def test_the_prototypical_loss_by_hand():
    features = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    values = contrast(features, torch.tensor([0, 2]), prototypes, 0.5)
    # Similarities (1, 0, -1) / 0.5 and (0, 1, 0) / 0.5, without the own class in the sum.
    first = torch.tensor([0.0, -2.0]).exp().sum().log() - 2.0
    second = torch.tensor([0.0, 2.0]).exp().sum().log() - 0.0
    torch.testing.assert_close(values, torch.stack([first, second]))
    assert float(values[0]) < 0


def test_lengths_do_not_matter(rng):
    features, prototypes = torch.randn(5, 3, generator=rng), torch.randn(4, 3, generator=rng)
    labels = torch.tensor([0, 1, 2, 3, 0])
    once = contrast(features, labels, prototypes, 0.1)
    torch.testing.assert_close(contrast(7 * features, labels, 3 * prototypes, 0.1), once)


def test_a_step_is_the_mix_of_both_terms(make_run, batch):
    case = make_run("hybrid-psc", epochs=200)
    steps = make_steps(Options(projection=6), case)
    parts = steps.state.module.double()
    at = Batch(100, 1, 12, batch.rows)
    other = second_batches(case.labels, 4, "class-aware", seed=0, epochs=200)(at)
    projected = parts.project(case.inputs(at))
    pulled = contrast(projected, case.labels[at.rows], parts.prototypes, 1.0).mean()
    plain = F.cross_entropy(case.network.classifier(case.inputs(other)), case.labels[other.rows])
    expected = 0.75 * pulled + 0.25 * plain
    before = parts.prototypes.detach().clone()
    assert float(steps.step(at).detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert not torch.equal(parts.prototypes.detach(), before)


def test_in_the_first_epoch_the_classifier_learns_nothing(make_run, batch):
    case = make_run("hybrid-psc", whole=True)
    before = case.network.classifier.weight.detach().clone()
    body = case.network.backbone.conv1.weight.detach().clone()
    make_steps(Options(), case).step(batch)
    assert torch.equal(case.network.classifier.weight.detach(), before)
    assert not torch.equal(case.network.backbone.conv1.weight.detach(), body)


def test_the_other_batches_are_balanced_and_augmented_differently(make_run, batch):
    case = make_run("hybrid-psc")
    second = second_batches(case.labels, 4, "class-aware", seed=0, epochs=4)
    other = second(batch)
    assert sorted(case.labels[other.rows].bincount(minlength=4).tolist()) == [0, 4, 4, 4]
    assert (other.epoch, other.step, other.first) == (batch.epoch, batch.step, batch.first)
    assert (batch.stream, other.stream) == ("augment", "augment second")
    drawn = torch.cat([second(Batch(0, i, 12 * i, batch.rows)).rows for i in range(2)])
    assert case.labels[drawn].bincount().max() <= 8


def test_it_trains_and_keeps_its_prototypes(ltcli, copy):
    out = copy / "psc.safetensors"
    options = ("--backbone", "resnet20", "--epochs", "2", "--batch-size", "64")
    assert ltcli("pretrain", "--method", "hybrid-psc", *options, "--out", out, "-d", copy).code == 0
    with open_artifact(out) as model:
        assert model.tensor("method.prototypes").shape == (10, 128)


def test_the_record_says_what_is_known():
    defaults = METHOD.defaults["pretrain"]
    assert (defaults["batch_size"], defaults["lr"], defaults["weight_decay"]) == (512, 0.5, 1e-4)
    assert (defaults["milestones"], defaults["factors"]) == ((120, 160), (0.1, 0.01))
