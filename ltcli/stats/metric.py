"""Losses of distances between the features of a batch."""

import torch
from torch import Tensor
from torch.nn import functional as F


def squared_distances(features: Tensor, others: Tensor) -> Tensor:
    """Return squared Euclidean distances, float [A, B], of features [A, D] and others [B, D].

    Written out, as the gradient of a root is infinite at 0.
    """
    squares = features.square().sum(1, keepdim=True) + others.square().sum(1)
    return (squares - 2 * features @ others.T).clamp(min=0)


def range_within(features: Tensor, labels: Tensor, num_classes: int, largest: int) -> Tensor:
    """Return range loss's term within classes, float []: the sum over the classes of the batch.

    For each class, the harmonic mean of the ``largest`` largest squared distances between its
    samples, or of all where there are fewer; classes with one sample count 0.

    Source: Zhang, Fang, Wen, Li, Qiao, ICCV 2017, arXiv 1611.08976, eq. 4.

    Args:
        features: float [B, D].
        labels: int64 [B].
        num_classes: C.
        largest: k.
    """
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    distances = squared_distances(features, features)[first, second]
    # Pairs of two classes go to a class of their own, behind all others.
    of = torch.where(labels[first] == labels[second], labels[first], num_classes)
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
    # Without a pair the sum is 0, and so shall be the quotient.
    return (counts / torch.where(counts > 0, sums, 1.0)).sum()


def range_between(features: Tensor, labels: Tensor, num_classes: int, margin: float) -> Tensor:
    """Return range loss's term between classes, float [].

    By how much the smallest squared distance of two class centres of the batch falls short of the
    margin; 0 where there is but one class.

    Source: as for ``range_within``, eq. 6.

    Args:
        features: float [B, D].
        labels: int64 [B].
        num_classes: C.
        margin: In squared feature units.
    """
    member = F.one_hot(labels, num_classes).to(features.dtype)
    counts = member.sum(0)
    centres = (member.T @ features) / counts.clamp(min=1).unsqueeze(1)
    distances = squared_distances(centres, centres)
    absent = counts == 0
    apart = absent.unsqueeze(0) | absent.unsqueeze(1)
    apart = apart | torch.eye(num_classes, dtype=torch.bool, device=labels.device)
    return (margin - distances.masked_fill(apart, torch.inf).min()).clamp(min=0)


def lifted(features: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return the lifted structured loss of a batch, float [].

        J_ij = log( sum_{k not of i's class} e^(margin - D_ik)
                    + sum_{k not of j's class} e^(margin - D_jk) ) + D_ij
        L = 1 / (2 P) sum over the P pairs i < j of one class of max(0, J_ij)^2

    D are distances, not squared. 0 without a pair of one class, or without samples of another.

    Source: Oh Song, Xiang, Jegelka, Savarese, CVPR 2016, arXiv 1511.06452, eq. 4.

    Args:
        features: float [B, D].
        labels: int64 [B].
        margin: The paper's alpha, feature units.
    """
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
