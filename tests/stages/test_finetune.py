import json

import pytest
import torch

from ltcli import methods
from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.methods import METHODS


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def part_of(tensors, part):
    return {name: tensor for name, tensor in tensors.items() if name.startswith(part)}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("name", methods.names("finetune"))
def test_every_method_works_on_the_feature_bank(ltcli, copy, name):
    options = ("--data", "features", "--train", "classifier", "--epochs", "2", "--force")
    done = ltcli("finetune", "--method", name, *options, "-d", copy)
    assert done.code == 0
    out = copy / f"finetune-{name}.safetensors"
    before, after = tensors_of(copy / "pretrain.safetensors"), tensors_of(out)
    assert same(part_of(after, "backbone."), part_of(before, "backbone."))
    assert not same(part_of(after, "classifier."), part_of(before, "classifier."))
    info, start = read_header(out).info, read_header(copy / "pretrain.safetensors").info
    assert info["method"] == name
    assert info["balanced"] == METHODS[name].balances
    assert info["classifier"] == ("cosine" if name == "ncm" else "linear")
    statistics = {"covariances": "covariances", "confusion": "confusion", "generator": "stg-train"}
    inputs = read_header(out).inputs
    made = [stage for role, stage in statistics.items() if role in inputs]
    stages = [stage for stage, _ in info["recipe"]]
    assert stages == ["split", "pretrain", *made, "finetune"]
    assert not any("seed" in parameters for _, parameters in info["recipe"])
    changed = ("classifier", "method", "balanced", "recipe")
    assert {k: v for k, v in info.items() if k not in changed} == {
        k: v for k, v in start.items() if k not in changed
    }
    # Whatever was made can be evaluated.
    assert ltcli("evaluate", "--model", out, "--force", "-d", copy).code == 0
    logits = tensors_of(copy / f"evaluate-finetune-{name}.safetensors")["logits"]
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["crt", "lws", "cross-entropy", "tau-norm", "ncm"])
def test_images_leave_the_frozen_backbone_bit_identical_buffers_included(ltcli, copy, name):
    out = copy / "images.safetensors"
    options = ("--method", name, "--data", "images", "--epochs", "1", "--out", out)
    assert ltcli("finetune", *options, "-d", copy).code == 0
    before, after = tensors_of(copy / "pretrain.safetensors"), tensors_of(out)
    assert any("running_var" in key for key in before)
    assert same(part_of(after, "backbone."), part_of(before, "backbone."))
    assert not same(part_of(after, "classifier."), part_of(before, "classifier."))


def test_train_all_moves_weights_and_buffers(ltcli, copy):
    out = copy / "all.safetensors"
    options = ("--data", "images", "--train", "all", "--epochs", "1", "--lr", "0.01", "--out", out)
    assert ltcli("finetune", "--method", "cross-entropy", *options, "-d", copy).code == 0
    before, after = tensors_of(copy / "pretrain.safetensors"), tensors_of(out)
    assert after.keys() == before.keys()
    kept = [name for name in before if after[name].equal(before[name])]
    assert kept == ["classifier.scales"]


def test_methods_in_closed_form_are_the_same_from_images_and_from_features(ltcli, copy):
    weights = {}
    for data in ("features", "images"):
        out = copy / f"{data}.safetensors"
        options = ("--method", "ncm", "--data", data, "--out", out)
        assert ltcli("finetune", *options, "-d", copy).code == 0
        weights[data] = tensors_of(out)["classifier.weight"]
    torch.testing.assert_close(weights["images"], weights["features"])


def test_the_tau_that_was_chosen_is_in_the_log(ltcli, copy):
    assert ltcli("finetune", "--method", "tau-norm", "-d", copy).code == 0
    lines = (copy / "finetune-tau-norm.run.jsonl").read_text().splitlines()
    (record,) = [json.loads(line) for line in lines if '"solved"' in line]
    assert record["tau"] in [step / 10 for step in range(21)]


def test_tau_norm_without_validation_images_is_refused(ltcli, tmp_path):
    common = ("-q", "-d", tmp_path)
    assert ltcli("split", "digits", "--val-per-class", "0", *common).code == 0
    options = ("--backbone", "resnet20", "--epochs", "1", "--batch-size", "512")
    assert ltcli("pretrain", *options, *common).code == 0
    assert ltcli("dump-features", *common).code == 0
    done = ltcli("finetune", "--method", "tau-norm", *common)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: tau must be given: there are no validation images",
        "hint: give --tau, or make the split with --val-per-class",
    ]
    assert ltcli("finetune", "--method", "tau-norm", "--tau", "1", *common).code == 0


def test_finetuning_again_gives_the_same_bytes(ltcli, copy):
    path = copy / "finetune-crt.safetensors"
    before = path.read_bytes()
    command = ("finetune", "--method", "crt", "--epochs", "2", "-d", copy)
    assert ltcli(*command, "--force").code == 0
    assert path.read_bytes() == before
    assert ltcli(*command).err == "finetune: up to date\n"
    assert ltcli(*command, "--seed", "1").code == 0
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    "options",
    [("--method", "crt"), ("--method", "lws", "--data", "images")],
    ids=["features", "scales only"],
)
def test_train_all_needs_images_and_a_method_that_trains_the_classifier(ltcli, copy, options):
    done = ltcli("finetune", *options, "--train", "all", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: train must be classifier, got all",
        "hint: --train all needs --data images and a method that trains the classifier",
    ]


def test_features_of_another_model_are_refused(ltcli, copy):
    model = copy / "finetune-crt.safetensors"
    done = ltcli("finetune", "--method", "lws", "--model", model, "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: finetune: {copy}/dump-features.safetensors belongs to another model than {model}",
        "hint: make both from the same artifacts, or name others",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("data", ["features", "images"])
@pytest.mark.parametrize("name", methods.names("finetune"))
def test_every_method_works_on_a_gpu(ltcli, copy, name, data):
    options = ("--method", name, "--data", data, "--epochs", "1", "--device", "cuda", "--force")
    assert ltcli("finetune", *options, "-d", copy).code == 0
    before = tensors_of(copy / "pretrain.safetensors")
    after = tensors_of(copy / f"finetune-{name}.safetensors")
    assert same(part_of(after, "backbone."), part_of(before, "backbone."))


def test_a_bank_of_an_earlier_epoch_is_for_that_epoch_alone(ltcli, copy):
    start, common = copy / "start.safetensors", ("-d", copy)
    options = ("--backbone", "resnet20", "--epochs", "2", "--snapshots", "2", "--out", start)
    assert ltcli("pretrain", *options, *common).code == 0
    bank, own = copy / "bank.safetensors", copy / "covariances-1.safetensors"
    model = ("--model", start)
    earlier = ("--from-epoch", "1")
    assert ltcli("dump-features", *model, *earlier, "--out", bank, *common).code == 0
    assert ltcli("covariances", "--features", bank, "--out", own, *common).code == 0
    assert read_header(own).info["epoch"] == 1
    crt = ("finetune", "--method", "crt", *model, "--epochs", "1", *common)
    done = ltcli(*crt, "--features", bank, "--force")
    assert done.code == 3
    assert done.lines == [
        f"error: {bank}: is of epoch 1, not of the one to start from",
        "hint: --from-epoch must be the same here and in dump-features",
    ]
    out = copy / "crt-1.safetensors"
    assert ltcli(*crt, "--features", bank, *earlier, "--out", out).code == 0
    kept, made = tensors_of(start), tensors_of(out)
    for name, tensor in part_of(made, "backbone.").items():
        assert tensor.equal(kept[f"snapshots.{name}"][0])
    done = ltcli("dump-features", *model, "--from-epoch", "3", "--force", *common)
    assert done.code == 2
    assert done.lines == [
        "error: dump-features: from-epoch must be in 1 ... 2, got 3",
        f"hint: {start} keeps these",
    ]
    done = ltcli("dump-features", *earlier, "--force", *common)
    assert done.code == 3
    assert done.lines == [
        f"error: {copy / 'pretrain.safetensors'}: keeps no earlier epochs of its pre-training",
        "hint: use pretrain --snapshots",
    ]
