"""Numbers behind the charts of a report, from the predictions of its models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ltcli.stats.accuracy import per_class_accuracy, reliability
from ltcli.stats.comparison import Row, Run
from ltcli.stats.confusion import class_graph, confused_pairs
from ltcli.stats.moments import class_counts

Array = np.ndarray[Any, Any]
# A confusion matrix of more classes cannot be read; its largest entries can.
FEW, PAIRS = 20, 15


@dataclass(frozen=True)
class Model:
    """One row of the comparison with the numbers of its charts, means over its runs.

    Attributes:
        counts: Training images of the classes.
        accuracies: float64 [C], % of each class predicted right; NaN without test images.
        bins: float64 [bins that hold images, 3]: images of all runs, mean confidence in %, accuracy
            in %; by rising confidence.
        matrix: float64 [C, C], % of the test images of class i taken for class j, NaN without
            test images; None for many classes.
        pairs: Most frequent confusions: class, class it is taken for, images, and their share of
            the class's test images; None for few classes.
    """

    row: Row
    counts: list[int]
    accuracies: Array
    bins: Array
    matrix: Array | None
    pairs: list[tuple[int, int, float, float]] | None


def test_counts(run: Run) -> list[int]:
    """Test images of each class."""
    counts: list[int] = class_counts(run.outcomes.labels, run.outcomes.num_classes).tolist()
    return counts


def measure(row: Row, runs: Sequence[Run]) -> Model:
    """A row of the comparison with the numbers of its charts, from its runs among some."""
    runs = [run for run in runs if run.name == row.name]
    labels, counts = runs[0].outcomes.labels, test_counts(runs[0])
    predicted = torch.stack([run.outcomes.predicted for run in runs])
    shares = torch.stack([per_class_accuracy(p, labels, len(counts)) for p in predicted]).mean(0)
    # Bins are sums, so that those of several runs add up.
    binned = [reliability(run.outcomes) for run in runs]
    images, *sums = (sum(parts[1:], parts[0]).double() for parts in zip(*binned, strict=True))
    bins = torch.stack([images, *(100 * part / images for part in sums)], dim=1)[images > 0]
    matrix = pairs = None
    # The runs of one row have the same test images, so that means over them are plain.
    if len(counts) <= FEW:
        graphs = torch.stack([class_graph(one, labels, len(counts)) for one in predicted])
        # Rows without images sum to 0; 0 / 0 is NaN, which is drawn blank.
        matrix = (100 * graphs.mean(0) / graphs[0].sum(1, keepdim=True)).numpy()
    else:
        found = confused_pairs(predicted, labels, PAIRS)
        pairs = [(a, b, n / len(runs), n / len(runs) / counts[a]) for a, b, n in found]
    trained: list[int] = runs[0].class_counts.tolist()
    return Model(row, trained, 100 * shares.numpy(), bins.numpy(), matrix, pairs)
