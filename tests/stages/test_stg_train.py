import json
import os
import signal

import pytest
import torch

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save
from ltcli.engine.optimizers import Adam
from ltcli.models.generator import build_generator, load_generator
from ltcli.stages.stg_train import transfer
from ltcli.stats.differences import class_moments, regression_losses
from ltcli.stats.head_classes import head_classes

COMMAND = ("stg-train", "--epochs", "2", "--batch-size", "128")


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def events(out, event):
    lines = out.with_suffix(".run.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def test_the_artifact_says_which_classes_are_head_and_where_they_are(chain):
    made = tensors_of(chain / "stg-train.safetensors")
    bank = tensors_of(chain / "dump-features.safetensors")
    info = read_header(chain / "stg-train.safetensors").info
    of_bank = read_header(chain / "dump-features.safetensors").info
    for fact in ("class_names", "class_counts", "split", "model"):
        assert info[fact] == of_bank[fact]
    head = head_classes(info["class_counts"], "share", 0.9, where="here")
    assert made["head"].tolist() == head
    for c in range(10):
        mean = bank["train.features"][bank["train.labels"] == c].mean(0)
        torch.testing.assert_close(made["class_means"][c], mean)


def test_only_the_tokens_of_head_classes_are_trained(chain):
    made = tensors_of(chain / "stg-train.safetensors")
    start = build_generator(
        made["class_means"], made["head"], width=64, layers=2, token_std=0.02, seed=0
    ).state_dict()
    trained = (made["tokens"] != start["tokens"]).any(1)
    assert trained.equal(made["head"])
    changed = {name for name in start if not made[name].equal(start[name])}
    assert changed == start.keys() - {"head", "class_means"}


def test_one_step_is_adam_on_the_errors_of_one_batch(ltcli, copy):
    # One batch of all head samples: no smoothing, no memory, and any order gives the same sums.
    out = copy / "one.safetensors"
    options = ("--epochs", "1", "--batch-size", "500", "--lr", "0.01", "--out", out)
    assert ltcli("stg-train", *options, "-d", copy).code == 0
    made, bank = tensors_of(out), tensors_of(copy / "dump-features.safetensors")
    head = made["head"]
    labels = bank["train.labels"]
    features, labels = bank["train.features"][head[labels]], labels[head[labels]]
    generator = build_generator(
        made["class_means"], head, width=64, layers=2, token_std=0.02, seed=0
    )
    means, variances = (found[labels] for found in class_moments(features, labels, 10)[1:])
    losses = regression_losses(*generator(features, labels), means - features, variances, "mse")
    sum(losses).mean().backward()
    (epoch,) = events(out, "epoch")
    assert epoch["mean_loss"] == pytest.approx(losses[0].mean().item(), rel=1e-4)
    assert epoch["variance_loss"] == pytest.approx(losses[1].mean().item(), rel=1e-4)
    assert epoch["loss"] == pytest.approx(epoch["mean_loss"] + epoch["variance_loss"], rel=1e-4)
    for name, parameter in generator.named_parameters():
        # The first step of Adam is the learning rate times the sign of the gradient.
        expected = parameter - 0.01 * parameter.grad.sign()
        clear = parameter.grad.abs() > 1e-5
        torch.testing.assert_close(made[name][clear], expected[clear], rtol=0, atol=1e-4)


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_the_loss_falls(ltcli, copy, loss):
    out = copy / f"{loss}.safetensors"
    options = ("--loss", loss, "--epochs", "30", "--lr", "0.005", "--out", out)
    assert ltcli(*COMMAND, *options, "-q", "-d", copy).code == 0
    epochs = events(out, "epoch")
    assert epochs[-1]["mean_loss"] < 0.8 * epochs[0]["mean_loss"]
    assert epochs[-1]["variance_loss"] < 0.8 * epochs[0]["variance_loss"]
    for epoch in epochs:
        assert epoch["mean_loss"] + epoch["variance_loss"] == pytest.approx(epoch["loss"], rel=0.01)


def test_samples_whose_set_is_too_small_teach_nothing(ltcli, copy):
    out = copy / "none.safetensors"
    assert ltcli(*COMMAND, "--min-set", "99999", "-q", "-d", copy, "--out", out).code == 0
    made = tensors_of(out)
    start = build_generator(
        made["class_means"], made["head"], width=64, layers=2, token_std=0.02, seed=0
    )
    assert all(made[name].equal(value) for name, value in start.named_parameters())
    assert [epoch["loss"] for epoch in events(out, "epoch")] == [0, 0]


@pytest.mark.parametrize(
    "option",
    [
        ("--memory", "0"),
        ("--memory", "600"),
        ("--smoothing", "0"),
        ("--no-include-self",),
        ("--loss", "kl"),
        ("--width", "16"),
        ("--layers", "3"),
        ("--token-std", "1"),
        ("--sampler", "class-aware"),
        ("--weight-decay", "0.1"),
        ("--seed", "1"),
        ("--head", "top-k", "--head-at", "2"),
    ],
    ids=" ".join,
)
def test_every_option_changes_the_result(ltcli, copy, option):
    out = copy / "other.safetensors"
    assert ltcli(*COMMAND, *option, "-q", "-d", copy, "--out", out).code == 0
    one, other = tensors_of(copy / "stg-train.safetensors"), tensors_of(out)
    assert one["mean_mlp.0.weight"].shape != other["mean_mlp.0.weight"].shape or any(
        not one[name].equal(other[name]) for name in one
    )
    done = ltcli("finetune", "--method", "stg", "--generator", out, "--epochs", "1", "-d", copy)
    assert done.code == 0


def test_training_again_gives_the_same_bytes_and_leaves_the_inputs_alone(ltcli, copy):
    inputs = [copy / "pretrain.safetensors", copy / "dump-features.safetensors"]
    path = copy / "stg-train.safetensors"
    before = [file.read_bytes() for file in (*inputs, path)]
    assert ltcli(*COMMAND, "--force", "-d", copy).code == 0
    assert [file.read_bytes() for file in (*inputs, path)] == before
    assert ltcli(*COMMAND, "-d", copy).err == "stg-train: up to date\n"


@pytest.mark.parametrize("memory", ["0", "1200"])
def test_a_run_that_is_interrupted_goes_on_to_the_same_bytes(ltcli, copy, monkeypatch, memory):
    command = (*COMMAND, "--epochs", "3", "--memory", memory, "-q", "-d", copy, "--out")
    whole, broken = copy / "whole.safetensors", copy / "broken.safetensors"
    assert ltcli(*command, whole).code == 0
    step, count = Adam.step, 0

    def counted(self, *args, **named):
        nonlocal count
        count += 1
        # In the middle of an epoch, in its last step, and in the next one's first.
        if count in (2, 8, 9):
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args, **named)

    monkeypatch.setattr(Adam, "step", counted)
    for _ in range(3):
        done = ltcli(*command, broken)
        assert done.code == 130
        assert not broken.exists()
    assert ltcli(*command, broken).code == 0
    assert count > 9
    assert broken.read_bytes() == whole.read_bytes()


def test_what_is_said_of_the_transfer_is_so(rng):
    # One head class; a generator that always points from the feature to the head's mean.
    class Towards(torch.nn.Module):
        def __init__(self, class_means, target):
            super().__init__()
            self.class_means, self.target = class_means, target

        def nearest_head(self, features):
            return torch.zeros(len(features), dtype=torch.int64)

        def forward(self, features, _classes):
            return 2 * (self.class_means[self.target] - features), torch.ones_like(features)

    means = torch.tensor([[10.0, 0.0], [0.0, 5.0]])
    features, labels = torch.zeros(5, 2), torch.ones(5, dtype=torch.int64)
    of_head = transfer(Towards(means, 0), features, labels)
    assert of_head == pytest.approx({"to_own": 0, "to_head": 1, "own_to_head": 0, "length": 4})
    of_own = transfer(Towards(means, 1), features, labels)
    assert of_own == pytest.approx({"to_own": 1, "to_head": 0, "own_to_head": 0, "length": 2})


def test_the_transfer_to_the_tail_samples_is_in_the_log(chain):
    out = chain / "stg-train.safetensors"
    bank = tensors_of(chain / "dump-features.safetensors")
    with open_artifact(out) as artifact:
        generator = load_generator(artifact, torch.device("cpu"))
    tail = ~generator.head[bank["train.labels"]]
    expected = transfer(generator, bank["train.features"][tail], bank["train.labels"][tail])
    (record,) = events(out, "transfer")
    del record["event"]
    assert record == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--head", "min-count", "--head-at", "0"), "no class is a tail class by min-count 0"),
        (("--head", "min-count", "--head-at", "999"), "no class is a head class by min-count 999"),
    ],
    ids=["no tail", "no head"],
)
def test_a_rule_that_leaves_no_head_or_no_tail_is_refused(ltcli, copy, options, message):
    done = ltcli("stg-train", *options, "--dry-run", "-d", copy)
    assert done.code == 2
    hint = "hint: choose another --head or --head-at"
    assert done.lines == [f"error: stg-train: {message}", hint]


def test_of_two_classes_the_smaller_is_the_tail_unless_a_share_is_given(ltcli, tmp_path, rng):
    rows = [f"{x},{y},{int(x < -1)}" for x, y in torch.randn(200, 2, generator=rng).tolist()]
    (tmp_path / "x.csv").write_text("\n".join(["x,y,label", *rows]))
    commands = (
        ("split", "embeddings", "--root", tmp_path / "x.csv", "--val-per-class", "1"),
        ("pretrain", "--epochs", "1"),
        ("dump-features",),
        ("stg-train", "--epochs", "1"),
    )
    for command in commands:
        assert ltcli(*command, "-q", "-d", tmp_path).code == 0
    assert tensors_of(tmp_path / "stg-train.safetensors")["head"].tolist() == [True, False]
    done = ltcli("stg-train", "--head-at", "0.9", "-d", tmp_path)
    assert done.code == 2
    assert done.lines == [
        "error: stg-train: no class is a tail class by share 0.9",
        "hint: choose another --head or --head-at",
    ]


def test_more_head_classes_than_there_are_is_refused(ltcli, copy):
    done = ltcli("stg-train", "--head", "top-k", "-d", copy)
    assert done.code == 2
    assert done.lines[0] == (
        "error: stg-train: head-at must be a whole number from 1 to 9 for top-k, got 20"
    )


def test_a_single_image_of_the_head_is_too_little(ltcli, copy):
    path = copy / "dump-features.safetensors"
    with open_artifact(path) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    for name in ("features", "labels"):
        tensors[f"train.{name}"] = tensors[f"train.{name}"][:1]
    out = copy / "one.safetensors"
    tensors = {
        name: tensors[name] for name in tensors if name.split(".")[1] not in ("maps", "views")
    }
    save(
        out,
        header.kind,
        tensors,
        stage=header.stage,
        parameters=header.parameters,
        inputs=header.inputs,
        info=header.info | {"class_counts": [1] + [0] * 9},
    )
    done = ltcli("stg-train", "--features", out, "--head", "top-k", "--head-at", "1", "-d", copy)
    assert done.code == 3
    assert done.lines == [f"error: {out}: must have at least 2 images of head classes"]


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        (("--memory", "-1"), "memory must be at least 0, got -1"),
        (("--smoothing", "1"), "smoothing must be less than 1, got 1"),
        (("--min-set", "0"), "min_set must be at least 1, got 0"),
        (("--layers", "0"), "layers must be at least 1, got 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_numbers_out_of_range_are_refused(ltcli, tmp_path, option, rule):
    done = ltcli("stg-train", *option, "-d", tmp_path)
    assert done.code == 2
    assert done.lines == [f"error: stg-train: {rule}"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_trains_the_generator(ltcli, copy):
    out = copy / "gpu.safetensors"
    assert ltcli(*COMMAND, "--device", "cuda", "--out", out, "-d", copy).code == 0
    one, other = tensors_of(copy / "stg-train.safetensors"), tensors_of(out)
    assert one.keys() == other.keys()


def test_a_small_bank_is_trained_for_as_many_steps_as_published(ltcli, copy):
    def epochs(*options):
        out = copy / "generator.safetensors"
        given = ("--force", "-q", "--out", out, "-d", copy, *options)
        assert ltcli("stg-train", *given).code == 0
        log = out.with_suffix(".run.jsonl").read_text().splitlines()
        return sum(json.loads(line)["event"] == "epoch" for line in log)

    assert epochs("--epochs", "3") == 3
    # Fifty epochs at least, here of a single step each.
    assert epochs("--min-steps", "60") == 60
    assert epochs("--min-steps", "7") == 50
    done = ltcli("stg-train", "--epochs", "2", "--min-steps", "9", "--force", "-q", "-d", copy)
    assert (done.code, done.err.splitlines()) == (
        2,
        [
            "error: stg-train: min-steps must not be given with --epochs",
            "hint: it says how long to train where nothing else does",
        ],
    )
