import json

import pytest
import torch

from ltcli import methods
from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.core.errors import ParamError
from ltcli.core.params import build
from ltcli.engine.schedules import SCHEDULES
from ltcli.stages.pretrain import Params, resolved_schedule

COMMAND = ("pretrain", "--backbone", "resnet20", "--epochs", "2")


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def test_a_model_says_all_that_is_needed_to_rebuild_it(chain):
    info = read_header(chain / "pretrain.safetensors").info
    split = read_header(chain / "split.safetensors")
    assert info["split"] == split.digest
    assert info["backbone"] == "resnet20"
    assert info["classifier"] == "linear"
    assert info["image_size"] == [8, 8]
    assert (info["mean"], info["std"]) == (split.info["mean"], split.info["std"])
    assert info["class_counts"] == split.info["class_counts"]
    assert not info["balanced"]
    assert [name for name, _ in info["recipe"]] == ["split", "pretrain"]
    assert all("seed" not in parameters for _, parameters in info["recipe"])


def test_training_again_gives_the_same_bytes_and_another_seed_gives_others(ltcli, copy):
    path = copy / "pretrain.safetensors"
    before = path.read_bytes()
    assert ltcli(*COMMAND, "--force", "-d", copy).code == 0
    assert path.read_bytes() == before
    assert ltcli(*COMMAND, "--epochs", "1", "--seed", "1", "-d", copy).code == 0
    assert path.read_bytes() != before


def test_the_epochs_are_in_the_log_beside_the_model(chain):
    lines = (chain / "pretrain.run.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines if '"event": "epoch"' in line]
    assert [record["epoch"] for record in epochs] == [0, 1]
    # Two epochs of a recipe with five of warm-up.
    assert [record["learning_rate"] for record in epochs] == pytest.approx([0.02, 0.04])
    assert epochs[1]["loss"] < epochs[0]["loss"]


def test_snapshots_end_with_the_model_itself(ltcli, copy):
    out = copy / "kept.safetensors"
    command = (*COMMAND, "--epochs", "3", "--snapshots", "2", "--batch-size", "227")
    assert ltcli(*command, "--out", out, "-d", copy).code == 0
    tensors = tensors_of(out)
    kept = {name for name in tensors if name.startswith("snapshots.")}
    assert tensors["snapshots.epoch"].tolist() == [1, 2]
    own = set(tensors) - kept
    assert kept - {"snapshots.epoch"} == {f"snapshots.{name}" for name in own}
    for name in own:
        assert tensors[f"snapshots.{name}"][1].equal(tensors[name])
    weight = tensors["snapshots.classifier.weight"]
    assert not weight[0].equal(weight[1])


def test_what_is_given_replaces_numbers_of_the_recipe():
    params = build(
        Params,
        {"schedule": "mislas", "lr": "0.2", "milestones": "10,20,30", "factors": "0.5,0.1,0.01"},
        "pretrain",
    )
    schedule = resolved_schedule(params)
    assert (schedule.lr, schedule.milestones) == (0.2, (10, 20, 30))
    assert schedule.factors == (0.5, 0.1, 0.01)
    kept = SCHEDULES["mislas"]
    assert (schedule.epochs, schedule.weight_decay, schedule.warmup) == (
        kept.epochs,
        kept.weight_decay,
        kept.warmup,
    )
    for name, recipe in SCHEDULES.items():
        assert resolved_schedule(Params(schedule=name)) == recipe


def test_milestones_without_their_factors_are_refused():
    with pytest.raises(ParamError) as caught:
        resolved_schedule(build(Params, {"milestones": "10"}, "pretrain"))
    rule = "factors must be as many as milestones (1), got 2"
    assert str(caught.value) == f"pretrain: {rule}"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "fast"])
def test_a_learning_rate_out_of_range_is_refused(ltcli, tmp_path, value):
    done = ltcli("pretrain", "--lr", value, "-d", tmp_path)
    assert done.code == 2
    assert len(done.lines) == 1
    assert done.lines[0].startswith("error: pretrain: lr must be ")


def test_a_run_that_diverges_names_epoch_and_step_and_writes_nothing(ltcli, copy):
    out = copy / "diverged.safetensors"
    options = ("--lr", "1e30", "--warmup", "0", "--schedule", "cosine")
    done = ltcli(*COMMAND, *options, "--out", out, "-d", copy)
    assert done.code == 4
    assert done.lines[0].startswith(
        "error: pretrain: loss must be finite, got NaN or infinity in epoch 0, step "
    )
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*methods.names("pretrain"), "mixup"])
def test_every_method_trains(ltcli, copy, name):
    out = copy / "model.safetensors"
    options = ("--mixup", "1") if name == "mixup" else ("--method", name)
    assert ltcli(*COMMAND, *options, "--out", out, "-d", copy).code == 0
    tensors, plain = tensors_of(out), tensors_of(copy / "pretrain.safetensors")
    same = tensors["classifier.weight"].equal(plain["classifier.weight"])
    assert same == (name == "cross-entropy")
    assert tensors["classifier.scales"].eq(1).all()


@pytest.mark.slow
def test_digits_are_learnt(ltcli, copy):
    command = ("pretrain", "--backbone", "resnet20", "--epochs", "20", "--schedule", "cosine")
    options = ("--no-flip", "--padding", "1", "--precision", "fp32")
    assert ltcli(*command, *options, "-d", copy).code == 0
    assert ltcli("evaluate", "--model", copy / "pretrain.safetensors", "-d", copy).code == 0
    predictions = tensors_of(copy / "evaluate-pretrain.safetensors")
    accuracy = (predictions["logits"].argmax(1) == predictions["labels"]).double().mean()
    assert accuracy > 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_trains(ltcli, copy):
    out = copy / "model.safetensors"
    assert ltcli(*COMMAND, "--device", "cuda", "--out", out, "-d", copy).code == 0
    assert read_header(out).info["epochs"] == 2
