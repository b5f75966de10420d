"""Losses of distances between the features float [B, D] of a batch with labels int64 [B]."""

import torch
from torch import Tensor
from torch.nn import functional as F


def squared_distances(features: Tensor, others: Tensor) -> Tensor:
    """Squared Euclidean distances, float [A, B], between features [A, D] and others [B, D]."""
    # Not the square of cdist: the gradient of its root is infinite at 0.
    squares = features.square().sum(1, keepdim=True) + others.square().sum(1)
    return (squares - 2 * features @ others.T).clamp(min=0)


def range_within(features: Tensor, labels: Tensor, num_classes: int, largest: int) -> Tensor:
    """Range loss's term within classes, float [], summed over the classes of the batch.

    A class adds the harmonic mean of the ``largest`` largest squared distances between its samples,
    or of all if there are fewer; a class with one sample adds 0.

    Source: Zhang, Fang, Wen, Li, Qiao, ICCV 2017, arXiv 1611.08976, eq. 4.
    """
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    distances = squared_distances(features, features)[first, second]
    # Pairs from two classes get a number of their own, behind all classes.
    of = torch.where(labels[first] == labels[second], labels[first], num_classes)
    # Two stable sorts: by class, and within a class by distance, without a loop over classes.
    order = distances.detach().argsort(descending=True, stable=True)
    order = order[of[order].argsort(stable=True)]
    # A bincount would wait for the device.
    pairs = of.new_zeros(num_classes + 1).index_add(0, of, torch.ones_like(of))
    start = (pairs.cumsum(0) - pairs)[of[order]]
    rank = torch.arange(len(order), device=order.device) - start
    chosen = (rank < largest) & (of[order] < num_classes)
    inverse = torch.where(chosen, 1 / distances[order].clamp(min=1e-12), 0.0)
    sums = inverse.new_zeros(num_classes + 1).index_add(0, of[order], inverse)[:num_classes]
    counts = pairs[:num_classes].clamp(max=largest)
    # Without a pair both are 0, and the quotient must be 0, not NaN.
    return (counts / torch.where(counts > 0, sums, 1.0)).sum()


def range_between(features: Tensor, labels: Tensor, num_classes: int, margin: float) -> Tensor:
    """Range loss's term between classes, float [], at least 0.

    It is the margin, in squared feature units, less the smallest squared distance between two class
    centres of the batch. With one class it is 0.

    Source: as for ``range_within``, eq. 6.
    """
    member = F.one_hot(labels, num_classes).to(features.dtype)
    counts = member.sum(0)
    centres = (member.T @ features) / counts.clamp(min=1).unsqueeze(1)
    distances = squared_distances(centres, centres)
    # Infinite distances take absent classes and the diagonal out of the minimum.
    absent = counts == 0
    apart = absent.unsqueeze(0) | absent.unsqueeze(1)
    apart = apart | torch.eye(num_classes, dtype=torch.bool, device=labels.device)
    return (margin - distances.masked_fill(apart, torch.inf).min()).clamp(min=0)


def lifted(features: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Lifted structured loss of a batch, float [].

        J_ij = log( sum_{k not of i's class} e^(margin - D_ik)
                    + sum_{k not of j's class} e^(margin - D_jk) ) + D_ij
        L = 1 / (2 P) sum over the P pairs i < j of one class of max(0, J_ij)^2

    D are distances, not squared; the margin is the paper's alpha, in feature units. The loss is 0
    without a pair of one class, or without samples of another class.

    Source: Oh Song, Xiang, Jegelka, Savarese, CVPR 2016, arXiv 1511.06452, eq. 4.
    """
    # A root of exactly 0, as of a feature to itself, has an infinite gradient.
    distances = (squared_distances(features, features) + 1e-12).sqrt()
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    pushed = (margin - distances).masked_fill(same, -torch.inf)
    # A finite stand-in for the logarithm of an empty sum, so that gradients stay finite.
    alone = same.all(1)
    lifted_by = torch.where(alone.unsqueeze(1), torch.zeros_like(pushed), pushed).logsumexp(1)
    joint = torch.logaddexp(lifted_by.unsqueeze(0), lifted_by.unsqueeze(1)) + distances
    counted = torch.triu(same, 1) & ~alone.unsqueeze(1)
    losses = torch.where(counted, joint, 0.0).clamp(min=0).square()
    return losses.sum() / (2 * counted.sum().clamp(min=1))
