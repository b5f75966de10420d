import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ltcli.engine import convex
from ltcli.engine.convex import Problem, Scaling, held_out_losses, minimise, value_and_slope
from ltcli.stats import losses


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


def samples(seed=0, n=120, classes=4, dim=6):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    labels[: n // 3] = 0
    means = torch.randn(classes, dim, generator=rng)
    features = means[labels] + torch.randn(n, dim, generator=rng)
    return features * torch.logspace(-2, 2, dim) + 5, labels


def problem(loss=cross_entropy, weights=None, **of):
    features, labels = samples(**of)
    weights = torch.ones(len(labels)) if weights is None else weights(labels)
    return Problem(
        Scaling.of(features)(features), labels, weights.double(), loss, int(labels.max()) + 1
    )


counts = torch.tensor([70, 20, 5, 30])
MARGINS = losses.margins(counts, 0.5)
LOSSES = {
    "cross-entropy": cross_entropy,
    "balanced softmax": lambda z, y: cross_entropy(z + counts.log(), y),
    "margins": lambda z, y: cross_entropy(
        losses.with_margins(z, y, losses.margins(counts, 0.5)), y
    ),
    "smoothing": lambda z, y: losses.label_aware(z, y, losses.smoothing(counts, 0.3, 0.0)),
    "focal": lambda z, y: losses.focal(z, y, 1.0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_slope_is_that_of_autograd_in_any_blocks(name, monkeypatch):
    of = problem(LOSSES[name], weights=lambda labels: 1.0 + labels)
    point = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    weights = of.weights / of.weights.sum()
    logits = of.features @ point[:, :-1].T + point[:, -1]
    wanted = (weights * of.loss(logits, of.labels)).sum() + 0.05 * point[:, :-1].square().sum()
    wanted.backward()
    for budget in (2**23, 70):
        monkeypatch.setattr(convex, "_BUDGET", budget)
        value, slope = value_and_slope(of, point.detach(), 0.1)
        assert value == pytest.approx(float(wanted.detach()), rel=1e-12)
        torch.testing.assert_close(slope, point.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_every_start_leads_to_the_same_solution(name):
    of = problem(LOSSES[name], n=300)
    starts = [torch.randn(4, 7, dtype=torch.float64) * scale for scale in (1, 10)]
    first, *others = [minimise(of, 1e-3, start=start) for start in (None, *starts)]
    for other in others:
        # Shifting all biases alike changes no loss of a softmax.
        for found in (first, other):
            found[:, -1] -= found[:, -1].mean()
        torch.testing.assert_close(other, first, rtol=0, atol=1e-5)
    assert value_and_slope(of, first, 1e-3)[1].abs().max() < 1e-7


def test_it_is_the_logistic_regression_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    features, labels = samples()
    scaling = Scaling.of(features)
    for weight in (None, "balanced"):
        of = problem(weights=None if weight is None else lambda y: 1 / y.bincount()[y])
        l2 = 0.01
        own = linear.LogisticRegression(
            C=1 / (l2 * len(labels)), class_weight=weight, tol=1e-10, max_iter=5000
        ).fit(scaling(features).numpy(), labels.numpy())
        vectors, bias = scaling.undone(minimise(of, l2))
        logits = features.double() @ vectors.T + bias
        np.testing.assert_allclose(
            logits.softmax(1), own.predict_proba(scaling(features).numpy()), atol=1e-6
        )


def test_plain_training_gives_the_prior_on_average_and_weights_give_equal_shares():
    of = problem()
    for weights in (of.weights, 1 / of.labels.bincount()[of.labels].double()):
        own = Problem(of.features, of.labels, weights, cross_entropy, 4)
        solution = minimise(own, 1e-2)
        posterior = (of.features @ solution[:, :-1].T + solution[:, -1]).softmax(1)
        share = weights / weights.sum()
        wanted = torch.zeros(4, dtype=torch.float64).index_add(0, of.labels, share)
        torch.testing.assert_close(share @ posterior, wanted, rtol=0, atol=1e-6)


def test_copies_of_all_samples_and_a_scale_of_the_weights_change_nothing():
    of = problem()
    twice = Problem(
        of.features.repeat(2, 1), of.labels.repeat(2), 7 * of.weights.repeat(2), of.loss, 4
    )
    torch.testing.assert_close(minimise(twice, 1e-2), minimise(of, 1e-2), rtol=0, atol=1e-6)


def test_a_strong_penalty_leaves_the_directions_of_the_class_means():
    of = problem()
    weights = 1 / of.labels.bincount()[of.labels].double()
    solution = minimise(Problem(of.features, of.labels, weights, cross_entropy, 4), 1e4)
    means = torch.stack([of.features[of.labels == c].mean(0) for c in range(4)])
    wanted = means - means.mean(0)
    cosine = F.cosine_similarity(solution[:, :-1], wanted)
    torch.testing.assert_close(cosine, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-4)


def test_the_scaling_is_undone_in_the_classifier():
    features, _ = samples()
    features[:, 2] = 3.7
    scaling = Scaling.of(features)
    scaled = scaling(features)
    # A constant has no axis, and turning changes no length.
    assert scaled.shape == (120, 5)
    covariance = scaled.T @ scaled / 120
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), rtol=0, atol=1e-9)
    assert covariance.trace() == pytest.approx(5)
    solution = torch.randn(4, 6, dtype=torch.float64)
    vectors, bias = scaling.undone(solution)
    torch.testing.assert_close(
        features.double() @ vectors.T + bias, scaled @ solution[:, :-1].T + solution[:, -1]
    )


def test_fewer_samples_than_dimensions_have_as_many_axes_as_samples_less_one():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(8, 30, generator=rng) + 2
    scaling = Scaling.of(features)
    scaled = scaling(features)
    assert scaled.shape == (8, 7)
    centred = (features - features.mean(0)).double() / features.double().std(0, correction=0)
    torch.testing.assert_close(scaled @ scaled.T, centred @ centred.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(scaling.axes.T @ scaling.axes, torch.eye(7).double())


def test_losses_of_held_out_samples_are_those_of_solutions_without_them():
    of = problem(weights=lambda labels: 1.0 + labels)
    folds = torch.arange(120) % 3
    folds[labels_of_class(of, 2)[0]] = -1
    path = (1.0, 0.1)
    found = list(held_out_losses(of, folds, path))
    assert [l2 for l2, _ in found] == list(path)
    for l2, mean in found:
        total = weight = 0.0
        for fold in range(3):
            solution = minimise(of.part((folds != fold).nonzero().flatten()), l2)
            out = of.part((folds == fold).nonzero().flatten())
            logits = out.features @ solution[:, :-1].T + solution[:, -1]
            total += float((out.weights * cross_entropy(logits, out.labels)).sum())
            weight += float(out.weights.sum())
        assert mean == pytest.approx(total / weight, abs=1e-4)


def labels_of_class(of, label):
    return (of.labels == label).nonzero().flatten()


def test_the_path_ends_where_less_penalty_only_overfits():
    # Noise has nothing to learn: the strongest penalty is the best, and one more is tried.
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(60, 30, generator=rng, dtype=torch.float64)
    labels = torch.arange(60) % 3
    of = Problem(features, labels, torch.ones(60), cross_entropy, 3)
    found = [loss for _, loss in held_out_losses(of, torch.arange(60) // 3 % 5)]
    assert len(found) == 2
    assert found[0] == min(found) == pytest.approx(math.log(3), abs=0.05)


def test_products_may_be_in_single_precision():
    of = problem()
    single = Problem(of.features.float(), of.labels, of.weights, cross_entropy, 4)
    close = minimise(single, 1e-2, tolerance=convex.RANKED)
    torch.testing.assert_close(close, minimise(of, 1e-2), rtol=0, atol=1e-2)
