import json

import pytest
import torch

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.stats.discriminant import shrinkage


def logits_of(path, features):
    with open_artifact(path) as artifact:
        found = artifact.load("classifier.*")
    return (features @ found["weight"].T + found["bias"]).double()


@pytest.fixture
def bank(copy):
    with open_artifact(copy / "dump-features.safetensors") as artifact:
        return artifact.tensor("train.features"), artifact.tensor("train.labels")


def naive(features, labels, shrinkage):
    features = features.double()
    classes = range(int(labels.max()) + 1)
    means = torch.stack([features[labels == c].mean(0) for c in classes])
    residuals = features - means[labels]
    covariance = residuals.T @ residuals / (len(labels) - len(means))
    shrunk = (1 - shrinkage) * covariance + shrinkage * covariance.diagonal().diag()
    inverse = torch.linalg.inv(shrunk)
    away = features.unsqueeze(1) - means
    return -torch.einsum("ncd,de,nce->nc", away, inverse, away) / 2


def test_naive_twin(ltcli, copy, bank):
    assert ltcli("finetune", "--method", "lda", "--shrinkage", "0.3", "-d", copy).code == 0
    found = logits_of(copy / "finetune-lda.safetensors", bank[0])
    wanted = naive(*bank, 0.3)
    torch.testing.assert_close(found.softmax(1), wanted.softmax(1), rtol=0, atol=1e-4)
    info = read_header(copy / "finetune-lda.safetensors").info
    assert (info["balanced"], info["classifier"]) == (True, "linear")


def test_the_prior_moves_the_biases_alone(ltcli, copy, bank):
    features, labels = bank
    logits = []
    for prior in ("uniform", "train"):
        out = copy / f"{prior}.safetensors"
        options = ("--prior", prior, "--shrinkage", "0.5", "--out", out)
        assert ltcli("finetune", "--method", "lda", *options, "-q", "-d", copy).code == 0
        logits.append(logits_of(out, features))
        assert read_header(out).info["balanced"] == (prior == "uniform")
    counts = labels.bincount().double()
    wanted = (counts / counts.sum()).log().expand(len(labels), -1)
    torch.testing.assert_close(logits[1] - logits[0], wanted, rtol=0, atol=1e-3)


def test_the_shrinkage_is_estimated_and_logged(ltcli, copy, bank):
    assert ltcli("finetune", "--method", "lda", "-q", "-d", copy).code == 0
    log = (copy / "finetune-lda.run.jsonl").read_text().splitlines()
    features, labels = bank
    means = torch.stack([features[labels == c].mean(0) for c in range(10)])
    wanted = shrinkage(features.double() - means.double()[labels])
    (line,) = [line for line in map(json.loads, log) if line["event"] == "solved"]
    assert line["shrinkage"] == pytest.approx(wanted, rel=1e-4)


def test_every_form_of_the_covariances_will_do(ltcli, copy, bank):
    logits = []
    for form in ("full", "factor"):
        done = ltcli("covariances", "--form", form, "--force", "-q", "-d", copy)
        assert done.code == 0
        out = copy / f"{form}.safetensors"
        assert ltcli("finetune", "--method", "lda", "--out", out, "-q", "-d", copy).code == 0
        logits.append(logits_of(out, bank[0]).softmax(1))
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4)
    assert ltcli("covariances", "--form", "diagonal", "--force", "-q", "-d", copy).code == 0
    options = ("--shrinkage", "1", "--out", copy / "d.safetensors")
    assert ltcli("finetune", "--method", "lda", *options, "-q", "-d", copy).code == 0
    wanted = naive(*bank, 1.0)
    found = logits_of(copy / "d.safetensors", bank[0])
    torch.testing.assert_close(found.softmax(1), wanted.softmax(1), rtol=0, atol=1e-4)
