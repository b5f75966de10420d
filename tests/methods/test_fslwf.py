import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.data.batches import Batch
from ltcli.methods.fslwf import METHOD, ClassVectors, Options, class_means, make_steps
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network
from tests.methods.conftest import assembled, planned


@pytest.fixture
def case(make_run):
    """A cosine classifier on features of four classes."""
    run = make_run("fslwf")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        classifier = Classifier(5, 4, "cosine").double()
    classifier.train_only("weight")
    optimizer = torch.optim.SGD([classifier.weight], lr=0.05, weight_decay=0.0)
    network = Network(torch.nn.Identity(), classifier)
    return dataclasses.replace(run, network=network, optimizer=optimizer)


OPTIONS = Options(head="top-k", head_at=2)
EVERY = Batch(0, 0, 0, torch.arange(24))


def test_means_are_of_features_of_length_one(case):
    x = F.normalize(case.inputs(EVERY))
    expected = torch.stack([x[case.labels == c].mean(0) for c in range(4)])
    torch.testing.assert_close(class_means(case), expected)


def test_generated_vectors_are_those_of_the_formula(case):
    weights = ClassVectors(OPTIONS, case, class_means(case))
    with torch.no_grad():
        for part in weights.parts.values():
            part.add_(0.1 * torch.randn(part.shape, dtype=part.dtype))
    w, m, p = case.network.classifier.weight, class_means(case), weights.parts
    rare = torch.tensor([False, True, True, False])
    found = weights.vectors(w, rare)
    for t in (1, 2):
        q = p["query"] @ m[t]
        keys = p["class_keys"][[0, 3]]
        share = (p["sharpness"] * torch.cosine_similarity(q.unsqueeze(0), keys)).softmax(0)
        lent = sum(s * w[h] / w[h].norm() for s, h in zip(share, (0, 3), strict=True))
        torch.testing.assert_close(found[t], p["mean"] * m[t] + p["lent"] * lent)
    assert torch.equal(found[[0, 3]], w[[0, 3]])


def test_a_step_hides_a_head_class_and_writes_the_tail_into_the_classifier(case, batch):
    steps = make_steps(OPTIONS, case)
    classifier = case.network.classifier
    weights = ClassVectors(OPTIONS, case, class_means(case))
    weights.parts = steps.state.module
    x, labels = F.normalize(case.inputs(batch)), case.labels[batch.rows]
    losses = []
    for hidden in (0, 1):
        rare = torch.tensor([hidden == 0, hidden == 1, True, True])
        vectors = F.normalize(weights.vectors(classifier.weight, rare))
        losses.append(float(F.cross_entropy(10 * x @ vectors.T, labels).detach()))
    mine = float(steps.step(batch).detach())
    assert any(mine == pytest.approx(loss, rel=1e-9) for loss in losses)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    tail = torch.tensor([False, False, True, True])
    made = weights.vectors(classifier.weight, tail).detach()
    torch.testing.assert_close(classifier.weight.detach(), made)
    assert (classifier.scales == weights.parts["scale"].detach()).all()


def test_the_generator_goes_on_after_a_restart(case, batch):
    steps = make_steps(OPTIONS, case)
    steps.step(batch)
    kept = {name: tensor.clone() for name, tensor in steps.state.tensors().items()}
    steps.step(batch)
    assert any(not torch.equal(kept[n], t) for n, t in steps.state.tensors().items())
    steps.state.restore(kept)
    assert all(torch.equal(kept[n], t) for n, t in steps.state.tensors().items())


def test_it_makes_a_cosine_classifier(ltcli, copy):
    assert ltcli("finetune", "--method", "fslwf", "--epochs", "2", "-d", copy).code == 0
    out = copy / "finetune-fslwf.safetensors"
    info = read_header(out).info
    assert (info["classifier"], info["balanced"]) == ("cosine", True)
    with open_artifact(out) as model:
        assert model.tensor("method.query").shape == (64, 64)
    assert ltcli("evaluate", "--model", out, "-d", copy).code == 0


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (["--data", "images", "--train", "all"], "train must be classifier for fslwf, got all"),
        (
            ["--head", "top-k", "--head-at", "10"],
            "head-at must be a whole number from 1 to 9 for top-k, got 10",
        ),
        (
            ["--head", "top-k", "--head-at", "3", "--hidden", "3"],
            "hidden must be less than the 3 head classes, got 3",
        ),
    ],
)
def test_what_cannot_work_is_refused(ltcli, copy, given, rule):
    done = ltcli("finetune", "--method", "fslwf", *given, "-d", copy)
    assert done.code == 2
    assert done.lines[0].startswith(f"error: finetune: {rule}")


def test_the_record_says_how_it_samples():
    assert METHOD.defaults["finetune"] == {"sampler": "class-aware"}
    run = planned("fslwf")
    assert METHOD.head(run.params.options, run).start == "fresh"


def test_means_of_images_are_of_these_as_they_are(chain):
    with open_artifact(chain / "dump-features.safetensors") as bank:
        features, labels = bank.tensor("train.features"), bank.tensor("train.labels")
    # Images that are drawn would be cropped and flipped.
    run = assembled(chain, "fslwf", data="images")
    assert (run.params.padding, run.params.flip) == (4, True)
    unit = F.normalize(features)
    expected = torch.stack([unit[labels == c].mean(0) for c in range(10)])
    torch.testing.assert_close(class_means(run), expected, rtol=1e-2, atol=1e-3)
