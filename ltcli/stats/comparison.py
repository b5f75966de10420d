"""Compare classifiers on the same test images: scores with intervals, and paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ltcli.stats import accuracy as scores
from ltcli.stats.intervals import class_strata, resampled_rows, score_interval
from ltcli.stats.simultaneous import Difference, differences

Score = Literal["accuracy", "balanced"]


@dataclass(frozen=True)
class Run:
    """The predictions of one model.

    Attributes:
        name: The row it belongs to; runs of one name differ in their seeds.
        logits: float [M, C].
        labels: int64 [M].
        class_counts: int64 [C], training images.
        snapshots: int64 [E, M], the class predicted after each kept epoch, or None.
    """

    name: str
    logits: torch.Tensor
    labels: torch.Tensor
    class_counts: torch.Tensor
    snapshots: torch.Tensor | None


@dataclass(frozen=True)
class Row:
    """One line of the comparison. Shares in 0..1, intervals at the level asked for.

    Attributes:
        name: Of the runs.
        runs: How many.
        judged: The score that intervals and differences are of.
        accuracy: Mean over runs, last epoch.
        interval: Of the mean score, accuracy or balanced accuracy, over test images and, with
            several runs, over seeds.
        groups: Mean accuracy of the classes that are many, medium and few; None where a group has
            no test images.
        balanced: Mean over classes.
        nll: nats.
        ece: Expected calibration error.
        difference: Score minus that of the first row, None for the first row, as the next three.
        difference_interval: Of the difference, paired over images; those of all rows hold at once.
        tie: Whether that interval holds 0.
        detectable: The smallest true difference that would be found with a chance of 80 %; None
            also where the predictions are never right for one row alone.
        best_on_test: Best kept epoch, chosen on the very images it is scored on: for comparison
            with papers that report it, never a result. None where no epochs were kept.
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
    """Return one row per name, in order of first appearance.

    The differences of all rows from the first are judged together, see ``simultaneous``.

    Args:
        runs: Predictions on the same images, in the same order.
        level: Of the intervals, in 0..1.
        resamples: Bootstrap draws.
        many_above: A class with more training images than this is many.
        few_below: A class with fewer is few.
        seed: Of the bootstrap.
        score: What intervals and differences are of. For the balanced accuracy, each class is
            resampled by itself.
    """
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    balanced = score == "balanced"
    values = [
        torch.stack([_values(run, balanced) for run in members]) for members in by_name.values()
    ]
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


def _values(run: Run, balanced: bool) -> torch.Tensor:
    """Return what each image adds to the score, times their number, float64 [M]."""
    correct = (scores.predictions(run.logits) == run.labels).double()
    if not balanced:
        return correct
    counts = run.labels.bincount()
    share = len(correct) / int((counts > 0).sum())
    return correct * share / counts[run.labels]


def _row(
    members: Sequence[Run],
    judged: Score,
    interval: tuple[float, float],
    difference: Difference | None,
    groups: torch.Tensor,
) -> Row:
    return Row(
        name=members[0].name,
        runs=len(members),
        judged=judged,
        accuracy=_mean([scores.accuracy(run.logits, run.labels) for run in members]),
        interval=interval,
        groups=_mean_groups(
            [
                scores.group_accuracy(scores.per_class_accuracy(run.logits, run.labels), groups)
                for run in members
            ]
        ),
        balanced=_mean([scores.balanced_accuracy(r.logits, r.labels) for r in members]),
        nll=_mean([scores.nll(run.logits, run.labels) for run in members]),
        ece=_mean([scores.ece(run.logits, run.labels) for run in members]),
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
        values = [run[group] for run in runs]
        known = [value for value in values if value is not None]
        means[group] = _mean(known) if known else None
    return means


def _best(members: Sequence[Run]) -> float | None:
    best = []
    for run in members:
        if run.snapshots is None:
            return None
        best.append(float((run.snapshots == run.labels).double().mean(1).max()))
    return _mean(best)
