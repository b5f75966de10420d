"""Classifiers on features that are solved for: ``--optimizer lbfgs``."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact

CONVEX = ("cross-entropy", "class-balanced", "focal", "balanced-softmax", "ldam", "crt", "mislas")


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    """A file of features that overlap, 60 to 6 a class."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), (60, 30, 12, 6))
    features = rng.normal(size=(4, 8))[labels] + rng.normal(size=(len(labels), 8))
    path = tmp_path_factory.mktemp("embeddings") / "features.npz"
    np.savez(path, features=features.astype(np.float32) * 10 + 3, labels=labels)
    return path


@pytest.fixture
def split(ltcli, embeddings, tmp_path):
    options = ("--root", embeddings, "--val-per-class", 0, "--test-fraction", "0.2")
    assert ltcli("split", "embeddings", *options, "-q", "-d", tmp_path).code == 0
    return tmp_path


def train_part(folder):
    with open_artifact(folder / "split.safetensors") as artifact:
        return artifact.tensor("train.features"), artifact.tensor("train.labels")


def classifier(path):
    with open_artifact(path) as artifact:
        found = artifact.load("classifier.*")
    assert found["scales"].unique().tolist() == [1]
    return found["weight"], found["bias"]


def probabilities(path, features):
    weight, bias = classifier(path)
    return (features @ weight.T + bias).double().softmax(1)


def log_of(path, event):
    lines = map(json.loads, path.with_suffix(".run.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def test_embeddings_are_solved_for_and_equal_scikit_learn(ltcli, split):
    linear = pytest.importorskip("sklearn.linear_model")
    assert ltcli("pretrain", "--l2", "0.01", "-d", split).code == 0
    features, labels = train_part(split)
    scaled = ((features - features.mean(0)) / features.std(0, correction=0)).double().numpy()
    own = linear.LogisticRegression(C=1 / (0.01 * len(labels)), tol=1e-10, max_iter=5000)
    own.fit(scaled, labels.numpy())
    found = probabilities(split / "pretrain.safetensors", features)
    np.testing.assert_allclose(found, own.predict_proba(scaled), atol=1e-5)
    info = read_header(split / "pretrain.safetensors").info
    assert (info["epochs"], info["balanced"], info["classifier"]) == (0, False, "linear")
    assert dict(info["recipe"])["pretrain"]["optimizer"] == "lbfgs"


def test_the_seed_and_the_model_before_change_no_solution(ltcli, split):
    paths = [split / f"{name}.safetensors" for name in ("a", "b", "c")]
    given = ("--l2", "0.01", "-q", "-d", split)
    assert ltcli("pretrain", *given, "--out", paths[0]).code == 0
    assert ltcli("pretrain", *given, "--seed", 7, "--out", paths[1]).code == 0
    assert ltcli("dump-features", "--model", paths[0], "-q", "-d", split).code == 0
    method = ("--method", "cross-entropy", "--model", paths[0], "--out", paths[2])
    assert ltcli("finetune", *method, *given).code == 0
    features, _ = train_part(split)
    first, *others = [probabilities(path, features) for path in paths]
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=1e-5)


def test_the_penalty_is_chosen_by_folds_and_said(ltcli, split):
    done = ltcli("pretrain", "-d", split)
    (folds,), (solved,) = (
        log_of(split / "pretrain.safetensors", event) for event in ("folds", "solved")
    )
    assert len(folds["l2"]) == len(folds["losses"]) >= 2
    assert solved["l2"] == min(zip(folds["losses"], folds["l2"], strict=True))[1]
    assert f"pretrain: solved with l2 {solved['l2']:g}, chosen by 5 folds\n" in done.err
    given = split / "given.safetensors"
    again = ltcli("pretrain", "--l2", solved["l2"], "--out", given, "-d", split)
    assert f"pretrain: solved with l2 {solved['l2']:g}\n" in again.err
    for one, other in zip(
        classifier(split / "pretrain.safetensors"), classifier(given), strict=True
    ):
        assert one.equal(other)


def test_options_of_sgd_train_as_before(ltcli, split):
    assert ltcli("pretrain", "--epochs", 2, "-d", split).code == 0
    header = read_header(split / "pretrain.safetensors")
    assert dict(header.info["recipe"])["pretrain"]["optimizer"] == "sgd"
    assert header.info["epochs"] == 2


def test_what_would_take_long_is_trained_unless_asked_for(ltcli, split, monkeypatch):
    features, _ = train_part(split)
    monkeypatch.setattr("ltcli.stages.solving.LARGEST", features.numel() * 4 - 1)
    for options, optimizer in (((), "sgd"), (("--optimizer", "lbfgs", "--l2", 1), "lbfgs")):
        out = split / f"{optimizer}.safetensors"
        assert ltcli("pretrain", *options, "-q", "--out", out, "-d", split).code == 0
        recipe = dict(read_header(out).info["recipe"])["pretrain"]
        assert recipe["optimizer"] == optimizer


@pytest.mark.parametrize("method", CONVEX)
def test_methods_with_a_loss_are_solved_on_a_bank(ltcli, copy, method):
    options = ("--method", method, "--optimizer", "lbfgs", "--l2", "0.01", "--force", "-d", copy)
    assert ltcli("finetune", *options).code == 0
    info = read_header(copy / f"finetune-{method}.safetensors").info
    assert info["classifier"] == "linear"
    assert info["balanced"] == (method not in ("cross-entropy", "focal"))
    assert dict(info["recipe"])["finetune"]["optimizer"] == "lbfgs"
    with open_artifact(copy / "dump-features.safetensors") as bank:
        features, labels = bank.tensor("train.features"), bank.tensor("train.labels")
    found = probabilities(copy / f"finetune-{method}.safetensors", features)
    counts = labels.bincount().double()
    # The bias is at its optimum: mean probabilities are the prior that the loss sees.
    if method == "cross-entropy":
        torch.testing.assert_close(found.mean(0), counts / counts.sum(), rtol=0, atol=1e-5)
    if method == "balanced-softmax":
        seen = found * counts
        seen = (seen / seen.sum(1, keepdim=True)).mean(0)
        torch.testing.assert_close(seen, counts / counts.sum(), rtol=0, atol=1e-5)
    if method == "crt":
        drawn = (found / counts[labels].unsqueeze(1)).sum(0) / len(counts)
        torch.testing.assert_close(drawn, torch.full_like(drawn, 0.1), rtol=0, atol=1e-5)


def test_a_group_is_in_one_fold(ltcli, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(90):
        folder = tmp_path / "photos" / f"class {number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"burst{number // 6}-{number}.png")
    options = ("--root", tmp_path / "photos", "--group-by", "burst[0-9]+", "--image-size", 16)
    assert ltcli("split", "folder", *options, "-q", "-d", tmp_path).code == 0
    network = ("--backbone", "resnet20", "--epochs", 1)
    assert ltcli("pretrain", *network, "-q", "-d", tmp_path).code == 0
    assert ltcli("dump-features", "-q", "-d", tmp_path).code == 0
    found = []

    def spied(labels, count, seed, groups):
        found.append(groups.tolist())
        return np.arange(len(labels)) % count

    monkeypatch.setattr("ltcli.data.folds.folds", spied)
    method = ("--method", "crt", "--optimizer", "lbfgs")
    assert ltcli("finetune", *method, "-q", "-d", tmp_path).code == 0
    with open_artifact(tmp_path / "split.safetensors") as split:
        assert found == [split.tensor("train.groups").tolist()]
    assert len(set(found[0])) > 5


ERRORS = {
    "lws --optimizer lbfgs": (
        "optimizer must not be lbfgs for lws here",
        "it solves for the class vectors, which this method keeps",
    ),
    "isda --optimizer lbfgs": (
        "optimizer must not be lbfgs for isda here",
        "it is for methods with a loss of logits",
    ),
    "crt --optimizer lbfgs --data images": (
        "optimizer must not be lbfgs for crt here",
        "it needs features: those of a bank, or embeddings",
    ),
    "crt --optimizer lbfgs --sampler progressive": (
        "optimizer must not be lbfgs for crt here",
        "the samples have one weight each, not one in each epoch",
    ),
    "crt --optimizer lbfgs --mixup 1": (
        "optimizer must not be lbfgs for crt here",
        "mixed samples have no fixed features",
    ),
    "crt --optimizer lbfgs --epochs 3": (
        "epochs must not be given with lbfgs",
        "it has neither steps nor epochs; --optimizer sgd has",
    ),
    "crt --l2 0.1": ("l2 must not be given without --optimizer lbfgs", None),
    "crt --optimizer lbfgs --l2 0": ("l2 must be greater than 0, got 0", None),
}


@pytest.mark.parametrize("words", ERRORS)
def test_what_cannot_be_solved_is_refused(ltcli, copy, words):
    done = ltcli("finetune", "--method", *words.split(), "--force", "-q", "-d", copy)
    message, hint = ERRORS[words]
    wanted = [f"error: finetune: {message}"] + ([f"hint: {hint}"] if hint else [])
    assert (done.code, done.err.splitlines()) == (2, wanted)


def test_images_are_not_solved_for(ltcli, copy):
    done = ltcli("pretrain", "--optimizer", "lbfgs", "--force", "-q", "-d", copy)
    assert done.code == 2
    assert done.err.splitlines() == [
        "error: pretrain: optimizer must not be lbfgs for cross-entropy here",
        "hint: it needs features: those of a bank, or embeddings",
    ]
