import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.core.errors import ResourceError
from ltcli.data.batches import Batch
from ltcli.engine.optimizers import SGD
from ltcli.methods import isda
from ltcli.methods.isda import Options, make_steps
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network
from ltcli.stats.quadratic import Diagonal, Factor, Full
from tests.methods.conftest import header, planned, training_run

C, D, N, EPOCHS = 4, 3, 24, 4


def run_of(rng, covariances=None, lr=0.0, dtype=torch.float64):
    """A classifier of features with factors that are not 1, and one batch an epoch."""
    classifier = Classifier(D, C).to(dtype)
    for values in (classifier.weight, classifier.bias):
        values.data = torch.randn(values.shape, generator=rng, dtype=dtype)
    classifier.scales.data = torch.rand(C, generator=rng, dtype=dtype) + 0.5
    features = torch.randn(N, D, generator=rng, dtype=dtype)
    return training_run(
        planned("isda", epochs=EPOCHS, batch_size=N),
        Network(torch.nn.Identity(), classifier),
        features,
        optimizer=SGD([classifier.weight, classifier.bias], lr=lr),
        labels=torch.arange(N) % C,
        covariances=covariances,
    )


def batch_of(case, epoch=0, rows=slice(None)):
    rows = case.order(epoch)[rows]
    return Batch(epoch, 0, 0, rows)


def matrices(rng):
    roots = torch.randn(C, D, D, generator=rng, dtype=torch.float64)
    return roots @ roots.transpose(1, 2)


def naive(case, batch, sigma, strength):
    """The loss of each sample, term by term."""
    classifier, features = case.network.classifier, case.inputs(batch)
    vectors = (classifier.scales.unsqueeze(1) * classifier.weight).detach()
    losses = []
    for f, y in zip(features, case.labels[batch.rows].tolist(), strict=True):
        z = classifier(f.unsqueeze(0))[0].detach()
        for c in range(C):
            difference = vectors[c] - vectors[y]
            z[c] += strength / 2 * difference @ sigma[y] @ difference
        losses.append(z.logsumexp(0) - z[y])
    return torch.stack(losses)


def fixed(strength):
    return Options(strength=strength, ramp_start=1.0, source="artifact")


def test_the_loss_is_the_formula_term_by_term(rng):
    sigma = matrices(rng)
    case = run_of(rng, Full(sigma))
    batch = batch_of(case)
    value = make_steps(fixed(0.8), case).step(batch)
    torch.testing.assert_close(value, naive(case, batch, sigma, 0.8).mean(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["full", "diagonal", "factor"])
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_without_strength_or_covariance_it_is_cross_entropy_and_so_is_the_step(rng, form, strength):
    spread = 0.0 if strength else 1.0
    covariances = {
        "full": Full(spread * matrices(rng)),
        "diagonal": Diagonal(spread * torch.rand(C, D, generator=rng, dtype=torch.float64)),
        "factor": Factor(spread * torch.rand(C, D, generator=rng).double(), list(range(C + 1))),
    }[form]
    case = run_of(rng, covariances, lr=0.1)
    classifier, batch = case.network.classifier, batch_of(case)
    weight, bias = (p.detach().clone() for p in (classifier.weight, classifier.bias))
    plain = F.cross_entropy(classifier(case.inputs(batch)), case.labels[batch.rows])
    slopes = torch.autograd.grad(plain, (classifier.weight, classifier.bias))
    value = make_steps(fixed(strength), case).step(batch)
    torch.testing.assert_close(value, plain, rtol=0, atol=1e-7)
    torch.testing.assert_close(classifier.weight.data, weight - 0.1 * slopes[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(classifier.bias.data, bias - 0.1 * slopes[1], rtol=0, atol=1e-7)


def test_the_gradient_is_that_of_the_formula(rng):
    sigma = matrices(rng)
    case = run_of(rng, Full(sigma), lr=1.0)
    classifier, batch = case.network.classifier, batch_of(case)
    before = classifier.weight.detach().clone()

    def loss(weight):
        vectors = classifier.scales.detach().unsqueeze(1) * weight
        y = case.labels[batch.rows]
        d = vectors.unsqueeze(0) - vectors[y].unsqueeze(1)
        z = case.inputs(batch) @ vectors.T + (classifier.scales * classifier.bias).detach()
        return F.cross_entropy(z + 0.3 * torch.einsum("bcd,bde,bce->bc", d, sigma[y], d), y)

    weight = before.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(weight), weight)
    make_steps(fixed(0.6), case).step(batch)
    torch.testing.assert_close(before - classifier.weight.data, slope, rtol=0, atol=1e-12)


def test_it_bounds_the_expected_cross_entropy_from_above(rng):
    sigma, draws = 0.2 * matrices(rng), 200_000
    for y in range(C):
        case = run_of(rng, Full(sigma))
        case = dataclasses.replace(case, order=lambda _epoch, y=y: torch.tensor([y]))
        classifier, feature = case.network.classifier, case.inputs(batch_of(case))
        bound = make_steps(fixed(0.5), case).step(batch_of(case))
        noise = torch.randn(draws, D, generator=rng, dtype=torch.float64)
        root = torch.linalg.cholesky(0.5 * sigma[y])
        with torch.no_grad():
            drawn = classifier(feature + noise @ root.T)
        losses = F.cross_entropy(drawn, torch.full((draws,), y), reduction="none")
        assert bound > losses.mean() - 4 * losses.std() / draws**0.5
        # Were it no more than the loss of the feature itself, nothing would be bounded.
        assert bound > F.cross_entropy(classifier(feature), torch.tensor([y]))


def test_more_strength_is_never_less_loss(rng):
    case = run_of(rng, Full(matrices(rng)))
    batch = batch_of(case)
    values = [make_steps(fixed(s), case).step(batch).item() for s in (0, 0.1, 0.5, 1, 5)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_the_strength_grows_by_epochs(rng):
    sigma = matrices(rng)
    case = run_of(rng, Full(sigma))
    options = Options(strength=2.0, ramp_start=0.2, source="artifact")
    steps = make_steps(options, case)
    for epoch, strength in enumerate((0.4, 0.8, 1.2, 1.6)):
        batch = batch_of(case, epoch)
        expected = naive(case, batch, sigma, strength).mean()
        torch.testing.assert_close(steps.step(batch), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_running_covariances_know_the_batch_before_its_loss(rng, form):
    case = run_of(rng, dtype=torch.float32)
    options = Options(strength=1.0, ramp_start=1.0, form=form)
    steps = make_steps(options, case)
    for step, last in enumerate((12, 24)):
        batch = Batch(0, step, last - 12, case.order(0)[last - 12 : last])
        seen = case.order(0)[:last]
        features = case.inputs(Batch(0, 0, 0, seen))
        own = [features[case.labels[seen] == c] for c in range(C)]
        sigma = [torch.tensor(np.cov(f.T.numpy(), bias=True), dtype=torch.float32) for f in own]
        if form == "diagonal":
            sigma = [s.diag().diag() for s in sigma]
        expected = naive(case, batch, sigma, 1.0).mean()
        torch.testing.assert_close(steps.step(batch), expected)


def test_the_estimate_goes_on_after_a_restart(rng):
    case = run_of(rng, dtype=torch.float32)
    options = Options(strength=1.0, ramp_start=1.0)
    first, second = (Batch(0, i, 12 * i, case.order(0)[12 * i : 12 * i + 12]) for i in (0, 1))
    whole, again, fresh = (make_steps(options, case) for _ in range(3))
    whole.step(first)
    again.state.restore(whole.state.tensors())
    expected = whole.step(second)
    assert again.step(second).equal(expected)
    assert not fresh.step(second).equal(expected)


def test_all_sources_and_forms_work_from_the_command_line(ltcli, copy):
    factor = copy / "factor.safetensors"
    assert ltcli("covariances", "--form", "factor", "--out", factor, "-d", copy).code == 0
    outs = []
    for given in (
        ("--source", "artifact"),
        ("--source", "artifact", "--covariances", factor),
        ("--source", "running"),
        ("--source", "running", "--form", "diagonal"),
    ):
        outs.append(copy / f"isda-{len(outs)}.safetensors")
        command = ("finetune", "--method", "isda", "--epochs", "2", "--ramp-start", "1", *given)
        assert ltcli(*command, "--out", outs[-1], "-d", copy).code == 0
    weights = []
    for out in outs:
        with open_artifact(out) as model:
            weights.append(model.tensor("classifier.weight"))
    # The two exact forms of one artifact train alike, and no other pair does.
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(weights[0], weights[2], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(weights[2], weights[3], rtol=1e-3, atol=1e-3)
    assert not any(name.startswith("method.") for name in read_header(outs[0]).tensors)
    shapes = [read_header(out).tensors["method.covariances"][1] for out in outs[2:]]
    assert shapes == [(10, 64, 64), (10, 64)]


def test_on_images_the_whole_network_moves(ltcli, copy):
    out = copy / "isda.safetensors"
    options = ("--data", "images", "--train", "all", "--epochs", "1", "--lr", "0.01")
    done = ltcli("finetune", "--method", "isda", *options, "--out", out, "-d", copy)
    assert done.code == 0
    with open_artifact(out) as after, open_artifact(copy / "pretrain.safetensors") as before:
        one, other = after.load("backbone.*"), before.load("backbone.*")
        assert not any(one[n].equal(other[n]) for n in one if n.endswith("weight"))
        counts = after.tensor("method.counts")
    assert counts.tolist() == read_header(out).info["class_counts"]


def test_a_classifier_that_is_not_linear_is_refused(ltcli, copy):
    model, bank = copy / "finetune-ncm.safetensors", copy / "bank.safetensors"
    assert ltcli("finetune", "--method", "ncm", "-d", copy).code == 0
    assert ltcli("dump-features", "--model", model, "--out", bank, "-d", copy).code == 0
    done = ltcli("finetune", "--method", "isda", "--model", model, "--features", bank, "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {model}: classifier must be linear, got cosine",
        "hint: start from a model whose logits are linear in the features, not one of ldam or ncm",
    ]


def test_full_running_covariances_of_many_classes_are_refused(tmp_path):
    shape = {"classifier.weight": ("F32", (8142, 768))}
    model = header(tmp_path / "m", shape)
    isda.require_room("diagonal", model)
    with pytest.raises(ResourceError) as caught:
        isda.require_room("full", model)
    rule = "full running covariances of 8,142 classes must take at most 8 GB, got 19.2 GB"
    assert (str(caught.value), caught.value.hint) == (f"finetune: {rule}", "use --form diagonal")


@pytest.mark.parametrize("method", ["isda", "risda", "metasaug"])
def test_they_are_refused_before_any_work(ltcli, copy, monkeypatch, method):
    monkeypatch.setattr(isda, "MAX_FULL_BYTES", 1e5)
    more = () if method == "metasaug" else ("--source", "running")
    classifier = ("--train", "classifier", "--data", "features", "--meta-source", "train")
    more = (*classifier, "--meta-per-class", "2") if method == "metasaug" else more
    done = ltcli("finetune", "--method", method, *more, "--dry-run", "-d", copy)
    assert (done.code, done.lines[1]) == (6, "hint: use --form diagonal")
