"""Accuracy over all samples, per class and per group of classes, likelihood and calibration."""

import math

import torch
from torch import Tensor

from ltcli.core.errors import ParamError
from ltcli.stats.moments import BLOCK, class_counts, require_finite

GROUPS = ("many", "medium", "few")


def predictions(logits: Tensor) -> Tensor:
    """Return the class of the largest logit, the lower index of equals.

    Args:
        logits: float [N, C].

    Returns:
        int64 [N].

    Raises:
        NumericalError: A logit is not finite.
    """
    require_finite("predictions", "logits", logits)
    return logits.argmax(dim=1)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of samples that are predicted right, 0 ... 1; NaN without samples.

    Args:
        logits: float [N, C].
        labels: int64 [N].
    """
    class_counts(labels, logits.shape[1])
    return float((predictions(logits) == labels).to(torch.float64).mean())


def per_class_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of each class's samples that are predicted right.

    Args:
        logits: float [N, C].
        labels: int64 [N].

    Returns:
        float64 [C], NaN for a class without samples.
    """
    counts = class_counts(labels, logits.shape[1])
    right = class_counts(labels[predictions(logits) == labels], logits.shape[1])
    return right.to(torch.float64) / counts  # 0 / 0 is NaN, which is meant


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the mean of ``per_class_accuracy`` over the classes that have samples."""
    return float(per_class_accuracy(logits, labels).nanmean())


def group_of_class(train_counts: Tensor, many_above: int = 100, few_below: int = 20) -> Tensor:
    """Sort the classes into many, medium and few by their training samples.

    Source: Liu, Miao, Zhan, Wang, Gong, Yu, "Large-Scale Long-Tailed Recognition in an Open World",
    CVPR 2019, arXiv 1904.05160. Both bounds belong to medium.

    Args:
        train_counts: int64 [C], training samples of each class.
        many_above: Classes of more samples are many.
        few_below: Classes of fewer samples are few; at most ``many_above`` + 1.

    Returns:
        int64 [C], indices into ``GROUPS``.

    Raises:
        ValueError: The two groups would overlap.
    """
    if few_below > many_above + 1:
        raise ValueError("few_below must be at most many_above + 1")
    few = (train_counts < few_below).to(torch.int64)
    return 1 + few - (train_counts > many_above).to(torch.int64)


def group_accuracy(accuracies: Tensor, groups: Tensor) -> dict[str, float | None]:
    """Return the mean accuracy of each group's classes.

    Args:
        accuracies: float64 [C], from ``per_class_accuracy``.
        groups: int64 [C], from ``group_of_class``.

    Returns:
        Shares 0 ... 1 by the names in ``GROUPS``; None for a group without samples.
    """
    seen = ~accuracies.isnan()
    found = {name: accuracies[seen & (groups == g)] for g, name in enumerate(GROUPS)}
    return {name: float(of.mean()) if len(of) else None for name, of in found.items()}


def nll(logits: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-probability of the right class, in nats; NaN without samples.

    Args:
        logits: float [N, C].
        labels: int64 [N].
    """
    class_counts(labels, logits.shape[1])
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return float((_log_normalisers(logits) - own.to(torch.float64)).mean())


def ece(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error: the mean gap of confidence and accuracy over bins.

    A bin weighs as many samples as it has; see ``reliability``.

    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
    arXiv 1706.04599.

    Args:
        logits: float [N, C].
        labels: int64 [N].
        bins: Number of bins, at least 1.

    Returns:
        The error, 0 ... 1; NaN without samples.
    """
    _, confidence, right = reliability(logits, labels, bins)
    if not len(labels):
        return math.nan
    # A bin's weight n_b / N times its gap |sum right - sum confidence| / n_b.
    return float((right - confidence).abs().sum() / len(labels))


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """Sum confidence and correctness over bins of equal width in confidence.

    The confidence of a sample is the probability of its predicted class; a bound belongs to the bin
    below it. Sums, so that runs can be pooled by adding.

    Args:
        logits: float [N, C].
        labels: int64 [N].
        bins: Number of bins, at least 1.

    Returns:
        Of each bin: samples, int64 [bins]; the sum of their confidences, float64 [bins]; how many
        of them are predicted right, float64 [bins].
    """
    if bins < 1:
        raise ParamError("calibration error", f"bins must be at least 1, got {bins}")
    class_counts(labels, logits.shape[1])
    right = (predictions(logits) == labels).to(torch.float64)
    top = logits.max(dim=1).values.to(torch.float64)
    confidence = (top - _log_normalisers(logits)).exp()
    bounds = torch.arange(1, bins, dtype=torch.float64, device=logits.device) / bins
    member = torch.bucketize(confidence, bounds)
    empty = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    return (
        torch.bincount(member, minlength=bins),
        empty.index_add(0, member, confidence),
        empty.index_add(0, member, right),
    )


def _log_normalisers(logits: Tensor) -> Tensor:
    """Return float64 [N], log sum exp of each row, without a float64 copy of all logits."""
    require_finite("likelihood", "logits", logits)
    blocks = [rows.to(torch.float64).logsumexp(dim=1) for rows in torch.split(logits, BLOCK)]
    return torch.cat(blocks)
