"""Diagnosis: by hand, limit cases, invariances, and naive twins."""

import math

import pytest
import torch

from ltcli.stats import diagnosis
from ltcli.stats.diagnosis import (
    captured,
    divergences,
    draw_gaussian,
    effective_rank,
    error_rates,
    fusion_donors,
    nearest,
    principal_angles,
    risda_donors,
    spectrum_of_factor,
    spectrum_of_matrix,
    stg_donors,
    within_and_across,
)


def basis(*columns, dim=4):
    return torch.eye(dim, dtype=torch.float64)[:, list(columns)]


def rotation(rng, dim=4):
    return torch.linalg.qr(torch.randn(dim, dim, generator=rng, dtype=torch.float64)).Q


# Spectra.


def test_a_spectrum_by_hand():
    rows = torch.tensor([[0.0, 3.0, 0.0], [2.0, 0.0, 0.0]])
    found = spectrum_of_factor(rows, 5)
    assert found.values.tolist() == pytest.approx([9.0, 4.0, 0.0])
    assert found.values.dtype == torch.float64
    torch.testing.assert_close(found.leading.abs(), basis(1, 0, dim=3))


@pytest.mark.parametrize("rows", [3, 6, 40])
def test_factor_and_matrix_have_one_spectrum(rng, rows):
    factor = torch.randn(rows, 6, generator=rng, dtype=torch.float64)
    matrix = factor.T @ factor
    one, other = spectrum_of_factor(factor, 3), spectrum_of_matrix(matrix, 3)
    torch.testing.assert_close(one.values, other.values)
    torch.testing.assert_close(one.leading @ one.leading.T, other.leading @ other.leading.T)
    assert float(one.values.sum()) == pytest.approx(float(matrix.trace()))
    torch.testing.assert_close(matrix @ one.leading, one.leading * one.values[:3])


def test_only_the_symmetric_part_counts_and_negative_values_stay(rng):
    matrix = torch.diag(torch.tensor([1.0, -2.0, 3.0]))
    skew = torch.randn(3, 3, generator=rng)
    found = spectrum_of_matrix(matrix + skew - skew.T, 3)
    assert found.values.tolist() == pytest.approx([3.0, 1.0, -2.0])
    assert found.leading.shape == (3, 2)


def test_variances_are_a_diagonal_matrix():
    variances = torch.tensor([1.0, 4.0, 2.0])
    one, other = (spectrum_of_matrix(m, 2) for m in (variances, torch.diag(variances)))
    torch.testing.assert_close(one.values, other.values)
    torch.testing.assert_close(one.leading, other.leading.abs())


def test_directions_of_a_millionth_of_the_largest_variance_are_rounding():
    found = spectrum_of_matrix(torch.diag(torch.tensor([1.0, 1e-4, 1e-8])), 3)
    assert found.leading.shape == (3, 2)


def test_a_class_without_variance_has_no_directions():
    for found in (
        spectrum_of_factor(torch.zeros(0, 3), 2),
        spectrum_of_factor(torch.zeros(1, 3), 2),
        spectrum_of_matrix(torch.zeros(3, 3), 2),
        spectrum_of_matrix(torch.zeros(3), 2),
    ):
        assert found.values.tolist() == [0.0] * 3
        assert found.leading.shape == (3, 0)


def test_effective_rank_is_k_for_k_equal_values():
    for k in (1, 3, 5):
        values = torch.tensor([2.5] * k + [0.0] * (5 - k), dtype=torch.float64)
        assert effective_rank(values) == pytest.approx(k)


def test_effective_rank_by_hand():
    values = torch.tensor([3.0, 1.0, -1.0], dtype=torch.float64)
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_rank(values) == pytest.approx(expected)
    assert effective_rank(7 * values) == pytest.approx(expected)
    assert effective_rank(torch.zeros(3)) == 0.0


def test_captured_variance_by_hand(rng):
    rows = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    assert captured(basis(0), rows) == pytest.approx(9 / 14)
    assert captured(basis(0, 2), rows) == pytest.approx(10 / 14)
    assert captured(basis(3), rows) == 0.0
    assert captured(basis(0, 1, 2, 3), rows) == pytest.approx(1)
    assert captured(basis(0), torch.zeros(2, 4)) == 0.0
    turn = rotation(rng)
    assert captured(turn @ basis(0), rows.double() @ turn.T) == pytest.approx(9 / 14)


def test_no_subspace_captures_more_than_the_leading_one(rng):
    rows = torch.randn(10, 4, generator=rng)
    best = captured(spectrum_of_factor(rows, 2).leading, rows)
    values = spectrum_of_factor(rows, 2).values
    assert best == pytest.approx(float(values[:2].sum() / values.sum()))
    for _ in range(20):
        assert captured(rotation(rng)[:, :2], rows) <= best


def test_principal_angles_by_hand():
    angle = math.radians(30)
    tilted = basis(0) * math.cos(angle) + basis(2) * math.sin(angle)
    both = torch.cat([tilted, basis(1)], dim=1)
    found = principal_angles(both, basis(0, 1), 2)
    assert found.tolist() == pytest.approx([0.0, 30.0], abs=1e-5)
    assert principal_angles(basis(0, 1), basis(2, 3), 2).tolist() == pytest.approx([90.0, 90.0])


def test_angles_do_not_depend_on_the_basis(rng):
    first, second = rotation(rng)[:, :2], rotation(rng)[:, :2]
    turn = rotation(rng)
    mixed = first @ rotation(rng, 2)
    expected = principal_angles(first, second, 2)
    torch.testing.assert_close(principal_angles(second, mixed, 2), expected)
    torch.testing.assert_close(principal_angles(turn @ first, turn @ second, 2), expected)


def test_a_missing_direction_is_90_degrees_away():
    assert principal_angles(basis(0), basis(0, 1), 2).tolist() == pytest.approx([0, 90], abs=1e-5)
    assert principal_angles(basis(), basis(0, 1), 2).tolist() == [90.0, 90.0]


# Errors.


def test_error_rates_by_hand():
    graph = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.6, 0.0], [0.5, 0.3, 0.2]], dtype=torch.float64)
    found = error_rates(graph, torch.tensor([True, True, False]))
    rates = {"head-head": 0.3, "head-tail": 0.05, "tail-head": 0.8, "tail-tail": 0.0}
    shares = {"head-head": 0.6, "head-tail": 0.1, "tail-head": 0.8, "tail-tail": 0.0}
    assert found["rates"] == pytest.approx(rates)
    assert found["shares"] == pytest.approx({k: v / 1.5 for k, v in shares.items()})


def test_classes_without_images_have_no_errors_to_count():
    graph = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0] * 4, [0] * 4], dtype=torch.float64)
    found = error_rates(graph, torch.tensor([True, False, False, True]))["rates"]
    assert found == {"head-head": 0.0, "head-tail": 0.5, "tail-head": 0.0, "tail-tail": 1.0}
    untested = error_rates(graph, torch.tensor([True, True, False, False]))["rates"]
    assert [untested["tail-head"], untested["tail-tail"]] == [None, None]
    assert untested["head-tail"] == 0.5


def test_rates_add_up_to_the_errors_of_a_side(rng):
    graph = torch.rand(6, 6, generator=rng, dtype=torch.float64)
    graph /= graph.sum(1, keepdim=True)
    head = torch.tensor([True, False, True, False, False, True])
    before = graph.clone()
    found = error_rates(graph, head)
    assert torch.equal(graph, before)
    wrong = 1 - graph.diagonal()
    for side, rows in (("head", head), ("tail", ~head)):
        total = sum(v for k, v in found["rates"].items() if k.startswith(side))
        assert total == pytest.approx(float(wrong[rows].mean()))
    assert sum(found["shares"].values()) == pytest.approx(1)


def test_a_classifier_without_errors_has_no_shares():
    found = error_rates(torch.eye(3, dtype=torch.float64), torch.tensor([True, True, False]))
    assert set(found["shares"].values()) == set(found["rates"].values()) == {0.0}


# Divergences.


def test_divergences_are_those_of_torch(rng):
    means = 100 + torch.randn(5, 3, generator=rng)
    variances = torch.rand(5, 3, generator=rng) + 0.1
    found = divergences(means, variances)
    normal = torch.distributions.Normal
    for i in range(5):
        for j in range(5):
            one, other = (normal(means[k].double(), variances[k].double().sqrt()) for k in (i, j))
            expected = torch.distributions.kl_divergence(one, other).sum()
            assert float(found[i, j]) == pytest.approx(float(expected), abs=1e-9)


def test_divergence_by_hand():
    found = divergences(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [4.0]]))
    first = 0.5 * (1 / 4 + 4 / 4 - 1 + math.log(4))
    second = 0.5 * (4 + 4 - 1 - math.log(4))
    assert found[0, 1].item() == pytest.approx(first)
    assert found[1, 0].item() == pytest.approx(second)
    assert found.diagonal().tolist() == pytest.approx([0, 0], abs=1e-12)


def test_divergences_keep_their_digits_far_from_the_origin(rng):
    means = torch.randn(4, 3, generator=rng, dtype=torch.float64).mul(2**20).round() / 2**20
    variances = torch.rand(4, 3, generator=rng) + 0.1
    near, far = divergences(means, variances), divergences(means + 2.0**24, variances)
    torch.testing.assert_close(far, near, atol=1e-6, rtol=1e-6)


def test_zero_variances_give_finite_divergences():
    found = divergences(torch.tensor([[0.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
    assert torch.isfinite(found).all()


def test_means_within_and_across_by_hand():
    matrix = torch.arange(9.0).view(3, 3)
    within, across = within_and_across(matrix, torch.tensor([4, 4, 7]))
    assert within == pytest.approx((1 + 3) / 2)
    assert across == pytest.approx((2 + 5 + 6 + 7) / 4)
    assert within_and_across(matrix, torch.tensor([1, 1, 1]))[1] is None
    assert within_and_across(matrix, torch.tensor([1, 2, 3]))[0] is None


# Neighbours.


@pytest.mark.parametrize("block", [1, 13, 2**24])
def test_neighbours_are_those_of_a_full_sort(rng, monkeypatch, block):
    monkeypatch.setattr(diagnosis, "_BLOCK", block)
    bank, queries = torch.randn(12, 4, generator=rng), torch.randn(5, 4, generator=rng)
    left_out = torch.tensor([3, 0, 11, 5, 5])
    distances, rows = nearest(queries, bank, 4, left_out)
    for i in range(5):
        all_distances = (bank - queries[i]).norm(dim=1)
        all_distances[left_out[i]] = torch.inf
        values, order = all_distances.sort()
        assert rows[i].tolist() == order[:4].tolist()
        torch.testing.assert_close(distances[i], values[:4])


def test_neighbours_far_from_the_origin_keep_their_digits(rng):
    bank = torch.randn(40, 4, generator=rng, dtype=torch.float64) + 1000
    distances, rows = nearest(bank, bank, 3, torch.arange(40))
    exact = (bank.unsqueeze(0) - bank.unsqueeze(1)).norm(dim=2).fill_diagonal_(torch.inf)
    values, order = exact.sort()
    assert torch.equal(rows, order[:, :3])
    torch.testing.assert_close(distances.double(), values[:, :3], rtol=1e-3, atol=0)


def test_an_image_is_not_its_own_neighbour():
    bank = torch.tensor([[0.0], [1.0], [3.0]])
    distances, rows = nearest(bank, bank, 1, torch.arange(3))
    assert rows.flatten().tolist() == [1, 0, 1]
    assert distances.flatten().tolist() == pytest.approx([1, 1, 2])


# Donors.


def test_risda_shares_by_hand():
    graph = torch.tensor([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25]])
    found = risda_donors(graph, torch.tensor([4.0, 8.0, 2.0]), torch.tensor([2]))
    # 0.5 * 4 and 0.25 * 8 beside the class's own 2.
    assert found.tolist() == [pytest.approx([1 / 3, 1 / 3, 1 / 3])]
    assert graph[2, 2] == 0.25


def test_risda_shares_are_the_traces_of_the_mixture(rng):
    graph = torch.rand(4, 4, generator=rng).double()
    matrices = torch.stack([f.T @ f for f in torch.randn(4, 5, 3, generator=rng).double()])
    tail = torch.tensor([1, 3])
    found = risda_donors(graph, torch.einsum("caa->c", matrices), tail)
    for row, c in zip(found, tail.tolist(), strict=True):
        mixture = matrices[c] + sum(graph[c, i] * matrices[i] for i in range(4) if i != c)
        own = matrices[c].trace() / mixture.trace()
        assert float(row[c]) == pytest.approx(float(own))
        assert float(row.sum()) == pytest.approx(1)


def test_no_confusion_lends_nothing_and_no_variance_has_no_shares():
    tail = torch.tensor([0, 1])
    assert risda_donors(torch.eye(2), torch.ones(2), tail).tolist() == [[1, 0], [0, 1]]
    assert risda_donors(torch.eye(2), torch.zeros(2), tail).tolist() == [[0, 0], [0, 0]]


def test_fusion_donors_by_hand():
    scores = torch.tensor(
        [[0.9, 0.05, 0.03, 0.02], [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 0], [1, 0, 0, 0]]
    )
    found = fusion_donors(scores, 2, torch.tensor([1]))
    assert found.tolist() == [[0.0, 0.0, 0.5, 0.5]]


def test_stg_donors_by_hand():
    heads, labels = torch.tensor([0, 1, 1, 0, 0]), torch.tensor([2, 2, 2, 0, 1])
    found = stg_donors(heads, labels, torch.tensor([2, 3]), 4)
    assert found.tolist() == [pytest.approx([1 / 3, 2 / 3, 0, 0]), [0, 0, 0, 0]]


# Draws.


def test_gaussian_draws_have_the_covariance(rng):
    factor = torch.tensor([[2.0, 1.0], [0.0, 0.5]])
    features = torch.tensor([[3.0, -1.0]]).expand(200_000, 2)
    drawn = draw_gaussian(features, factor, 0.25, rng)
    torch.testing.assert_close(drawn.mean(0), features[0], atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), 0.25 * factor.T @ factor, atol=0.02, rtol=0)


def test_strength_0_or_no_factor_draws_the_feature_itself(rng):
    features = torch.randn(3, 2, generator=rng)
    assert torch.equal(draw_gaussian(features, torch.eye(2), 0.0, rng), features)
    assert torch.equal(draw_gaussian(features, torch.zeros(0, 2), 1.0, rng), features)
