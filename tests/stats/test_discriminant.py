import numpy as np
import pytest
import torch

from ltcli.core.errors import NumericalError
from ltcli.stats.covariance_forms import estimate
from ltcli.stats.discriminant import discriminant, pooled, shrinkage
from ltcli.stats.moments import class_means
from ltcli.stats.quadratic import Diagonal, Factor, Full, LowRank


def samples(seed=0, n=90, dim=5):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.zeros(n // 2, dtype=torch.int64), torch.arange(n - n // 2) % 3])
    mixing = torch.randn(dim, dim, generator=rng)
    means = 2 * torch.randn(3, dim, generator=rng)
    return means[labels] + torch.randn(n, dim, generator=rng) @ mixing, labels


def parts(features, labels):
    means = class_means(features, labels, 3).double()
    residuals = features.double() - means[labels]
    return means, residuals, residuals.T @ residuals / (len(labels) - 3)


def covariances(form, features, labels, rank=None):
    found = estimate(features, labels, 3, form, ddof=1, rank=rank).tensors
    if form == "full":
        return Full(found["full"])
    if form == "diagonal":
        return Diagonal(found["diagonal"])
    factor = Factor(found["rows"], found["offsets"].tolist())
    return factor if form == "factor" else LowRank(factor, Diagonal(found["diagonal"]))


@pytest.mark.parametrize("form", ["full", "factor", "low-rank", "diagonal"])
def test_class_covariances_add_up_to_that_of_all_residuals(form):
    features, labels = samples()
    _, _, wanted = parts(features, labels)
    weights = labels.bincount().double() - 1
    found = pooled(covariances(form, features, labels, rank=5), weights / weights.sum())
    wanted = wanted.diagonal().diag() if form == "diagonal" else wanted
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_without_shrinkage_it_is_that_of_scikit_learn():
    analysis = pytest.importorskip("sklearn.discriminant_analysis")
    features, labels = samples()
    means, _, covariance = parts(features, labels)
    # It divides by N, not by N - C.
    weight, bias = discriminant(means, covariance * (87 / 90), 0.0)
    own = analysis.LinearDiscriminantAnalysis(solver="svd", priors=[1 / 3] * 3)
    own.fit(features.double().numpy(), labels.numpy())
    found = (features.double() @ weight.T + bias).softmax(1)
    np.testing.assert_allclose(found, own.predict_proba(features.double().numpy()), atol=1e-6)


def test_the_shrinkage_is_that_of_scikit_learn_on_correlations():
    covariance = pytest.importorskip("sklearn.covariance")
    for n in (20, 90, 2000):
        _, residuals, _ = parts(*samples(n=n))
        scaled = residuals / residuals.square().mean(0).sqrt()
        wanted = covariance.ledoit_wolf_shrinkage(scaled.numpy(), assume_centered=True)
        assert shrinkage(residuals) == pytest.approx(wanted, rel=1e-9)


def test_independent_features_are_shrunk_whole_and_many_samples_hardly():
    rng = torch.Generator().manual_seed(0)
    assert shrinkage(torch.randn(50, 20, generator=rng)) > 0.9
    features, labels = samples(n=20_000)
    assert shrinkage(parts(features, labels)[1]) < 0.01


def test_whole_shrinkage_is_a_gaussian_for_each_feature():
    features, labels = samples()
    means, _, covariance = parts(features, labels)
    weight, bias = discriminant(means, covariance, 1.0)
    logits = features.double() @ weight.T + bias
    distance = (features.double().unsqueeze(1) - means) ** 2 / covariance.diagonal()
    wanted = -distance.sum(2) / 2
    torch.testing.assert_close(logits.softmax(1), wanted.softmax(1), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0])
def test_the_units_of_the_features_do_not_matter(s):
    features, labels = samples()
    units = torch.logspace(-3, 3, 5)
    logits = []
    for of in (features, features * units):
        means, _, covariance = parts(of, labels)
        weight, bias = discriminant(means, covariance, s)
        logits.append((of.double() @ weight.T + bias).softmax(1))
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-6)


def test_features_that_depend_on_each_other_need_shrinkage():
    features, labels = samples()
    twice = torch.cat([features, features[:, :1]], dim=1)
    means, _, covariance = parts(twice, labels)
    with pytest.raises(NumericalError, match="must have an inverse"):
        discriminant(means, covariance, 0.0)
    weight, _ = discriminant(means, covariance, 0.1)
    torch.testing.assert_close(weight[:, 0], weight[:, 5])


def test_a_feature_that_never_varies_does_no_harm():
    features, labels = samples()
    features[:, 2] = 4.0
    means, residuals, covariance = parts(features, labels)
    weight, bias = discriminant(means, covariance, shrinkage(residuals))
    assert weight.isfinite().all()
    assert bias.isfinite().all()
