"""Differences between the features of a class: what STG learns from head classes and adds to tails.

For a feature a_i and the k features a_j of its class in a set, per channel:

    mu_i    = mean_j (a_j - a_i)
    Sigma_i = mean_j (mu_i - (a_j - a_i))^2

so a_i + mu_i is the mean of the set, and Sigma_i its biased variance, the same for every i. A
feature is moved by a random difference of such moments in the channels that a mask leaves open:

    a~ = a                                           where m >= t, m ~ U(0, 1) per channel
    a~ = a + (sqrt(Sigma) eps + mu) lambda beta_y    elsewhere, eps ~ N(0, 1) per channel
    beta_y = sqrt(n_min / n_y)

    E[a~]   = a + t lambda beta mu
    Var[a~] = t (lambda beta)^2 Sigma + t (1 - t) (lambda beta mu)^2

Source: "Sample-specific and context-aware augmentation" (STG), anonymous submission.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Similarity = Literal["cosine", "euclidean"]

# Added to both variances of the divergence: a channel that never changes has none, feature units^2.
VARIANCE_FLOOR = 1e-6


def class_moments(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """Return the number, mean and biased variance per channel of each class's features.

    Args:
        features: float [N, D], feature units.
        labels: int64 [N].
        num_classes: C.

    Returns:
        float [C], [C, D] and [C, D]; zero for a class without features.
    """
    zeros = features.new_zeros(num_classes, features.shape[1])
    counts = zeros.new_zeros(num_classes).index_add(0, labels, torch.ones_like(features[:, 0]))
    divisors = counts.clamp(min=1).unsqueeze(1)
    means = zeros.index_add(0, labels, features) / divisors
    # A second pass: squares of raw features would cancel.
    squares = (features - means[labels]).square()
    return counts, means, zeros.index_add(0, labels, squares) / divisors


class DifferenceTargets:
    """What the generator is to predict, from same-class features of batch and memory, smoothed.

    The set of a sample is its class in the batch and in a first-in-first-out memory of the batches
    before. A sample's moments are averaged over its visits: old <- momentum old + (1 - momentum)
    new; its first usable visit is taken as it is.

    Args:
        num_samples: N.
        num_classes: C.
        dim: D.
        memory: Features that the memory holds at most; 0 for the batch alone.
        momentum: Share of the old value, 0 to 1.
        min_set: Features that a usable set has at least, 1 or more.
        include_self: Whether a sample is in its own set, by this visit or an earlier one.
        device: Of all tensors.
    """

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        dim: int,
        *,
        memory: int,
        momentum: float,
        min_set: int,
        include_self: bool,
        device: torch.device | str = "cpu",
    ) -> None:
        """Start with an empty memory and no visits."""
        self._num_classes, self._size, self._momentum = num_classes, memory, momentum
        self._min_set, self._include_self = min_set, include_self
        self._state = {
            "memory": torch.zeros(0, dim, device=device),
            "labels": torch.zeros(0, dtype=torch.int64, device=device),
            "rows": torch.zeros(0, dtype=torch.int64, device=device),
            "means": torch.zeros(num_samples, dim, device=device),
            "variances": torch.zeros(num_samples, dim, device=device),
            "seen": torch.zeros(num_samples, dtype=torch.bool, device=device),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return memory (float [M, D]), its labels and rows, means, variances [N, D] and seen."""
        return dict(self._state)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``tensors`` returned; it may come from another device."""
        device = self._state["memory"].device
        self._state = {name: tensors[name].to(device) for name in self._state}

    @torch.no_grad()
    def visit(self, rows: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Take one batch into account and return its smoothed moments.

        Args:
            rows: int64 [B], which samples; one that comes twice has the same features twice.
            features: float [B, D], feature units.
            labels: int64 [B].

        Returns:
            mu float [B, D], Sigma float [B, D], and bool [B]: whether the set was large enough.
        """
        state = self._state
        pool = torch.cat([state["memory"], features])
        pool_labels = torch.cat([state["labels"], labels])
        pool_rows = torch.cat([state["rows"], rows])
        counts, means, variances = (
            found[labels] for found in class_moments(pool, pool_labels, self._num_classes)
        )
        if not self._include_self:
            copies = (rows.unsqueeze(1) == pool_rows).sum(1)
            counts, means, variances = _without(features, copies, counts, means, variances)
        means, usable = means - features, counts >= self._min_set
        old_means, old_variances = state["means"][rows], state["variances"][rows]
        old = (self._momentum * state["seen"][rows]).unsqueeze(1)
        means = torch.where(usable[:, None], torch.lerp(means, old_means, old), old_means)
        variances = torch.where(
            usable[:, None], torch.lerp(variances, old_variances, old), old_variances
        )
        state["means"][rows], state["variances"][rows] = means, variances
        state["seen"][rows] = state["seen"][rows] | usable
        first = max(0, len(pool) - self._size)
        state["memory"], state["labels"] = pool[first:].clone(), pool_labels[first:].clone()
        state["rows"] = pool_rows[first:].clone()
        return means, variances, usable


def _without(
    features: Tensor, copies: Tensor, counts: Tensor, means: Tensor, variances: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return number, mean and variance of sets without m copies of a feature each.

    With d = a - mean, of k the mean moves by -m d / (k - m), and the sum of squares falls by
    m d^2 k / (k - m).
    """
    others = (counts - copies).clamp(min=1).unsqueeze(1)
    offset, copied = features - means, copies.unsqueeze(1)
    share = counts.unsqueeze(1) / others
    variances = (share * (variances - copied * offset.square() / others)).clamp(min=0)
    return counts - copies, means - copied * offset / others, variances


def regression_losses(
    mean: Tensor,
    variance: Tensor,
    target_mean: Tensor,
    target_variance: Tensor,
    form: Literal["mse", "kl"],
) -> tuple[Tensor, Tensor]:
    """Return how far predicted moments are from their targets, averaged over the channels.

    mse: squared errors of mean and variance. kl: the divergence of the predicted Gaussian from the
    target's, nats, as the part that vanishes with the error of the mean, and the rest.

    Args:
        mean: float [B, D], predicted; as all four.
        variance: Predicted, at least 0.
        target_mean: Feature units.
        target_variance: Feature units squared, at least 0.
        form: mse or kl.

    Returns:
        The part of the mean and the part of the variance, float [B] each; their sum is the loss.
    """
    error = (mean - target_mean).square()
    if form == "mse":
        return error.mean(1), (variance - target_variance).square().mean(1)
    floored = variance + VARIANCE_FLOOR
    ratio = (target_variance + VARIANCE_FLOOR) / floored
    return (error / floored).mean(1) / 2, (ratio - 1 - ratio.log()).mean(1) / 2


def nearest_head(
    features: Tensor, means: Tensor, head: Tensor, similarity: Similarity = "cosine"
) -> Tensor:
    """Return the head class whose mean is most similar to each feature, int64 [B].

    Args:
        features: float [B, D].
        means: float [C, D], class means.
        head: bool [C].
        similarity: cosine, or euclidean for the smallest distance.
    """
    if similarity == "cosine":
        # The length of the feature does not change the order.
        scores = features @ F.normalize(means).T
    else:
        # Falls with ||a - m||^2, without the part that all classes share.
        scores = features @ means.T - means.square().sum(1) / 2
    return scores.masked_fill(~head, -torch.inf).argmax(1)


def rarity(class_counts: Tensor) -> Tensor:
    """Return sqrt(n_min / n_c), float64 [C]: 1 for the rarest class that has images.

    Args:
        class_counts: int64 [C]; a class without images gets 1.
    """
    counts = class_counts.to(torch.float64)
    rarest = counts[counts > 0].min()
    return torch.where(counts > 0, rarest / counts.clamp(min=1), 1.0).sqrt()


def moved(
    features: Tensor,
    mean: Tensor,
    variance: Tensor,
    factors: Tensor,
    noise: Tensor,
) -> Tensor:
    """Return a + (sqrt(Sigma) eps + mu) f, float [B, D].

    Args:
        features: float [B, D], a.
        mean: float [B, D], mu, feature units.
        variance: float [B, D], Sigma, feature units squared.
        factors: float [B], f = lambda beta_y.
        noise: float [B, D], eps.
    """
    return features + (variance.sqrt() * noise + mean) * factors.unsqueeze(1)


def masked(features: Tensor, changed: Tensor, draws: Tensor, threshold: float) -> Tensor:
    """Return the features where draws >= threshold and the changed ones elsewhere.

    Args:
        features: float [B, D].
        changed: float [B, D].
        draws: float [B, D], in [0, 1), so that threshold 0 keeps all and 1 keeps none.
        threshold: Share of the channels that change, 0 to 1.
    """
    return torch.where(draws >= threshold, features, changed)
