import html

import numpy as np
import pytest
import torch

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def test_every_model_of_the_folder_is_evaluated(chain):
    split, bank = (tensors_of(chain / f"{n}.safetensors") for n in ("split", "dump-features"))
    for name in ("pretrain", "finetune-crt"):
        made = tensors_of(chain / f"evaluate-{name}.safetensors")
        assert made.keys() == {"logits", "labels"}
        assert made["logits"].shape == (535, 10)
        assert made["labels"].equal(split["test.labels"])
        header = read_header(chain / f"evaluate-{name}.safetensors")
        model = read_header(chain / f"{name}.safetensors")
        assert header.info["model"] == model.digest
        assert header.info["method"] == model.info["method"]
        assert header.info["recipe"] == model.info["recipe"]
        assert header.info["on"] == "test"
        assert (header.info["backbone"]["name"], header.info["held_out"]) == ("resnet20", 100)
        # ResNet-20: He et al. count 0.27 million.
        assert header.info["network_parameters"] == 269_722
    made = tensors_of(chain / "evaluate-pretrain.safetensors")
    torch.testing.assert_close(made["logits"], bank["test.logits"])


def test_a_fine_tuned_classifier_on_the_bank_gives_the_same_logits(chain):
    bank = tensors_of(chain / "dump-features.safetensors")
    model = tensors_of(chain / "finetune-crt.safetensors")
    made = tensors_of(chain / "evaluate-finetune-crt.safetensors")
    expected = bank["test.features"] @ model["classifier.weight"].T + model["classifier.bias"]
    torch.testing.assert_close(made["logits"], expected)


def test_validation_images_have_an_output_of_their_own(ltcli, copy):
    before = (copy / "evaluate-pretrain.safetensors").read_bytes()
    done = ltcli("evaluate", "--on", "val", "-d", copy)
    assert done.code == 0
    assert done.out.split() == [
        f"{copy}/evaluate-{name}-on-val.safetensors" for name in ("pretrain", "finetune-crt")
    ]
    made = tensors_of(copy / "evaluate-pretrain-on-val.safetensors")
    bank = tensors_of(copy / "dump-features.safetensors")
    torch.testing.assert_close(made["logits"], bank["val.logits"])
    assert made["labels"].equal(bank["val.labels"])
    on_val = read_header(copy / "evaluate-pretrain-on-val.safetensors").info
    on_test = read_header(copy / "evaluate-pretrain.safetensors").info
    assert on_val["on"] == "val"
    assert on_val["images"] != on_test["images"]
    assert (copy / "evaluate-pretrain.safetensors").read_bytes() == before


def test_the_log_has_the_accuracy(ltcli, copy):
    model = copy / "finetune-crt.safetensors"
    done = ltcli("evaluate", "--model", model, "--force", "-d", copy)
    made = tensors_of(copy / "evaluate-finetune-crt.safetensors")
    hits = made["logits"].argmax(1) == made["labels"]
    recalls = [hits[made["labels"] == c].double().mean().item() for c in range(10)]
    text = f"accuracy {100 * hits.double().mean():.2f} %, balanced {10 * sum(recalls):.2f} %"
    assert f"evaluate: finetune-crt on test: {text}\n" in done.err


@pytest.mark.parametrize("whole", [False, True], ids=["classifier", "all"])
def test_the_last_snapshot_predicts_what_the_logits_say(ltcli, copy, whole):
    out = copy / "kept.safetensors"
    options = ["--method", "cross-entropy", "--epochs", "3", "--snapshots", "2", "--out", out]
    if whole:
        options += ["--data", "images", "--train", "all", "--batch-size", "227", "--lr", "0.01"]
    assert ltcli("finetune", *options, "-d", copy).code == 0
    assert ltcli("evaluate", "--model", out, "-d", copy).code == 0
    made = tensors_of(copy / "evaluate-kept.safetensors")
    assert made["snapshots.epoch"].tolist() == [1, 2]
    assert made["snapshots.predicted"].shape == (2, 535)
    assert made["snapshots.predicted"][1].equal(made["logits"].argmax(1))
    assert not made["snapshots.predicted"][0].equal(made["snapshots.predicted"][1])


def test_a_snapshot_predicts_what_a_model_of_that_epoch_predicts(ltcli, copy):
    bank = tensors_of(copy / "dump-features.safetensors")
    out = copy / "kept.safetensors"
    options = ("--method", "cross-entropy", "--epochs", "3", "--snapshots", "3", "--out", out)
    assert ltcli("finetune", *options, "-d", copy).code == 0
    assert ltcli("evaluate", "--model", out, "-d", copy).code == 0
    model, made = tensors_of(out), tensors_of(copy / "evaluate-kept.safetensors")
    for i in range(3):
        weight = model["snapshots.classifier.weight"][i]
        logits = bank["test.features"] @ weight.T + model["snapshots.classifier.bias"][i]
        assert logits.argmax(1).equal(made["snapshots.predicted"][i])


def test_a_snapshot_of_the_whole_network_predicts_with_its_own_backbone(ltcli, copy):
    out, early = copy / "kept.safetensors", copy / "early.safetensors"
    options = ("--method", "cross-entropy", "--data", "images", "--train", "all", "--epochs", "2")
    options = (*options, "--snapshots", "2", "--batch-size", "227", "--lr", "0.01", "--out", out)
    assert ltcli("finetune", *options, "-d", copy).code == 0
    with open_artifact(out) as artifact:
        header, kept = artifact.header, artifact.load("snapshots.*")
    del kept["epoch"]
    facts = {"parameters": header.parameters, "inputs": header.inputs, "info": header.info}
    first = {name: tensor[0] for name, tensor in kept.items()}
    save(early, "model", first, stage="finetune", **facts)
    for path in (out, early):
        assert ltcli("evaluate", "--model", path, "-d", copy).code == 0
    made = tensors_of(copy / "evaluate-kept.safetensors")
    alone = tensors_of(copy / "evaluate-early.safetensors")
    assert made["snapshots.predicted"][0].equal(alone["logits"].argmax(1))


def test_evaluating_again_gives_the_same_bytes(ltcli, copy):
    paths = [copy / f"evaluate-{name}.safetensors" for name in ("pretrain", "finetune-crt")]
    before = [path.read_bytes() for path in paths]
    assert ltcli("evaluate", "--force", "-d", copy).code == 0
    assert [path.read_bytes() for path in paths] == before
    assert ltcli("evaluate", "-d", copy).err == "evaluate: up to date\n" * 2


def test_without_validation_images_there_is_nothing_to_evaluate_on(ltcli, copy):
    command = ("split", "digits", "--imbalance-factor", "10", "--val-per-class", "0", "-d", copy)
    other = copy / "other"
    other.mkdir()
    assert ltcli(*command, "--out", other / "split.safetensors").code == 0
    options = ("--backbone", "resnet20", "--epochs", "1", "--batch-size", "512")
    assert ltcli("pretrain", *options, "-d", other).code == 0
    done = ltcli("evaluate", "--on", "val", "-d", other)
    assert done.code == 3
    assert done.lines == [
        f"error: {other}/split.safetensors: has no val images",
        "hint: make the split with --val-per-class",
    ]


def test_classes_without_test_images_are_named_wherever_averages_leave_them_out(ltcli, tmp_path):
    random = np.random.default_rng(0)
    for part, labels in (("train", [0, 1, 2] * 8), ("test", [0, 1] * 5)):
        features = random.normal(size=(len(labels), 4)) + np.eye(3, 4)[labels]
        np.savez(tmp_path / f"{part}.npz", features=features.astype(np.float32), labels=labels)
    out = tmp_path / "out"
    split = ("embeddings", "--root", tmp_path, "--val-per-class", 2, "-d", out)
    assert "split: 1 of 3 classes have no test images, their accuracy" in ltcli("split", *split).err
    assert ltcli("pretrain", "-d", out).code == 0
    none, averages = "1 of 3 classes have no test images", "and no part in averages over classes"
    done = ltcli("evaluate", "-d", out)
    assert f" % ({none} and no part in it: '2')" in done.err
    # By hand: the mean over the two classes that have images.
    made = tensors_of(out / "evaluate-pretrain.safetensors")
    right = (made["logits"].argmax(1) == made["labels"]).double()
    mean = 100 * (right[::2].mean() + right[1::2].mean()) / 2
    assert f"balanced {mean:.2f} % (" in done.err
    note = f"10 test images ({none}, {averages}: '2'), last epoch."
    plain = ltcli("compare", "--wide", "-d", out)
    assert note in plain.out.splitlines()
    assert note in ltcli("compare", "--markdown", "-d", out).out.splitlines()
    for form in ("--json", "--csv"):
        other = ltcli("compare", form, "-d", out)
        assert other.err.splitlines() == [f"compare: {none}, {averages}: '2'"]
    assert ltcli("report", "-d", out).code == 0
    page = (out / "report.html").read_text()
    assert f"<p>{note}</p>" in html.unescape(page)
    assert ltcli("dump-features", "-d", out).code == 0
    before = ("--before", out / "evaluate-pretrain.safetensors")
    done = ltcli("diagnose", *before, "-d", out)
    assert done.code == 0
    assert f"{none} and no part in it: '2'" in done.out.splitlines()
