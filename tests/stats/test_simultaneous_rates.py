"""How often the verdicts are wrong, and how often a true difference is found, by simulation.

An image has a difficulty that all models share; ten classes of 95 to 55 % accuracy. Two models of
one accuracy disagree on about 15 % of the images, two classifiers on one backbone on 6 %.
"""

import pytest
import torch

from ltcli.stats.accuracy import outcomes
from ltcli.stats.comparison import Run, compare
from ltcli.stats.intervals import class_strata, resampled_scores
from ltcli.stats.simultaneous import differences

TRIALS = 1000
STANDARD_ERROR = (0.05 * 0.95 / TRIALS) ** 0.5


def predicted_right(gains, *, images, shared=0.8, runs=1, spread=0.0, trials=TRIALS, seed=0):
    """Simulate models of equal accuracy but for their gains.

    Args:
        gains: What each row adds to the accuracy of every class.
        images: N.
        shared: Share of the difficulty of an image that all runs have in common.
        runs: S, seeds of each row.
        spread: Standard deviation of a seed's effect on difficulty; 0.1 moves accuracy by 2.6 %.
        trials: Test sets, each with models of its own.
        seed: Of everything.

    Returns:
        bool [trials, K, S, N].
    """
    rng = torch.Generator().manual_seed(seed)
    shares = torch.linspace(0.95, 0.55, 10).repeat_interleave(images // 10)
    bounds = torch.special.ndtri(shares + torch.tensor(gains)[:, None])[:, None, :]
    shape = (trials, len(gains), runs)
    difficulty = shared**0.5 * torch.randn(trials, 1, 1, images, generator=rng)
    difficulty = difficulty + (1 - shared) ** 0.5 * torch.randn(*shape, images, generator=rng)
    return difficulty < bounds + spread * torch.randn(*shape, 1, generator=rng)


def judged(correct, resamples=1000, strata=None):
    """Compare the rows of each trial, as ``compare`` does; the resamples are shared."""
    trials, rows, runs, images = correct.shape
    values = correct.reshape(-1, images)
    scores = resampled_scores(values, resamples=resamples, strata=strata)
    scores = scores.view(resamples, trials, rows, runs).permute(1, 2, 0, 3)
    return [differences(list(correct[t]), list(scores[t]), 0.95, strata) for t in range(trials)]


TEST_COUNTS = [60, 40, 25, 15, 10, 8, 6, 5, 4, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "counts",
    [TEST_COUNTS, [*TEST_COUNTS[:15], 1], [1] * 60, [2] * 60],
    ids=["long tail", "one class of one image", "all of one", "all of two"],
)
@pytest.mark.parametrize("rows", [1, 5], ids=["one row", "five rows"])
def test_identical_methods_of_balanced_score_are_called_different_in_at_most_5_percent(
    rows, counts
):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = 10 * -(-len(labels) // 10)
    correct = predicted_right([0.0] * (rows + 1), images=images)
    # Difficulty goes up with the position: every image of the test set gets one of its own.
    order = torch.randperm(images, generator=torch.Generator().manual_seed(1))[: len(labels)]
    worth = len(labels) / len(counts) / torch.tensor(counts)[labels]
    found = judged(correct[..., order] * worth.double(), strata=class_strata(labels))
    wrong = share(any(not row.tie for row in table) for table in found)
    assert wrong < 0.05 + 3 * STANDARD_ERROR


def share(flags):
    flags = list(flags)
    return sum(flags) / len(flags)


@pytest.mark.parametrize("rows", [1, 5], ids=["one row", "five rows"])
def test_identical_methods_are_called_different_in_5_percent(rows):
    found = judged(predicted_right([0.0] * (rows + 1), images=1000))
    wrong = share(any(not row.tie for row in table) for table in found)
    assert abs(wrong - 0.05) < 3 * STANDARD_ERROR


def test_a_row_that_is_better_leaves_the_others_their_5_percent():
    found = judged(predicted_right([0.0, 0.05, 0.0, 0.0, 0.0], images=1000))
    wrong = share(any(not row.tie for row in table[1:]) for table in found)
    assert 0.02 < wrong < 0.05 + 3 * STANDARD_ERROR


def test_one_by_one_five_rows_would_be_wrong_far_more_often():
    correct = predicted_right([0.0] * 6, images=1000)
    pairs = [judged(correct[:, [0, k]]) for k in range(1, 6)]
    wrong = share(any(not pair[t][0].tie for pair in pairs) for t in range(TRIALS))
    assert wrong > 0.12


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.04, 0.14])
@pytest.mark.parametrize("rows", [1, 5], ids=["one row", "five rows"])
def test_identical_methods_of_three_seeds_are_called_different_in_at_most_5_percent(rows, spread):
    gains = [0.0] * (rows + 1)
    found = judged(predicted_right(gains, images=500, runs=3, spread=spread, trials=500), 500)
    wrong = share(any(not row.tie for row in table) for table in found)
    assert wrong < 0.05 + 3 * (0.05 * 0.95 / 500) ** 0.5


@pytest.mark.parametrize(
    ("rows", "shared", "images"), [(1, 0.95, 5700), (5, 0.97, 6300)], ids=["one row", "five rows"]
)
def test_a_true_gap_of_one_point_is_found_as_often_as_stated(rows, shared, images):
    gains = [0.0, 0.01, *[0.0] * (rows - 1)]
    found = judged(predicted_right(gains, images=images, shared=shared, trials=500))
    stated = share(table[0].detectable for table in found)
    assert stated == pytest.approx(0.01, rel=0.03)
    better = share(table[0].interval[0] > 0 for table in found)
    assert abs(better - 0.8) < 3 * (0.8 * 0.2 / 500) ** 0.5


def test_compare_judges_as_the_simulation_does():
    correct = predicted_right([0.0, 0.05, 0.0], images=200, trials=1)
    labels = torch.arange(200) % 10
    predicted = [torch.where(correct[0, k, 0], labels, 9 - labels) for k in range(3)]
    found = [outcomes(torch.nn.functional.one_hot(one).float(), labels) for one in predicted]
    counts = torch.full((10,), 50)
    runs = [Run(str(k), one, counts, None) for k, one in enumerate(found)]
    rows = compare(runs, resamples=1000)
    for row, found in zip(rows[1:], judged(correct)[0], strict=True):
        assert row.difference == found.value
        assert row.difference_interval == found.interval
        assert (row.tie, row.detectable) == (found.tie, found.detectable)
