"""From predictions to the numbers that the figures of a report show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ltcli.stats.comparison import Row, Run

# Up to so many classes a confusion matrix can be read.
FEW = 20
PAIRS = 15


@dataclass(frozen=True)
class Bin:
    """Test images of similar confidence, of all runs of a row.

    Attributes:
        images: How many.
        confidence: Their mean, 0..1.
        accuracy: Share that is predicted right.
    """

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Pair:
    """Images of one class taken for another.

    Attributes:
        true: Their class.
        predicted: What they were taken for.
        images: How many, mean over runs.
        share: Of the test images of the class.
    """

    true: int
    predicted: int
    images: float
    share: float


@dataclass(frozen=True)
class Model:
    """One row of the comparison and what its figures show, as means over its runs.

    Attributes:
        row: Its scores.
        counts: Training images of the classes.
        accuracies: Of each class, 0..1; None for a class without test images.
        bins: By rising confidence, without those that hold no image.
        matrix: Share of the test images of class i taken for class j; None for many classes.
        pairs: The most confused ones, the most frequent first; None for few classes.
    """

    row: Row
    counts: list[int]
    accuracies: list[float | None]
    bins: list[Bin]
    matrix: list[list[float]] | None
    pairs: list[Pair] | None


def measure(rows: Sequence[Row], runs: Sequence[Run]) -> list[Model]:
    """Return the rows of a comparison with what their figures show."""
    return [_model(row, [run for run in runs if run.name == row.name]) for row in rows]


def images_of_class(run: Run) -> list[int]:
    """Return how many test images each class has."""
    from ltcli.stats.moments import class_counts

    counts: list[int] = class_counts(run.labels, run.logits.shape[1]).tolist()
    return counts


def _model(row: Row, runs: Sequence[Run]) -> Model:
    import torch

    from ltcli.stats.accuracy import per_class_accuracy, predictions
    from ltcli.stats.confusion import class_graph

    shares = torch.stack([per_class_accuracy(run.logits, run.labels) for run in runs]).mean(0)
    few = len(shares) <= FEW
    matrix = None
    if few:
        graphs = [class_graph(predictions(r.logits), r.labels, len(shares)) for r in runs]
        matrix = torch.stack(graphs).mean(0).tolist()
    return Model(
        row=row,
        counts=runs[0].class_counts.tolist(),
        # NaN, the only value that is not itself, stands for classes without images.
        accuracies=[share if share == share else None for share in shares.tolist()],
        bins=_bins(runs),
        matrix=matrix,
        pairs=None if few else _pairs(runs),
    )


def _bins(runs: Sequence[Run]) -> list[Bin]:
    from ltcli.stats.accuracy import reliability

    found = [reliability(run.logits, run.labels) for run in runs]
    sums = [sum(parts[1:], parts[0]).tolist() for parts in zip(*found, strict=True)]
    return [
        Bin(images, confidence / images, right / images)
        for images, confidence, right in zip(*sums, strict=True)
        if images
    ]


def _pairs(runs: Sequence[Run]) -> list[Pair]:
    import torch

    from ltcli.stats.accuracy import predictions
    from ltcli.stats.confusion import confused_pairs

    predicted = torch.stack([predictions(run.logits) for run in runs])
    counts = images_of_class(runs[0])
    return [
        Pair(true, other, images / len(runs), images / len(runs) / counts[true])
        for true, other, images in confused_pairs(predicted, runs[0].labels, PAIRS)
    ]
