import math

import numpy as np
import pytest
import torch

from ltcli.core.errors import ParamError
from ltcli.stats.intervals import (
    bootstrap_weights,
    class_strata,
    resampled_rows,
    resampled_scores,
    score_interval,
)


def interval(correct, level=0.95, resamples=2000, seed=0):
    """Of one row."""
    scores = resampled_scores(correct, resamples=resamples, seed=seed)
    return score_interval(scores, level=level, seed=seed)


def draw(rng, rows, columns, share):
    return torch.rand(rows, columns, generator=rng) < share


def test_rows_are_scored_on_the_same_images(rng):
    a, b = draw(rng, 1, 60, 0.7), draw(rng, 3, 60, 0.7)
    found = resampled_rows([a, b, a[[0, 0]]], resamples=50, seed=2)
    assert [part.shape for part in found] == [(50, 1), (50, 3), (50, 2)]
    assert torch.equal(found[0], found[2][:, :1])
    assert torch.equal(found[1], resampled_scores(b, resamples=50, seed=2))


def test_weights_count_the_draws_of_every_resample():
    weights = torch.cat(list(bootstrap_weights(50, 400, 3)))
    assert weights.shape == (400, 50)
    assert weights.sum(1).eq(50).all()
    # Multinomial: mean 1, variance 1 - 1/50.
    assert weights.mean().item() == pytest.approx(1)
    assert weights.var().item() == pytest.approx(0.98, rel=0.05)
    # Samples differ and so do resamples.
    assert weights.std(0).min() > 0
    assert weights.std(1).min() > 0


def test_weights_are_a_function_of_the_seed_whatever_the_chunks(monkeypatch):
    whole = torch.cat(list(bootstrap_weights(30, 64, 1)))
    monkeypatch.setattr("ltcli.stats.intervals._CHUNK_ELEMENTS", 100)
    chunks = list(bootstrap_weights(30, 64, 1))
    assert {len(chunk) for chunk in chunks} == {3, 1}
    assert torch.equal(torch.cat(chunks), whole)
    assert not torch.equal(torch.cat(list(bootstrap_weights(30, 64, 2))), whole)


def test_resampled_scores_are_those_of_a_loop(rng):
    correct = draw(rng, 3, 40, 0.7)
    weights = torch.cat(list(bootstrap_weights(40, 20, 5))).long()
    found = resampled_scores(correct, resamples=20, seed=5)
    for r in range(20):
        images = torch.repeat_interleave(torch.arange(40), weights[r])
        expected = [row[images].double().mean().item() for row in correct]
        assert found[r].tolist() == pytest.approx(expected, abs=1e-15)


def test_one_run_has_the_width_of_the_normal_interval(rng):
    correct = draw(rng, 1, 4000, 0.8)
    low, high = interval(correct)
    p = correct.double().mean().item()
    assert low < p < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(p * (1 - p) / 4000), rel=0.1)


def test_a_higher_level_contains_a_lower_one(rng):
    correct = draw(rng, 2, 300, 0.5)
    narrow, wide = (interval(correct, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_what_is_always_right_is_certain():
    assert interval(torch.ones(3, 50, dtype=torch.bool)) == (1.0, 1.0)


def test_seeds_that_disagree_on_everything_leave_everything_open():
    correct = torch.tensor([[True], [False]]).expand(2, 100)
    assert interval(correct) == (0.0, 1.0)


def test_equal_rows_add_no_uncertainty(rng):
    correct = draw(rng, 1, 200, 0.6)
    assert interval(correct.expand(5, 200)) == pytest.approx(interval(correct))


def test_the_same_seed_gives_the_same_interval(rng):
    correct = draw(rng, 2, 100, 0.5)
    assert interval(correct, seed=4) == interval(correct, seed=4)
    assert interval(correct, seed=4) != interval(correct, seed=5)


def test_about_95_of_100_intervals_of_one_run_hold_the_truth(rng):
    hits = 0
    for trial in range(200):
        low, high = interval(draw(rng, 1, 200, 0.7), resamples=300, seed=trial)
        hits += low <= 0.7 <= high
    # 190 expected, give or take three standard errors of 3.1.
    assert 180 <= hits < 200


def test_intervals_of_five_seeds_hold_the_truth_of_images_and_seeds():
    # Each image has a share of runs that get it right; each seed shifts all of them.
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        image = generator.normal(0, 1, (1, 150))
        shift = generator.normal(0, 0.1, (5, 1))
        noise = generator.normal(0, 0.3, (5, 150))
        correct = torch.from_numpy(image + shift + noise > 0)
        low, high = interval(correct, resamples=300, seed=trial)
        hits += low <= 0.5 <= high
    assert hits >= 87  # 95 expected, less four standard errors of 2.2


def test_large_test_sets_are_drawn_in_bounded_memory():
    chunks = [chunk.numel() for chunk in bootstrap_weights(10_000, 500, 0)]
    assert max(chunks) <= 1 << 22
    assert sum(chunks) == 500 * 10_000
    assert [len(chunk) for chunk in bootstrap_weights(5_000_000, 2, 0)] == [1, 1]


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_a_level_outside_its_range_is_refused(level):
    with pytest.raises(ParamError, match="level must be between 0 and 1, got"):
        interval(torch.ones(1, 5, dtype=torch.bool), level=level, resamples=10)


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ParamError, match="num_samples must be at least 1, got 0"):
        interval(torch.ones(1, 0, dtype=torch.bool))
    with pytest.raises(ParamError, match="resamples must be at least 1, got 0"):
        interval(torch.ones(1, 5, dtype=torch.bool), resamples=0)


def test_within_classes_each_resample_weighs_every_class_as_much_as_there_is_of_it():
    classes = torch.tensor([2, 0, 0, 2, 2, 0, 2, 3, 5])
    weights = torch.cat(list(bootstrap_weights(9, 2000, 4, class_strata(classes))))
    for group, size in (((0,), 3), ((2,), 4), ((3, 5), 2)):
        members = weights[:, torch.isin(classes, torch.tensor(group))]
        assert torch.allclose(members.sum(1), torch.tensor(float(size)).double())
        # One draw less than samples, each for n / (n - 1).
        unit = size / (size - 1)
        assert set((members / unit).round(decimals=9).unique().tolist()) <= set(range(size))
        # All samples come equally often: within four standard errors.
        assert (members.mean(0) - 1).abs().max() < 4 * (unit * (1 - 1 / size) / 2000) ** 0.5
    again = torch.cat(list(bootstrap_weights(9, 2000, 4, class_strata(classes))))
    assert torch.equal(again, weights)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 5, 2), (1, 1, 1, 4), (30,)])
def test_within_classes_the_mean_of_a_class_varies_by_the_sample_variance_over_n(sizes, rng):
    classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    values = torch.randn(1, len(classes), generator=rng)
    scores = resampled_scores(values, resamples=20_000, seed=1, strata=class_strata(classes))
    # Classes of one sample count as one class; the sum over a class varies by n s^2.
    groups = [values[0, classes == c] for c in range(len(sizes)) if sizes[c] > 1]
    groups.append(values[0, torch.tensor(sizes)[classes] == 1])
    expected = sum(len(group) * group.double().var() for group in groups if len(group))
    assert scores.var() * len(classes) ** 2 == pytest.approx(expected.item(), rel=0.05)
    assert scores.mean().item() == pytest.approx(values.mean().item(), abs=0.02)


def test_a_single_class_of_one_sample_is_drawn_with_the_smallest_other():
    classes = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    weights = torch.cat(list(bootstrap_weights(7, 500, 0, class_strata(classes))))
    assert weights[:, :4].sum(1).eq(4).all()
    assert weights[:, 4].unique().tolist() == [0.0, 1.5, 3.0]
    assert torch.cat(list(bootstrap_weights(1, 5, 0, class_strata(torch.tensor([3]))))).eq(1).all()


def test_the_interval_of_a_score_ends_at_one():
    # The one image of class 1 counts as much as four of class 0, and is drawn up to three times.
    classes = torch.tensor([0, 0, 0, 0, 1])
    values = torch.tensor([[5 / 8] * 4 + [5 / 2]])
    scores = resampled_scores(values, strata=class_strata(classes))
    assert scores.max() > 1
    assert score_interval(scores)[1] == 1.0


def test_seeds_are_drawn_apart_from_the_images(monkeypatch):
    seen, draw = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: (seen.append(seed), draw(seed))[1])
    next(bootstrap_weights(5, 3, 7))
    score_interval(torch.rand(10, 2).double(), seed=7)
    assert len(seen) == 2
    assert seen[0] != seen[1]
