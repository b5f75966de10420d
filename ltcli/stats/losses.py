"""Losses of single samples, their mean, and the margins and smoothing that class counts give.

Logits are float [B, C], labels int64 [B], class counts int64 [C], losses float [B] in nats.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Reduction = Literal["weighted-mean", "mean-of-weighted"]


def margins(class_counts: Tensor, largest: float) -> Tensor:
    """LDAM's margins n_c^(-1/4), float64 [C], scaled so that the rarest class has ``largest``.

    Counts must be at least 1; ``largest`` is in logit units.

    Source: Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019, arXiv 1906.07413.
    """
    inverse = class_counts.to(torch.float64).pow(-0.25)
    return inverse * (largest / inverse.max())


def log_rarity(class_counts: Tensor) -> Tensor:
    """Rarity of each class, float64 [C]: 0 for the largest class, 1 for the rarest.

    It is log(n_max / n_c) / log(n_max / n_min), or 0 for all if the classes are equally large.
    Counts must be at least 1.
    """
    logs = class_counts.double().log()
    below = logs.max() - logs
    return below / below.max().clamp(min=torch.finfo(torch.float64).tiny)


def label_aware(logits: Tensor, labels: Tensor, by_class: Tensor) -> Tensor:
    """Cross-entropy with a label smoothing e for each class, ``by_class`` float [C], 0..1.

    (1 - e_y) (-log p_y) + e_y mean_c(-log p_c). A constant e is ordinary label smoothing, e = 0
    cross-entropy.

    Source: Zhong, Cui, Liu, Jia, CVPR 2021, arXiv 2104.00466, eq. 3.
    """
    smooth = by_class.to(logits.dtype)[labels]
    own = F.cross_entropy(logits, labels, reduction="none")
    # Over all classes, the target too, as in the released code; the paper leaves the target out.
    return (1 - smooth) * own - smooth * logits.log_softmax(1).mean(1)


def smoothing(class_counts: Tensor, largest: float, smallest: float) -> Tensor:
    """MiSLAS's concave label smoothing of each class, float64 [C].

    e_c = smallest + (largest - smallest) sin(pi/2 (n_c - n_min) / (n_max - n_min)), or ``smallest``
    if all classes are equally large.

    Source: Zhong, Cui, Liu, Jia, CVPR 2021, arXiv 2104.00466, eq. 5.
    """
    counts = class_counts.double()
    above = counts - counts.min()
    position = above / above.max().clamp(min=1)
    return smallest + (largest - smallest) * torch.sin(position * (torch.pi / 2))


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Softmax focal loss of each sample, (1 - p)^gamma (-log p); gamma = 0 is cross-entropy.

    Gradients flow through the factor too.

    Source: Lin, Goyal, Girshick, He, Dollar, ICCV 2017, arXiv 1708.02002 (sigmoid form); the
    softmax form is that of the released code of Cao et al., NeurIPS 2019, arXiv 1906.07413.
    """
    losses = F.cross_entropy(logits, labels, reduction="none")
    # Exactly cross-entropy, without a factor to differentiate.
    if gamma == 0:
        return losses
    # 1 - p without cancellation; a p of exactly 1 has no finite gradient for gamma < 1.
    missed = -torch.expm1(-losses)
    return missed.clamp(min=torch.finfo(losses.dtype).tiny).pow(gamma) * losses


def sigmoid_focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Sigmoid focal loss of each sample, summed over classes; gamma = 0 is binary cross-entropy.

    Gradients flow through the factor too.

    Source: Lin, Goyal, Girshick, He, Dollar, ICCV 2017, arXiv 1708.02002.
    """
    own = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    # Towards the correct side of each class: log p = logsigmoid(toward), 1 - p = sigmoid(-toward).
    toward = (2 * own - 1) * logits
    # The power as an exponential of a logarithm: finite gradients where 1 - p vanishes.
    return (torch.exp(gamma * F.logsigmoid(-toward)) * -F.logsigmoid(toward)).sum(1)


def with_margins(logits: Tensor, labels: Tensor, by_class: Tensor) -> Tensor:
    """Logits whose target is lowered by the margin of its class, ``by_class`` float [C]."""
    own = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return logits - own * by_class.to(logits.dtype)[labels].unsqueeze(1)


def remix_shares(
    weight: float,
    labels: Tensor,
    others: Tensor,
    *,
    class_counts: Tensor,
    ratio: float,
    below: float,
) -> Tensor:
    """Remix's mixing weight of the first label of each mixed image, float [B].

    It is the weight of the first image, but 0 if its class is at least ``ratio`` times as large as
    the other's and the weight is less than ``below``; and 1 if the classes are the other way round
    and the weight of the second image is less than ``below``. An infinite ratio or ``below`` = 0 is
    mixup.

    ``weight`` is the mixing weight of the first images, ``others`` has the labels of their
    partners; ``ratio`` and ``below`` are the paper's kappa and tau.

    Source: Chou, Chang, Pan, Wei, Juan, ECCV 2020 workshops, arXiv 2007.03943, eq. 6.
    """
    first, second = class_counts[labels], class_counts[others]
    weights = torch.full(labels.shape, weight, device=labels.device)
    # Both cases meet only for equal classes, ratio 1 and below > 1/2; then the second one wins.
    if weight < below:
        weights = torch.where(first >= ratio * second, 0.0, weights)
    if 1 - weight < below:
        weights = torch.where(second >= ratio * first, 1.0, weights)
    return weights


def reduce(losses: Tensor, weights: Tensor, reduction: Reduction, mixing: Tensor) -> Tensor:
    """Mean of losses with class weights float [B], float [].

    weighted-mean divides by the sum of the weights, mean-of-weighted by the number of samples.
    ``mixing``, float [B], is 1, or less for the labels of mixed images.
    """
    weighted = mixing * weights
    total = (weighted * losses).sum()
    # Two labels of one mixed image add up to one sample, so the mixing weights count samples.
    return total / (weighted if reduction == "weighted-mean" else mixing).sum()
