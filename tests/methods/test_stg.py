import math
import os
import signal

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save
from ltcli.data.batches import Batch
from ltcli.data.samplers import class_aware
from ltcli.engine.optimizers import Adam
from ltcli.methods.stg import METHOD, Options, augmentation
from ltcli.models.generator import build_generator, load_generator
from ltcli.models.network import build_classifier
from tests.methods.conftest import planned

STG = ("finetune", "--method", "stg", "--epochs", "2")
# The published optimiser of the last stage, for the comparator.
ADAM = ("--optimizer", "adam", "--lr", "0.001", "--decay", "steps")
COUNTS = torch.tensor([400, 100, 25])
HEAD = torch.tensor([True, False, False])
BATCH = Batch(0, 0, 0, torch.arange(6))
LABELS = torch.tensor([0, 1, 2, 1, 0, 2])
D = 8


@pytest.fixture
def generator(rng):
    means = torch.randn(3, D, generator=rng)
    built = build_generator(means, HEAD, width=D, layers=2, token_std=1.0, seed=0)
    return built.requires_grad_(False).eval()


@pytest.fixture
def features(rng):
    return torch.randn(6, D, generator=rng)


def tensors_of(path, names="*"):
    with open_artifact(path) as artifact:
        return artifact.load(names)


def augmented(generator, features, labels=LABELS, batch=BATCH, seed=0, **given):
    return augmentation(Options(**given), generator, COUNTS, seed)(features, labels, batch)


def test_only_tail_samples_change(generator, features):
    made = augmented(generator, features)
    assert made[HEAD[LABELS]].equal(features[HEAD[LABELS]])
    assert (made != features)[~HEAD[LABELS]].any(1).all()


@pytest.mark.parametrize(
    "options", [{"strength": 0.0}, {"mask": 0.0}, {"mask": 0.0, "noise": "dropout"}], ids=str
)
@pytest.mark.parametrize("augment", ["tail", "all"])
def test_without_strength_or_mask_nothing_changes(generator, features, options, augment):
    assert augmented(generator, features, augment=augment, **options).equal(features)


def test_a_whole_mask_moves_every_channel_of_the_tail_by_the_formula(generator, features):
    made = [
        augmented(generator, features, mask=1.0, strength=1.5, seed=seed) for seed in range(4000)
    ]
    made = torch.stack(made).double()
    mean, variance = generator(features, torch.zeros(6, dtype=torch.int64))
    factors = 1.5 * torch.tensor([0.25, 0.5, 1.0])[LABELS][:, None]
    expected, spread = features + factors * mean, factors**2 * variance
    tail = ~HEAD[LABELS]
    error = 5 * (spread / 4000).sqrt()
    assert ((made.mean(0) - expected).abs() < error)[tail].all()
    assert ((made.var(0) / spread - 1).abs() < 5 * math.sqrt(2 / 4000))[tail].all()


def test_half_a_mask_has_the_moments_of_the_paper(generator, features):
    made = [augmented(generator, features, strength=1.5, seed=seed) for seed in range(4000)]
    made = torch.stack(made).double()
    mean, variance = generator(features, torch.zeros(6, dtype=torch.int64))
    factors = 1.5 * torch.tensor([0.25, 0.5, 1.0])[LABELS][:, None]
    expected = features + 0.5 * factors * mean
    spread = 0.5 * factors**2 * variance + 0.25 * (factors * mean) ** 2
    tail = ~HEAD[LABELS]
    assert ((made.mean(0) - expected).abs() < 5 * (spread / 4000).sqrt())[tail].all()
    assert ((made.var(0) / spread - 1).abs() < 5 * math.sqrt(5 / 4000))[tail].all()


def test_the_controls_leave_out_what_they_say(generator, features):
    tail = ~HEAD[LABELS]
    mean, variance = generator(features, torch.zeros(6, dtype=torch.int64))
    factors = torch.tensor([0.25, 0.5, 1.0])[LABELS][:, None]

    def difference(noise):
        made = augmented(generator, features, noise=noise, mask=1.0, strength=1.0)
        return ((made - features) / factors)[tail]

    torch.testing.assert_close(difference("mean"), mean[tail])
    torch.testing.assert_close(
        difference("head-mean"), (generator.class_means[0] - features)[tail], rtol=1e-4, atol=1e-5
    )
    both, spread = difference("generated"), difference("variance")
    torch.testing.assert_close(both, mean[tail] + spread)
    same = variance.mean(1, keepdim=True).expand(6, D)
    expected = spread / variance.sqrt()[tail] * same.sqrt()[tail]
    torch.testing.assert_close(difference("gaussian"), expected, rtol=1e-4, atol=1e-5)


def test_dropout_zeroes_the_masked_channels_of_the_tail_and_scales_the_others(generator, features):
    made = augmented(generator, features, noise="dropout", mask=0.25, strength=0.0)
    tail = ~HEAD[LABELS]
    assert made[~tail].equal(features[~tail])
    gone = made[tail] == 0
    assert 0 < gone.sum() < gone.numel() / 2
    torch.testing.assert_close(made[tail][~gone], features[tail][~gone] / 0.75)
    assert augmented(generator, features, noise="dropout", mask=1.0)[tail].eq(0).all()


def test_head_samples_have_their_own_token_when_all_are_augmented(rng):
    means = torch.eye(3)
    head = torch.tensor([True, True, False])
    generator = build_generator(means, head, width=4, layers=2, token_std=1.0, seed=0)
    generator.requires_grad_(False).eval()
    # All are nearest to class 1; only the tail sample takes its token.
    features, labels = torch.tensor([[0.1, 1.0, 0.0]]).expand(3, 3), torch.tensor([0, 1, 2])
    options = {"noise": "mean", "mask": 1.0, "strength": 1.0, "augment": "all"}
    made = augmented(generator, features, labels, **options)
    mean, _ = generator(features, torch.tensor([0, 1, 1]))
    factors = torch.tensor([0.25, 0.5, 1.0])[:, None]
    torch.testing.assert_close(made, features + factors * mean)


def test_draws_depend_on_seed_epoch_and_step_alone(generator, features):
    torch.manual_seed(1)
    made = augmented(generator, features)
    torch.manual_seed(2)
    assert augmented(generator, features).equal(made)
    for other in (Batch(1, 0, 0, BATCH.rows), Batch(0, 1, 6, BATCH.rows)):
        assert not augmented(generator, features, batch=other).equal(made)
    assert not augmented(generator, features, seed=1).equal(made)


@pytest.mark.parametrize("option", [("--strength", "0"), ("--mask", "0")], ids=" ".join)
def test_the_stage_without_augmentation_is_plain_crt(ltcli, copy, option):
    one, other = copy / "stg.safetensors", copy / "crt.safetensors"
    assert ltcli(*STG, *option, "-d", copy, "--out", one).code == 0
    crt = ("finetune", "--method", "crt", "--epochs", "2", *ADAM)
    assert ltcli(*crt, "-d", copy, "--out", other).code == 0
    made, plain = tensors_of(one), tensors_of(other)
    assert made.keys() == plain.keys()
    assert all(made[name].equal(plain[name]) for name in made)


def test_lws_without_augmentation_is_plain_lws(ltcli, copy):
    one, other = copy / "stg.safetensors", copy / "lws.safetensors"
    options = ("--strength", "0", "--classifier", "lws")
    assert ltcli(*STG, *options, "-d", copy, "--out", one).code == 0
    lws = ("finetune", "--method", "lws", "--epochs", "2", *ADAM)
    assert ltcli(*lws, "-d", copy, "--out", other).code == 0
    assert tensors_of(one)["classifier.scales"].equal(tensors_of(other)["classifier.scales"])


def test_the_stage_is_adam_on_augmented_features_by_hand(ltcli, copy):
    out = copy / "stg.safetensors"
    options = ("--draws", "2", "--weight-decay", "0")
    assert ltcli(*STG, *options, "-d", copy, "--out", out).code == 0
    with open_artifact(copy / "dump-features.safetensors") as bank:
        features, labels = bank.tensor("train.features"), bank.tensor("train.labels")
        counts = torch.tensor(bank.header.info["class_counts"])
    with open_artifact(copy / "stg-train.safetensors") as artifact:
        generator = load_generator(artifact, torch.device("cpu"))
    classifier = build_classifier(64, 10, 0)
    classifier.train_only("weight", "bias")
    optimizer = torch.optim.Adam([classifier.weight, classifier.bias], lr=1e-3)
    augment = augmentation(Options(), generator, counts, 0)
    for epoch in range(2):
        order = class_aware(labels, 10, seed=0, epoch=epoch, length=len(labels))
        for step, rows in enumerate(order.split(128)):
            batch = Batch(epoch, step, 128 * step, rows)
            x, y = features[rows].repeat_interleave(2, 0), labels[rows].repeat_interleave(2)
            optimizer.zero_grad()
            F.cross_entropy(classifier(augment(x, y, batch)), y).backward()
            optimizer.step()
    made = tensors_of(out, "classifier.*")
    torch.testing.assert_close(made["weight"], classifier.weight.detach())
    torch.testing.assert_close(made["bias"], classifier.bias.detach())


def test_the_generalised_classifier_moves_all_three_and_the_trained_vectors_less(ltcli, copy):
    before = tensors_of(copy / "pretrain.safetensors", "classifier.*")
    moved = {}
    for rate in ("0", "0.05", "1"):
        out = copy / f"rate{rate}.safetensors"
        options = ("--classifier", "generalised", "--classifier-rate", rate)
        assert ltcli(*STG, *options, "-q", "-d", copy, "--out", out).code == 0
        after = tensors_of(out, "classifier.*")
        assert not after["scales"].equal(before["scales"])
        moved[rate] = (after["weight"] - before["weight"]).norm().item()
    assert moved["0"] == 0
    assert 0 < moved["0.05"] < 0.2 * moved["1"]


@pytest.mark.parametrize(
    "option",
    [
        ("--strength", "0.5"),
        ("--mask", "1"),
        ("--noise", "mean"),
        ("--noise", "dropout"),
        ("--augment", "all"),
        ("--similarity", "euclidean"),
        ("--draws", "3"),
        ("--sampler", "instance-balanced"),
        ("--seed", "1"),
    ],
    ids=" ".join,
)
def test_every_option_changes_the_result(ltcli, copy, option):
    one, other = copy / "one.safetensors", copy / "other.safetensors"
    assert ltcli(*STG, "-q", "-d", copy, "--out", one).code == 0
    assert ltcli(*STG, *option, "-q", "-d", copy, "--out", other).code == 0
    assert not tensors_of(one)["classifier.weight"].equal(tensors_of(other)["classifier.weight"])


@pytest.mark.parametrize("data", ["features", "images"])
def test_backbone_bank_and_generator_stay_as_they_are(ltcli, copy, data):
    files = [copy / f"{stem}.safetensors" for stem in ("pretrain", "dump-features", "stg-train")]
    before = [path.read_bytes() for path in files]
    out = copy / "stg.safetensors"
    assert ltcli(*STG, "--data", data, "--epochs", "1", "-q", "-d", copy, "--out", out).code == 0
    assert [path.read_bytes() for path in files] == before
    start, made = tensors_of(files[0], "backbone.*"), tensors_of(out, "backbone.*")
    assert start.keys() == made.keys()
    assert all(start[name].equal(made[name]) for name in start)


def test_a_run_that_is_interrupted_goes_on_to_the_same_bytes(ltcli, copy, monkeypatch):
    whole, broken = copy / "whole.safetensors", copy / "broken.safetensors"
    command = (*STG, "--classifier", "generalised", "-q", "-d", copy, "--out")
    assert ltcli(*command, whole).code == 0
    step, count = Adam.step, 0

    def counted(self, *args, **named):
        nonlocal count
        count += 1
        if count in (3, 5):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **named)

    monkeypatch.setattr(Adam, "step", counted)
    for _ in range(2):
        assert ltcli(*command, broken).code == 143
    assert ltcli(*command, broken).code == 0
    assert broken.read_bytes() == whole.read_bytes()


def test_the_backbone_that_the_generator_knows_may_not_move(ltcli, copy):
    done = ltcli(*STG, "--data", "images", "--train", "all", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: train must be classifier for stg, got all",
        "hint: the generator belongs to the features of the frozen backbone",
    ]


def test_a_generator_of_another_epoch_is_refused(ltcli, copy):
    options = ("--backbone", "resnet20", "--epochs", "2", "--snapshots", "2", "--force")
    assert ltcli("pretrain", *options, "-q", "-d", copy).code == 0
    assert ltcli("dump-features", "-q", "-d", copy).code == 0
    assert ltcli("stg-train", "--epochs", "1", "-q", "-d", copy).code == 0
    done = ltcli(*STG, "--data", "images", "--from-epoch", "1", "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {copy / 'stg-train.safetensors'}: is of the last epoch, not of epoch 1",
        "hint: --from-epoch must be the same in all",
    ]


def with_facts(path, out, **facts):
    with open_artifact(path) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    save(
        out,
        header.kind,
        tensors,
        stage=header.stage,
        parameters=header.parameters,
        inputs=header.inputs,
        info=header.info | facts,
    )
    return out


def test_a_generator_of_another_model_is_refused(ltcli, copy):
    other = with_facts(copy / "stg-train.safetensors", copy / "g.safetensors", model="6" * 64)
    done = ltcli(*STG, "--generator", other, "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: finetune: {other} belongs to another model than {copy}/pretrain.safetensors",
        "hint: make both from the same artifacts, or name others",
    ]


def test_a_generator_of_another_order_of_classes_is_refused(ltcli, copy):
    names = read_header(copy / "stg-train.safetensors").info["class_names"][::-1]
    other = with_facts(copy / "stg-train.safetensors", copy / "g.safetensors", class_names=names)
    done = ltcli(*STG, "--generator", other, "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: finetune: {other} belongs to another list of classes than "
        f"{copy}/pretrain.safetensors",
        "hint: make both from the same artifacts, or name others",
    ]


def test_without_a_generator_the_stage_that_makes_it_is_named(ltcli, copy):
    (copy / "stg-train.safetensors").unlink()
    done = ltcli(*STG, "-d", copy)
    assert done.code == 3
    assert done.lines[0] == f"error: {copy}/stg-train.safetensors: no such artifact"


def test_the_record_says_what_the_paper_says():
    runs = {name: planned("stg", classifier=name) for name in ("crt", "lws", "generalised")}
    heads = {name: METHOD.head(run.params.options, run) for name, run in runs.items()}
    assert heads["crt"].start == "fresh"
    assert heads["lws"].trainable == ("scales",)
    head = heads["generalised"]
    assert head.start == "trained"
    assert head.trainable == ("weight", "bias", "scales")
    assert head.rates == {"weight": 0.05, "bias": 0.05}
    params = planned("stg").params
    assert params.options.classifier == "crt"
    assert params.sampler == "class-aware"
    assert (params.optimizer, params.lr, params.decay) == ("adam", 1e-3, "steps")
    assert (Options().strength, Options().mask) == (1.0, 0.5)
