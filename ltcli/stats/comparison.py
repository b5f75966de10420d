"""Comparison of classifiers on the same test images: scores, intervals and paired differences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ltcli.stats import accuracy as scores
from ltcli.stats.intervals import class_strata, resampled_rows, score_interval
from ltcli.stats.simultaneous import Difference, differences

Score = Literal["accuracy", "balanced"]


@dataclass(frozen=True)
class Run:
    """Outcomes of one model; runs of one name differ only in their seeds.

    Training images of the classes are int64 [C], and classes predicted after each kept epoch, if
    any, int64 [E, M].
    """

    name: str
    outcomes: scores.Outcomes
    class_counts: Tensor
    snapshots: Tensor | None


@dataclass(frozen=True)
class Row:
    """One line of the comparison: means over the runs of a name, after the last epoch.

    Accuracies are 0..1. A group without test images has None; ``nll`` is in nats.

    Attributes:
        judged: Score of the intervals and differences.
        interval: Confidence interval of the mean judged score, over test images and, with several
            runs, over seeds.
        difference: Judged score less that of the first row; None for the first row, like the next
            three.
        difference_interval: Its interval, paired over images; those of all rows hold at once.
        tie: Whether that interval contains 0.
        detectable: Smallest true difference found with a chance of 80 %; see ``Difference``.
        best_on_test: Accuracy of the best kept epoch, chosen on the very images it is scored on:
            for comparison with papers that report it, never a result. None without kept epochs.
    """

    name: str
    runs: int
    judged: Score
    accuracy: float
    interval: tuple[float, float]
    groups: dict[str, float | None]
    balanced: float
    nll: float
    ece: float
    difference: float | None
    difference_interval: tuple[float, float] | None
    tie: bool | None
    detectable: float | None
    best_on_test: float | None


def compare(
    runs: Sequence[Run],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    many_above: int = 100,
    few_below: int = 20,
    seed: int = 0,
    score: Score = "accuracy",
) -> list[Row]:
    """One row per name, in order of first appearance.

    The differences of all rows from the first are judged together, see ``simultaneous``. All runs
    predict the same images, in the same order; the level of confidence is between 0 and 1, and
    ``many_above`` and ``few_below`` are as for ``group_of_class``.
    """
    # In insertion order: the first name is the reference of all differences.
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    balanced = score == "balanced"
    values = [
        torch.stack([_values(run, balanced) for run in members]) for members in by_name.values()
    ]
    # Each class is resampled by itself: otherwise a rare class may be missing from a resample.
    strata = class_strata(runs[0].outcomes.labels) if balanced else None
    resampled = resampled_rows(values, resamples=resamples, seed=seed, strata=strata)
    found: list[Difference | None] = [None]
    if len(by_name) > 1:
        found += differences(values, resampled, level, strata)
    rows = []
    for members, drawn, difference in zip(by_name.values(), resampled, found, strict=True):
        interval = score_interval(drawn, level=level, seed=seed)
        groups = scores.group_of_class(members[0].class_counts, many_above, few_below)
        rows.append(_row(members, score, interval, difference, groups))
    return rows


def _values(run: Run, balanced: bool) -> Tensor:
    """Contribution of each image to the score, times their number, float64 [M]."""
    labels = run.outcomes.labels
    correct = (run.outcomes.predicted == labels).double()
    if not balanced:
        return correct
    # A class has the weight M / (classes with images), shared by its images.
    counts = labels.bincount()
    return correct * (len(correct) / int((counts > 0).sum())) / counts[labels]


def _row(
    members: Sequence[Run],
    judged: Score,
    interval: tuple[float, float],
    difference: Difference | None,
    groups: Tensor,
) -> Row:
    found = [run.outcomes for run in members]

    def mean(score: Callable[[scores.Outcomes], float]) -> float:
        return _mean([score(of) for of in found])

    by_class = [scores.per_class_accuracy(of.predicted, of.labels, of.num_classes) for of in found]
    return Row(
        name=members[0].name,
        runs=len(members),
        judged=judged,
        accuracy=mean(scores.accuracy),
        interval=interval,
        groups=_mean_groups([scores.group_accuracy(it, groups) for it in by_class]),
        balanced=mean(scores.balanced_accuracy),
        nll=mean(scores.nll),
        ece=mean(scores.ece),
        difference=None if difference is None else difference.value,
        difference_interval=None if difference is None else difference.interval,
        tie=None if difference is None else difference.tie,
        detectable=None if difference is None else difference.detectable,
        best_on_test=_best(members),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_groups(runs: list[dict[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for group in runs[0]:
        # All runs have the same test images, so a group is empty in all of them or in none.
        known = [value for run in runs if (value := run[group]) is not None]
        means[group] = _mean(known) if known else None
    return means


def _best(members: Sequence[Run]) -> float | None:
    right = [run.snapshots == run.outcomes.labels for run in members if run.snapshots is not None]
    # One run without kept epochs leaves the row without this score: a mean of fewer misleads.
    if len(right) < len(members):
        return None
    return _mean([float(epochs.double().mean(1).max()) for epochs in right])
