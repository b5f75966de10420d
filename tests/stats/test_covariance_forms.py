import numpy as np
import pytest
import torch

from ltcli.core.errors import ParamError
from ltcli.stats.covariance_forms import estimate, truncated

# Class 3 of 6 has no samples, class 4 has one.
LABELS = torch.tensor([5, 0, 1, 0, 2, 4, 1, 0, 2, 2, 5, 0, 1, 5, 0, 2, 0, 5, 2, 1])
FORMS = ("full", "diagonal", "factor", "low-rank")


def draw(rng, dim=4):
    return torch.randn(20, dim, generator=rng) @ torch.randn(dim, dim, generator=rng)


def matrices(tensors):
    """The covariances that a form stands for, float64 [C, D, D]."""
    if "full" in tensors:
        return tensors["full"].double()
    rest = torch.zeros_like(tensors["means"])
    total = torch.diag_embed(tensors.get("diagonal", rest).double())
    if "rows" in tensors:
        offsets = tensors["offsets"].tolist()
        for c in range(len(total)):
            rows = tensors["rows"][offsets[c] : offsets[c + 1]].double()
            total[c] += rows.T @ rows
    return total


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("dim", [2, 4, 9], ids=["fewer", "some", "more dimensions than samples"])
def test_exact_forms_are_those_of_numpy(rng, ddof, dim):
    features = draw(rng, dim)
    forms = {form: estimate(features, LABELS, 6, form, ddof=ddof).tensors for form in FORMS[:3]}
    for c in (0, 1, 2, 5):
        own = features[c == LABELS].double().numpy()
        expected = torch.from_numpy(np.cov(own, rowvar=False, ddof=ddof))
        for form in ("full", "factor"):
            found = matrices(forms[form])[c]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        variances = forms["diagonal"]["diagonal"][c].double()
        torch.testing.assert_close(variances, expected.diag(), rtol=1e-5, atol=1e-5)
    for tensors in forms.values():
        assert tensors["counts"].tolist() == [6, 4, 5, 0, 1, 4]
        assert tensors["means"].dtype == torch.float32
        means = torch.stack([features[c == LABELS].mean(0) for c in (0, 1, 2, 4, 5)])
        torch.testing.assert_close(tensors["means"][[0, 1, 2, 4, 5]], means)
    sizes = [min(n, dim) for n in (6, 4, 5, 0, 1, 4)]
    assert forms["factor"]["offsets"].diff().tolist() == sizes
    assert {forms["full"]["full"].dtype, forms["factor"]["rows"].dtype} == {torch.float32}


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_classes_of_no_and_of_one_sample_have_zero_covariance(rng, ddof, form):
    rank = 2 if form == "low-rank" else None
    found = estimate(draw(rng), LABELS, 6, form, ddof=ddof, rank=rank).tensors
    assert not matrices(found)[3:5].any()
    assert not found["means"][3].any()


@pytest.mark.parametrize("form", FORMS)
def test_no_samples_at_all(form):
    features, labels = torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)
    found = estimate(features, labels, 3, form, ddof=1)
    assert not matrices(found.tensors).any()
    assert not found.relative_error


def test_the_low_rank_form_is_the_best_of_its_rank_plus_what_is_left_of_the_diagonal(rng):
    features = draw(rng, 5)
    full = matrices(estimate(features, LABELS, 6, "full", ddof=1).tensors)
    found = estimate(features, LABELS, 6, "low-rank", ddof=1, rank=2)
    approximate, errors = matrices(found.tensors), []
    for c in (0, 1, 2, 5):
        values, vectors = torch.linalg.eigh(full[c])
        best = (vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T
        expected = best + (full[c] - best).diag().diag()
        torch.testing.assert_close(approximate[c], expected, rtol=1e-5, atol=1e-5)
        missed = torch.linalg.matrix_norm(full[c] - approximate[c])
        errors.append(float(missed / torch.linalg.matrix_norm(full[c])))
    assert min(errors) > 0.002
    # With n - 1, the class of one sample has no covariance; with n, it has one of zero.
    assert found.relative_error == pytest.approx(np.mean(errors), rel=1e-4)
    assert found.tensors["offsets"].diff().tolist() == [2, 2, 2, 0, 1, 2]
    torch.testing.assert_close(
        approximate.diagonal(dim1=1, dim2=2), full.diagonal(dim1=1, dim2=2), rtol=1e-5, atol=1e-5
    )


def test_the_low_rank_form_of_all_directions_is_the_factor(rng):
    features = draw(rng)
    exact = estimate(features, LABELS, 6, "factor", ddof=0).tensors
    found = estimate(features, LABELS, 6, "low-rank", ddof=0, rank=4)
    assert torch.equal(found.tensors["rows"], exact["rows"])
    assert not found.tensors["diagonal"].any()
    assert found.relative_error == 0


def test_a_higher_rank_is_never_worse_and_the_diagonal_is_worst(rng):
    features = draw(rng, 7)
    full = matrices(estimate(features, LABELS, 6, "full", ddof=1).tensors)
    diagonal = matrices(estimate(features, LABELS, 6, "diagonal", ddof=1).tensors)
    errors = [float((full - diagonal).square().sum())]
    for rank in range(1, 8):
        tensors = estimate(features, LABELS, 6, "low-rank", ddof=1, rank=rank).tensors
        errors.append(float((full - matrices(tensors)).square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-8 * errors[0]


def test_a_covariance_of_zero_has_no_error():
    rows, left, error = truncated(torch.zeros(3, 2, dtype=torch.float64), 1)
    assert (rows.shape, left.tolist(), error) == ((1, 2), [0, 0], 0)


def test_an_unknown_divisor_is_refused(rng):
    with pytest.raises(ParamError, match="ddof must be 0 or 1, got 2"):
        estimate(draw(rng), LABELS, 6, "factor", ddof=2)
