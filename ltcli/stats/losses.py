"""Losses of single samples, and what the weighted losses of a batch are divided by."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Reduction = Literal["weighted-mean", "mean-of-weighted"]


def margins(class_counts: Tensor, largest: float) -> Tensor:
    """Return LDAM's margins: n_c^(-1/4), scaled so that the rarest class has the largest.

    Source: Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019, arXiv 1906.07413.

    Args:
        class_counts: int64 [C], all at least 1.
        largest: Margin of the rarest class, logit units.

    Returns:
        float64 [C], logit units.
    """
    inverse = class_counts.to(torch.float64).pow(-0.25)
    return inverse * (largest / inverse.max())


def log_rarity(class_counts: Tensor) -> Tensor:
    """Return log(n_max / n_c) / log(n_max / n_min): 0 for the largest class, 1 for the rarest.

    Zeros where all classes are equally large.

    Args:
        class_counts: int64 [C], all at least 1.

    Returns:
        float64 [C].
    """
    logs = class_counts.double().log()
    below = logs.max() - logs
    return below / below.max().clamp(min=torch.finfo(torch.float64).tiny)


def label_aware(logits: Tensor, labels: Tensor, by_class: Tensor) -> Tensor:
    """Return cross-entropy with a label smoothing for each class, float [B], nats.

    (1 - e_y) (-log p_y) + e_y mean_c(-log p_c). All classes share the rest, the target too, as in
    the released code; a constant e is ordinary label smoothing, e = 0 cross-entropy.

    Source: Zhong, Cui, Liu, Jia, CVPR 2021, arXiv 2104.00466, eq. 3.

    Args:
        logits: float [B, C].
        labels: int64 [B].
        by_class: float [C], e, 0..1.
    """
    smooth = by_class.to(logits.dtype)[labels]
    own = F.cross_entropy(logits, labels, reduction="none")
    return (1 - smooth) * own - smooth * logits.log_softmax(1).mean(1)


def smoothing(class_counts: Tensor, largest: float, smallest: float) -> Tensor:
    """Return MiSLAS's concave smoothing of each class.

    e_c = smallest + (largest - smallest) sin(pi/2 (n_c - n_min) / (n_max - n_min))

    Source: Zhong, Cui, Liu, Jia, CVPR 2021, arXiv 2104.00466, eq. 5.

    Args:
        class_counts: int64 [C].
        largest: Of the largest class.
        smallest: Of the smallest class; all classes have it where they are equally large.

    Returns:
        float64 [C].
    """
    counts = class_counts.double()
    above = counts - counts.min()
    share = above / above.max().clamp(min=1)
    return smallest + (largest - smallest) * torch.sin(share * (torch.pi / 2))


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Return the softmax focal loss of each sample, (1 - p)^gamma (-log p), float [B], nats.

    gamma = 0 is cross-entropy. Gradients flow through the factor too.

    Source: Lin, Goyal, Girshick, He, Dollar, ICCV 2017, arXiv 1708.02002 (sigmoid form); the
    softmax form is that of the released code of Cao et al., NeurIPS 2019, arXiv 1906.07413.

    Args:
        logits: float [B, C].
        labels: int64 [B].
        gamma: Exponent, at least 0.
    """
    losses = F.cross_entropy(logits, labels, reduction="none")
    if gamma == 0:
        return losses
    # 1 - p without cancellation; a p of exactly 1 has no finite gradient for gamma < 1.
    missed = -torch.expm1(-losses)
    return missed.clamp(min=torch.finfo(losses.dtype).tiny).pow(gamma) * losses


def sigmoid_focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Return the sigmoid focal loss of each sample, summed over classes, float [B], nats.

    gamma = 0 is the sum of binary cross-entropies. Gradients flow through the factor too.

    Source: Lin, Goyal, Girshick, He, Dollar, ICCV 2017, arXiv 1708.02002.

    Args:
        logits: float [B, C].
        labels: int64 [B].
        gamma: Exponent, at least 0.
    """
    own = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    # Towards the right side of each class: log p = logsigmoid(toward), 1 - p = sigmoid(-toward).
    toward = (2 * own - 1) * logits
    return (torch.exp(gamma * F.logsigmoid(-toward)) * -F.logsigmoid(toward)).sum(1)


def with_margins(logits: Tensor, labels: Tensor, by_class: Tensor) -> Tensor:
    """Return logits with the margin of each sample's class taken off its own logit, float [B, C].

    Args:
        logits: float [B, C].
        labels: int64 [B].
        by_class: float [C], margins in logit units.
    """
    own = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return logits - own * by_class.to(logits.dtype)[labels].unsqueeze(1)


def remix_shares(
    share: float,
    labels: Tensor,
    others: Tensor,
    *,
    class_counts: Tensor,
    ratio: float,
    below: float,
) -> Tensor:
    """Return Remix's share of the first label of each mixed image, float [B].

    It is the share of the first image, but 0 where its class is at least ``ratio`` times as large
    as the other's and the share is less than ``below``; and 1 where it is at most 1 / ``ratio`` of
    the other's and the other's share is less than ``below``. An infinite ratio or ``below`` = 0 is
    mixup.

    Source: Chou, Chang, Pan, Wei, Juan, ECCV 2020 workshops, arXiv 2007.03943, eq. 6.

    Args:
        share: Of the first image, 0..1.
        labels: int64 [B], of the first images.
        others: int64 [B], of their partners.
        class_counts: int64 [C].
        ratio: The paper's kappa.
        below: The paper's tau.
    """
    first, second = class_counts[labels], class_counts[others]
    shares = torch.full(labels.shape, share, device=labels.device)
    if share < below:
        shares = torch.where(first >= ratio * second, 0.0, shares)
    if 1 - share < below:
        shares = torch.where(second >= ratio * first, 1.0, shares)
    return shares


def reduce(losses: Tensor, weights: Tensor, reduction: Reduction, shares: Tensor) -> Tensor:
    """Return the mean of weighted losses, float [].

    Args:
        losses: float [B], nats.
        weights: float [B], of the classes.
        reduction: weighted-mean divides by the weights of the batch, mean-of-weighted by how many
            samples there are.
        shares: float [B], of a sample: 1, or less where mixed images have two labels.
    """
    weighted = shares * weights
    total = (weighted * losses).sum()
    return total / (weighted if reduction == "weighted-mean" else shares).sum()
