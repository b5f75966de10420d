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
    """Predictions of one model.

    Attributes:
        name: Name of its row; runs of one row differ only in their seeds.
        logits: float [M, C].
        labels: int64 [M].
        class_counts: int64 [C], training images.
        snapshots: int64 [E, M], predicted classes after each kept epoch, or None.
    """

    name: str
    logits: Tensor
    labels: Tensor
    class_counts: Tensor
    snapshots: Tensor | None


@dataclass(frozen=True)
class Row:
    """One line of the comparison. Accuracies are 0..1.

    Attributes:
        name: Name of the runs.
        runs: Number of runs.
        judged: Score of the intervals and differences.
        accuracy: Mean over runs, last epoch.
        interval: Confidence interval of the mean judged score, over test images and, with several
            runs, over seeds.
        groups: Mean accuracy of the many-, medium- and few-shot classes; None for a group without
            test images.
        balanced: Mean accuracy over classes.
        nll: Negative log-likelihood, nats.
        ece: Expected calibration error.
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

    The differences of all rows from the first are judged together, see ``simultaneous``.

    Args:
        runs: Predictions on the same images, in the same order.
        level: Confidence level of the intervals, between 0 and 1.
        resamples: Bootstrap draws.
        many_above: Classes with more training images are many-shot.
        few_below: Classes with fewer training images are few-shot.
        seed: Seed of the bootstrap.
        score: Score of the intervals and differences.
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
    strata = class_strata(runs[0].labels) if balanced else None
    resampled = resampled_rows(values, resamples=resamples, seed=seed, strata=strata)
    found: list[Difference | None] = [None]
    if len(by_name) > 1:
        found += differences(values, resampled, level, strata)
    return [
        _row(
            members,
            score,
            score_interval(resampled[k], level=level, seed=seed),
            found[k],
            scores.group_of_class(members[0].class_counts, many_above, few_below),
        )
        for k, members in enumerate(by_name.values())
    ]


def _values(run: Run, balanced: bool) -> Tensor:
    """Contribution of each image to the score, times their number, float64 [M]."""
    correct = (scores.predictions(run.logits) == run.labels).double()
    if not balanced:
        return correct
    # A class has the weight M / (classes with images), shared by its images.
    counts = run.labels.bincount()
    weight = len(correct) / int((counts > 0).sum())
    return correct * weight / counts[run.labels]


def _row(
    members: Sequence[Run],
    judged: Score,
    interval: tuple[float, float],
    difference: Difference | None,
    groups: Tensor,
) -> Row:
    def mean(score: Callable[[Tensor, Tensor], float]) -> float:
        return _mean([score(run.logits, run.labels) for run in members])

    by_class = [scores.per_class_accuracy(run.logits, run.labels) for run in members]
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
    best = []
    for run in members:
        # One run without kept epochs leaves the row without this score: a mean of fewer misleads.
        if run.snapshots is None:
            return None
        best.append(float((run.snapshots == run.labels).double().mean(1).max()))
    return _mean(best)
