"""Rows of a comparison: means over runs, paired differences, ties, and the stamped best epoch."""

import pytest
import torch

from ltcli.stats.comparison import Run, compare


def _logits(predicted, num_classes=3):
    return 10.0 * torch.nn.functional.one_hot(torch.tensor(predicted), num_classes).float()


def _run(name, predicted, labels, snapshots=None):
    counts = torch.tensor([200, 50, 5])
    kept = None if snapshots is None else torch.tensor(snapshots)
    return Run(name, _logits(predicted), torch.tensor(labels), counts, kept)


def test_by_hand():
    labels = [0, 0, 1, 2]
    rows = compare([_run("a", [0, 0, 1, 0], labels), _run("b", [0, 1, 1, 2], labels)])
    a, b = rows
    assert (a.accuracy, b.accuracy) == (0.75, 0.75)
    assert a.groups == {"many": 1.0, "medium": 1.0, "few": 0.0}
    assert b.groups == {"many": 0.5, "medium": 1.0, "few": 1.0}
    assert a.balanced == pytest.approx(2 / 3)
    assert (a.difference, a.difference_interval, a.tie) == (None, None, None)
    assert b.difference == 0
    assert b.tie
    assert a.detectable is None
    assert b.detectable > 0.5  # four images show little


def test_a_row_is_judged_with_all_others():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (200,), generator=generator)

    def run(name):
        noise = torch.randint(3, (200,), generator=generator)
        kept = torch.rand(200, generator=generator) < 0.6
        return _run(name, torch.where(kept, labels, noise).tolist(), labels.tolist())

    runs = [run(name) for name in "abcdef"]
    pair, table = compare(runs[:2]), compare(runs)
    assert [row.name for row in table] == list("abcdef")
    assert table[1].difference == pair[1].difference
    assert table[1].interval == pair[1].interval
    assert table[1].difference_interval[1] > pair[1].difference_interval[1]
    assert table[1].detectable > pair[1].detectable


def test_runs_of_one_name_share_a_row_with_their_mean():
    labels = [0, 1, 2, 2]
    rows = compare([_run("a", [0, 1, 2, 2], labels), _run("a", [0, 1, 0, 0], labels)])
    assert [(row.name, row.runs, row.accuracy) for row in rows] == [("a", 2, 0.75)]


def test_equal_predictions_differ_by_exactly_nothing():
    labels = [0, 1, 2] * 20
    first, second = compare([_run("a", labels, labels), _run("b", labels, labels)])
    assert second.difference_interval == (0.0, 0.0)
    assert second.tie
    assert second.detectable is None
    assert first.interval == (1.0, 1.0)


def test_a_clear_gap_is_no_tie():
    labels = [0, 1, 2] * 100
    worse = [0] * 300
    row = compare([_run("a", labels, labels), _run("b", worse, labels)])[1]
    assert row.difference == pytest.approx(-2 / 3)
    assert row.difference_interval[1] < -0.6
    assert row.tie is False


def test_best_on_test_is_the_best_kept_epoch_and_needs_kept_epochs():
    labels = [0, 1, 2, 2]
    kept = [[0, 0, 0, 0], [0, 1, 2, 2], [0, 1, 0, 0]]
    rows = compare([_run("a", [0, 1, 0, 0], labels, kept), _run("b", labels, labels)])
    assert rows[0].best_on_test == 1.0
    assert rows[0].accuracy == 0.5
    assert rows[1].best_on_test is None
