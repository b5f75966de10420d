"""Scores of logits: accuracy by sample, class and group of classes; likelihood; calibration.

Everywhere logits are float [N, C] and labels int64 [N]. Accuracies run from 0 to 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ltcli.core.errors import ParamError
from ltcli.stats.moments import Rows, class_counts, require_finite

GROUPS = ("many", "medium", "few")
# Rows of logits at once: in float64 those of 1,000 classes then fit the cache.
BLOCK = 256


def predictions(logits: Tensor, start: int = 0) -> Tensor:
    """Class with the largest logit, int64 [N]; the lowest index among equals.

    ``start`` is the number of the first sample, for errors.
    """
    # argmax ranks NaN above every number: a diverged model would still get a score.
    require_finite("predictions", "logits", logits, start)
    return logits.argmax(dim=1)


@dataclass(frozen=True)
class Outcomes:
    """Prediction, loss and confidence of each sample, from which every score follows.

    Attributes:
        predicted: int64 [N], class with the largest logit.
        losses: float64 [N], negative log-probability of the true class, nats.
        confidence: float64 [N], probability of the predicted class.
        labels: int64 [N].
    """

    predicted: Tensor
    losses: Tensor
    confidence: Tensor
    labels: Tensor
    num_classes: int


def outcomes(logits: Rows, labels: Tensor) -> Outcomes:
    """Outcomes of logits, which are read once and may be rows of an open artifact.

    Raises:
        NumericalError: A logit is not finite.
        DataError: A label is none of the classes.
    """
    class_counts(labels, logits.shape[1])  # refuses labels outside the classes
    predicted = torch.empty_like(labels)
    losses, confidence = torch.empty(2, len(labels), dtype=torch.float64).unbind()
    # Results and work are filled in place: memory that is asked for anew in each block, and results
    # kept between the blocks, would take more time than the arithmetic.
    work = torch.empty(BLOCK, logits.shape[1], dtype=torch.float64)
    for first in range(0, len(labels), BLOCK):
        rows = torch.arange(first, min(first + BLOCK, len(labels)))
        block, own = logits[rows], labels[rows].unsqueeze(1)
        best = predictions(block, first)
        top = block.gather(1, best.unsqueeze(1)).squeeze(1).double()
        shifted = torch.sub(block, top.unsqueeze(1), out=work[: len(rows)])
        normalisers = shifted.exp_().sum(dim=1).log_().add_(top)  # logsumexp
        predicted[rows] = best
        losses[rows] = normalisers - block.gather(1, own).squeeze(1).double()
        confidence[rows] = (top - normalisers).exp()
    return Outcomes(predicted, losses, confidence, labels, logits.shape[1])


def accuracy(of: Outcomes) -> float:
    """Fraction of the samples that are predicted correctly; NaN without samples."""
    return float((of.predicted == of.labels).to(torch.float64).mean())


def per_class_accuracy(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Accuracy within each class, float64 [C]; NaN for a class without samples."""
    counts = class_counts(labels, num_classes)
    correct = class_counts(labels[predicted == labels], num_classes)
    return correct.to(torch.float64) / counts  # 0 / 0 is the NaN of an empty class


def balanced_accuracy(of: Outcomes) -> float:
    """Mean of ``per_class_accuracy`` over the classes that have samples."""
    return float(per_class_accuracy(of.predicted, of.labels, of.num_classes).nanmean())


def group_of_class(train_counts: Tensor, many_above: int = 100, few_below: int = 20) -> Tensor:
    """Group of each class by its training images, int64 [C], an index into ``GROUPS``.

    ``train_counts``, int64 [C], has the training images. Classes with more than ``many_above`` are
    many-shot, those with fewer than ``few_below`` few-shot; both bounds belong to medium.

    Source: Liu, Miao, Zhan, Wang, Gong, Yu, "Large-Scale Long-Tailed Recognition in an Open World",
    CVPR 2019, arXiv 1904.05160.
    """
    if few_below > many_above + 1:
        # Not a ParamError: the stages refuse such bounds before they load anything.
        raise ValueError("few_below must be at most many_above + 1")
    few = (train_counts < few_below).to(torch.int64)
    return 1 + few - (train_counts > many_above).to(torch.int64)


def group_accuracy(accuracies: Tensor, groups: Tensor) -> dict[str, float | None]:
    """Mean accuracy of the classes of each group, by name; None for a group without samples.

    Accuracies are float64 [C], from ``per_class_accuracy``, groups int64 [C].
    """
    seen = ~accuracies.isnan()
    found = {name: accuracies[seen & (groups == g)] for g, name in enumerate(GROUPS)}
    return {name: float(of.mean()) if len(of) else None for name, of in found.items()}


def nll(of: Outcomes) -> float:
    """Mean negative log-probability of the true class, nats; NaN without samples."""
    return float(of.losses.mean())


def ece(of: Outcomes, bins: int = 15) -> float:
    """Expected calibration error, 0..1; NaN without samples.

    It is the gap between confidence and accuracy in each bin of ``reliability``, averaged over the
    samples.

    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
    arXiv 1706.04599.
    """
    _, confidence, correct = reliability(of, bins)
    if not len(of.labels):
        return math.nan
    # A bin's weight n_b / N times its gap |sum correct - sum confidence| / n_b: n_b cancels.
    return float((correct - confidence).abs().sum() / len(of.labels))


def reliability(of: Outcomes, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, int64, summed confidence and correct predictions, float64, of each bin, [bins].

    The bins have equal width in confidence, the probability of the predicted class. A bound belongs
    to the bin below it.
    """
    if bins < 1:
        raise ParamError("calibration error", f"bins must be at least 1, got {bins}")
    bounds = torch.arange(1, bins, dtype=torch.float64, device=of.labels.device) / bins
    member = torch.bucketize(of.confidence, bounds)
    # Sums, not means: several runs are pooled by adding them.
    empty = torch.zeros(bins, dtype=torch.float64, device=of.labels.device)
    correct = (of.predicted == of.labels).to(torch.float64)
    return (
        torch.bincount(member, minlength=bins),
        empty.index_add(0, member, of.confidence),
        empty.index_add(0, member, correct),
    )
