import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ltcli.data.batches import Batch
from ltcli.methods.cam_sampling import METHOD, Options, drawn_rows, make_steps, moved_counts
from ltcli.stats import fusion
from tests.methods.conftest import COUNTS, LABELS


def test_every_class_ends_with_as_many_images():
    more = moved_counts(COUNTS, None)
    assert (COUNTS + more).tolist() == [14, 14, 14, 14]
    assert more.tolist() == [2, 8, 10, 12]


@pytest.mark.parametrize(
    ("at_most", "expected"), [(0, [0, 0, 0, 0]), (5, [0, 0, 5, 5]), (11, [0, 8, 10, 11])]
)
def test_off_cifar_large_classes_get_none_and_others_no_more_than_the_threshold(at_most, expected):
    assert moved_counts(COUNTS, at_most).tolist() == expected


def test_an_epoch_has_every_image_once_and_the_rest_moved():
    rows, moved = drawn_rows(LABELS, moved_counts(COUNTS, None), seed=0, epoch=0)
    assert rows[~moved].sort().values.tolist() == list(range(24))
    assert LABELS[rows[moved]].bincount().tolist() == [2, 8, 10, 12]
    again, _ = drawn_rows(LABELS, moved_counts(COUNTS, None), seed=0, epoch=0)
    assert torch.equal(rows, again)
    for other in ({"seed": 1, "epoch": 0}, {"seed": 0, "epoch": 1}):
        assert not torch.equal(rows, drawn_rows(LABELS, moved_counts(COUNTS, None), **other)[0])


def test_without_moved_images_a_step_is_cross_entropy(make_run):
    case = make_run("cam-sampling", whole=True)
    steps = make_steps(Options(at_most=0), case)
    rows = steps.order(0)
    assert len(rows) == 24
    batch = Batch(0, 0, 0, rows[:12])
    state = {name: tensor.clone() for name, tensor in case.network.state_dict().items()}
    expected = F.cross_entropy(case.network(case.inputs(batch)), LABELS[batch.rows])
    case.network.load_state_dict(state)
    mine = steps.step(batch)
    assert float(mine.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_only_the_images_of_further_draws_are_moved(make_run):
    case = make_run("cam-sampling", whole=True)
    seen = []
    body = case.network.backbone.forward
    case.network.backbone.forward = lambda x: seen.append(x.clone()) or body(x)
    steps = make_steps(Options(foreground_at=0.0), case)
    rows = steps.order(0)
    _, moved = drawn_rows(LABELS, moved_counts(COUNTS, None), seed=0, epoch=0)
    batch = Batch(0, 1, 12, rows[12:24])
    steps.step(batch)
    same = (seen[-1] == case.inputs(batch)).flatten(1).all(1)
    flags = moved[12:24]
    assert 0 < int(flags.sum()) < 12
    assert same[~flags].all()
    assert not same[flags].any()


def test_the_foreground_is_that_of_the_own_class(make_run, monkeypatch):
    case, seen, original = make_run("cam-sampling", whole=True), [], fusion.activation_maps

    def spied(maps, vectors):
        seen.append(vectors)
        return original(maps, vectors)

    monkeypatch.setattr(fusion, "activation_maps", spied)
    steps = make_steps(Options(), case)
    rows = steps.order(0)
    _, moved = drawn_rows(LABELS, moved_counts(COUNTS, None), seed=0, epoch=0)
    labels, flags = LABELS[rows[12:24]], moved[12:24]
    expected = case.network.classifier.vectors().detach().clone()[labels[flags]]
    steps.step(Batch(0, 1, 12, rows[12:24]))
    assert not labels[flags].equal(labels[: len(expected)])
    assert seen[0].equal(expected)


def test_a_resumed_run_moves_the_same_images(make_run):
    def loss(after):
        case = make_run("cam-sampling", whole=True)
        steps = make_steps(Options(), case)
        rows = steps.order(1)
        if after:
            steps = make_steps(Options(), dataclasses.replace(case))
        return float(steps.step(Batch(1, 1, 12, rows[12:24])).detach())

    assert loss(False) == loss(True)


def test_it_tunes_the_whole_network(ltcli, copy):
    assert ltcli("finetune", "--method", "cam-sampling", "--epochs", "1", "-d", copy).code == 0


def test_the_foreground_is_three_quarters_of_the_mean_and_more(make_run, monkeypatch):
    case, cut = make_run("cam-sampling", whole=True), []
    maps = torch.arange(12.0).view(1, 3, 4)
    monkeypatch.setattr(fusion, "activation_maps", lambda m, _w: maps.expand(len(m), 3, 4))
    monkeypatch.setattr(
        "ltcli.data.foreground.with_moved_foreground",
        lambda images, mask, *_: cut.append(mask) or images,
    )
    steps = make_steps(Options(), case)
    steps.step(Batch(0, 1, 12, steps.order(0)[12:24]))
    at_the_size_of_images = F.interpolate(maps.unsqueeze(1), (8, 8), mode="bilinear")[0, 0]
    low, high = at_the_size_of_images.min(), at_the_size_of_images.max()
    scaled = (at_the_size_of_images - low) / (high - low)
    assert torch.equal(cut[0][0], scaled >= 0.75 * scaled.mean())
    assert 0 < int(cut[0][0].sum()) < 64


def test_a_sampler_is_refused(ltcli, copy):
    done = ltcli("finetune", "--method", "cam-sampling", "--sampler", "class-aware", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: sampler must be instance-balanced for cam-sampling, got class-aware",
        "hint: the method fills up rare classes by itself",
    ]


def test_a_frozen_backbone_is_refused(ltcli, copy):
    done = ltcli("finetune", "--method", "cam-sampling", "--train", "classifier", "-d", copy)
    assert done.code == 2
    assert done.lines[0] == ("error: finetune: train must be all for cam-sampling, got classifier")


def test_the_record_says_how_long_it_trains():
    defaults = METHOD.defaults["finetune"]
    assert (defaults["epochs"], defaults["milestones"], defaults["train"]) == (10, (5,), "all")
