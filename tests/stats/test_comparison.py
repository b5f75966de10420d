"""Rows of a comparison: means over runs, paired differences, ties, and the stamped best epoch."""

import pytest
import torch

from ltcli.stats.accuracy import outcomes
from ltcli.stats.comparison import Run, compare


def _logits(predicted, num_classes=3):
    return 10.0 * torch.nn.functional.one_hot(torch.tensor(predicted), num_classes).float()


def _run(name, predicted, labels, snapshots=None):
    counts = torch.tensor([200, 50, 5])
    kept = None if snapshots is None else torch.tensor(snapshots)
    return Run(name, outcomes(_logits(predicted), torch.tensor(labels)), counts, kept)


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
    assert b.detectable is None  # four images show nothing


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


def test_balanced_scores_count_classes_the_same():
    # Of class 0 six images, of class 1 two, of class 2 one; b is better on the rare ones.
    labels = [0] * 6 + [1, 1, 2]
    a, b = [0] * 6 + [0, 1, 0], [0, 0, 0, 1, 1, 1, 1, 1, 2]
    plain = compare([_run("a", a, labels), _run("b", b, labels)])
    rows = compare([_run("a", a, labels), _run("b", b, labels)], score="balanced")
    assert [row.judged for row in (*plain, *rows)] == ["accuracy"] * 2 + ["balanced"] * 2
    assert plain[1].difference == pytest.approx((3 + 3 - 7) / 9)
    assert rows[1].difference == pytest.approx((0.5 + 1 + 1) / 3 - (1 + 0.5 + 0) / 3)
    assert rows[1].balanced - rows[0].balanced == pytest.approx(rows[1].difference)
    assert (rows[0].accuracy, rows[0].groups) == (plain[0].accuracy, plain[0].groups)
    # Class 0 of a is always right. Of the other three images one is, of class 1: of two draws that
    # count for 1.5 images each, none to both.
    assert rows[0].interval == (pytest.approx(1 / 3), pytest.approx(1 / 3 + 2 * 1.5 / 2 / 3))


def test_classes_without_test_images_do_not_count():
    labels, predicted = [0] * 6 + [2] * 3, [0] * 5 + [1] + [2, 2, 0]
    (row,) = compare([_run("a", predicted, labels)], score="balanced")
    assert row.balanced == pytest.approx((5 / 6 + 2 / 3) / 2)
    low, high = row.interval
    assert low < row.balanced < high
    assert high == 1


def test_a_balanced_interval_has_the_spread_of_the_classes():
    generator = torch.Generator().manual_seed(2)
    labels = torch.tensor([0] * 900 + [1] * 100 + [2] * 25)
    wrong = torch.rand(len(labels), generator=generator) < 0.3
    predicted = torch.where(wrong, (labels + 1) % 3, labels)
    row = compare([_run("a", predicted.tolist(), labels.tolist())], score="balanced")[0]
    shares = [1 - wrong[labels == c].double().mean().item() for c in range(3)]
    spread = sum(p * (1 - p) / n for p, n in zip(shares, (900, 100, 25), strict=True)) ** 0.5 / 3
    assert row.balanced == pytest.approx(sum(shares) / 3)
    assert (row.interval[1] - row.interval[0]) / 2 == pytest.approx(1.96 * spread, rel=0.08)


def test_with_as_many_images_of_each_class_both_scores_differ_by_the_same():
    labels = [0, 1, 2] * 50
    generator = torch.Generator().manual_seed(3)
    runs = [
        _run(name, torch.randint(3, (150,), generator=generator).tolist(), labels) for name in "ab"
    ]
    plain, balanced = compare(runs)[1], compare(runs, score="balanced")[1]
    assert balanced.difference == pytest.approx(plain.difference)
    assert balanced.detectable == pytest.approx(plain.detectable, rel=0.1)
