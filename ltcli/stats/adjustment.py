r"""Offsets for the logits of a trained classifier: for another class prior, by tau, for costs.

For a classifier that is calibrated under the class prior p of its training, softmax(z) = p(c|x):

* another prior pi: Bayes' rule makes pi(c|x) proportional to p(c|x) pi_c / p_c, so the logits are
  z_c + log pi_c - log p_c.
* logit adjustment: z_c - tau log p_c; tau = 1 is the uniform prior, tau = 0 changes nothing.
* costs: predicting j costs sum_{c != j} cost_c p(c|x) on average, a constant minus cost_j p(j|x).
  The cheapest class is argmax_j cost_j p(j|x) = argmax_j z_j + log cost_j.

A constant added to all logits changes nothing. Every offset is float32 [C], nats.

Sources: Saerens, Latinne, Decaestecker, Neural Computation 14 (2002), eq. 2.4; Menon et al., ICLR
2021, arXiv 2007.07314; Elkan, "The Foundations of Cost-Sensitive Learning", IJCAI 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from ltcli.stats.accuracy import group_accuracy, group_of_class, per_class_accuracy, predictions

Target = Literal["balanced-accuracy", "worst-group", "log-loss"]


def log_prior(class_counts: Tensor) -> Tensor:
    """Log of the class prior that the counts int64 [C] give."""
    counts = class_counts.double()
    return (counts / counts.sum()).log().float()


def for_prior(prior: Tensor, base: Tensor) -> Tensor:
    """Offset that takes logits from the prior ``base`` to ``prior``, both float64 [C], above 0."""
    return (prior.log() - base.log()).float()


def for_tau(class_counts: Tensor, tau: float) -> Tensor:
    """Offset of logit adjustment: -tau times the log prior of the counts int64 [C]."""
    return -tau * log_prior(class_counts)


def for_costs(costs: Tensor) -> Tensor:
    """Offset for the costs of missing a class, float64 [C], above 0, in any unit."""
    return costs.log().float()


@dataclass(frozen=True)
class Point:
    """One tau of the trade-off between head and tail; every class counts the same.

    Accuracies are means over all classes or those of a group, 0..1; None for a group without
    samples. The log-loss, nats, is the mean over classes of that of their samples.
    """

    tau: float
    balanced: float
    many: float | None
    medium: float | None
    few: float | None
    log_loss: float


def trade_off(logits: Tensor, labels: Tensor, class_counts: Tensor) -> list[Point]:
    """Accuracies and log-loss at tau = 0, 0.05, ..., 2.

    The logits float [N, C], with labels int64 [N], are unadjusted and of samples that were not
    trained on; the training images of the classes are int64 [C].
    """
    # The usual bounds, so that the worst group means the same for every data set.
    groups = group_of_class(class_counts)
    # 1 / n_y: each class counts once, however many samples it has.
    weights = 1 / labels.bincount(minlength=len(class_counts)).double()[labels]
    points = []
    for tau in (step / 20 for step in range(41)):
        adjusted = logits + for_tau(class_counts, tau)
        accuracy = per_class_accuracy(predictions(adjusted), labels, len(class_counts))
        seen = ~accuracy.isnan()
        losses = F.cross_entropy(adjusted, labels, reduction="none").double()
        loss = float(losses @ weights / seen.sum())
        each = group_accuracy(accuracy, groups)
        points.append(Point(tau, float(accuracy[seen].mean()), **each, log_loss=loss))
    return points


def best(points: Sequence[Point], target: Target) -> Point:
    """Best point of ``trade_off`` for a target; among equals, the one with tau nearest to 1.

    The worst group is the group of classes with the lowest accuracy.
    """

    def score(point: Point) -> float:
        if target == "log-loss":
            return -point.log_loss
        if target == "worst-group":
            found = (point.many, point.medium, point.few)
            return min(accuracy for accuracy in found if accuracy is not None)
        return point.balanced

    # Rounded: equal scores may differ in their last digit, by the order of their sums.
    return max(points, key=lambda p: (round(score(p), 9), -round(abs(p.tau - 1), 9), -p.tau))
