"""Differences between features of one class: STG learns them on head classes, adds them to tails.

For a feature a_i and the k features a_j of its class in a set, per channel:

    mu_i    = mean_j (a_j - a_i)
    Sigma_i = mean_j (mu_i - (a_j - a_i))^2

so a_i + mu_i is the mean of the set, and Sigma_i its biased variance, the same for every i. Such
moments move a feature by a random difference, in the channels that a mask leaves open:

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

# Added to both variances of the divergence, feature units squared: a channel that never changes has
# a variance of 0, and the divergence divides by it.
VARIANCE_FLOOR = 1e-6


def class_moments(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """Number float [C], mean [C, D] and biased variance [C, D] of each class's features.

    The features are float [N, D], their labels int64 [N]; a class without features has zeros.
    """
    # index_add, not bincount or a loop: nothing here waits for the device.
    zeros = features.new_zeros(num_classes, features.shape[1])
    counts = zeros.new_zeros(num_classes).index_add(0, labels, torch.ones_like(features[:, 0]))
    divisors = counts.clamp(min=1).unsqueeze(1)
    means = zeros.index_add(0, labels, features) / divisors
    # A second pass: means of squares less squares of means would cancel.
    squares = (features - means[labels]).square()
    return counts, means, zeros.index_add(0, labels, squares) / divisors


class DifferenceTargets:
    """Targets of the generator: smoothed moments of same-class features in batch and memory.

    The set of a sample is its class in the batch and in a first-in-first-out memory of earlier
    batches. A sample's moments are averaged over its visits: old <- momentum old + (1 - momentum)
    new; the first usable visit counts in full. The memory holds at most ``memory`` features, 0 for
    the batch alone; a set is usable from ``min_set`` features on, and has the sample's own copies,
    of this visit and earlier, if ``include_self``.
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
        """Memory float [M, D], its labels and rows, means and variances [N, D], and seen [N]."""
        return dict(self._state)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``tensors`` returned, perhaps on another device."""
        device = self._state["memory"].device
        self._state = {name: tensors[name].to(device) for name in self._state}

    @torch.no_grad()
    def visit(self, rows: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Add one batch and return its smoothed mu and Sigma, float [B, D], and usable, bool [B].

        Features are float [B, D], labels int64 [B], and so are ``rows``, the numbers of the
        samples; a repeated one repeats its features.
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
        # A sample not seen before has momentum 0, so its zeros do not dilute the first value.
        old_means, old_variances = state["means"][rows], state["variances"][rows]
        old, kept = (self._momentum * state["seen"][rows]).unsqueeze(1), usable.unsqueeze(1)
        means = torch.where(kept, torch.lerp(means, old_means, old), old_means)
        variances = torch.where(kept, torch.lerp(variances, old_variances, old), old_variances)
        state["means"][rows], state["variances"][rows] = means, variances
        state["seen"][rows] = state["seen"][rows] | usable
        # Clones: a slice would keep the whole pool of every step alive.
        first = max(0, len(pool) - self._size)
        state["memory"], state["labels"] = pool[first:].clone(), pool_labels[first:].clone()
        state["rows"] = pool_rows[first:].clone()
        return means, variances, usable


def _without(
    features: Tensor, copies: Tensor, counts: Tensor, means: Tensor, variances: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and variance of sets after m copies of one feature leave each.

    With d = a - mean in a set of k, the mean moves by -m d / (k - m), and the sum of squares falls
    by m d^2 k / (k - m).
    """
    others = (counts - copies).clamp(min=1).unsqueeze(1)
    offset, copied = features - means, copies.unsqueeze(1)
    ratio = counts.unsqueeze(1) / others
    variances = (ratio * (variances - copied * offset.square() / others)).clamp(min=0)
    return counts - copies, means - copied * offset / others, variances


def regression_losses(
    mean: Tensor,
    variance: Tensor,
    target_mean: Tensor,
    target_variance: Tensor,
    form: Literal["mse", "kl"],
) -> tuple[Tensor, Tensor]:
    """Losses of predicted means and variances [B, D], float [B] each, averaged over the channels.

    mse: squared errors of mean and variance. kl: the divergence of the predicted Gaussian from the
    target's, nats, split into the part that vanishes with the error of the mean, and the rest.
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
    """Head class whose mean, of means float [C, D], is most similar to each feature, int64 [B].

    ``head``, bool [C], marks the head classes; euclidean takes the smallest distance.
    """
    if similarity == "cosine":
        # Features are not normalised: their length does not change the order of the classes.
        scores = features @ F.normalize(means).T
    else:
        # -||a - m||^2 / 2 without ||a||^2 / 2, which all classes share: no [B, C, D].
        scores = features @ means.T - means.square().sum(1) / 2
    return scores.masked_fill(~head, -torch.inf).argmax(1)


def rarity(class_counts: Tensor) -> Tensor:
    """Rarity sqrt(n_min / n_c) of classes with counts int64 [C], float64 [C]; 1 for an empty one.

    n_min is the number of images of the rarest class that has any.
    """
    counts = class_counts.to(torch.float64)
    rarest = counts[counts > 0].min()
    return torch.where(counts > 0, rarest / counts.clamp(min=1), 1.0).sqrt()


def moved(
    features: Tensor, mean: Tensor, variance: Tensor, factors: Tensor, noise: Tensor
) -> Tensor:
    """Moved features a + (sqrt(Sigma) eps + mu) f, float [B, D]; f = lambda beta_y, float [B]."""
    return features + (variance.sqrt() * noise + mean) * factors.unsqueeze(1)


def masked(features: Tensor, changed: Tensor, draws: Tensor, threshold: float) -> Tensor:
    """``changed`` in a fraction ``threshold`` of the channels, ``features`` elsewhere.

    The draws, float [B, D], lie in [0, 1), so that threshold 0 changes nothing and 1 everything.
    """
    return torch.where(draws >= threshold, features, changed)
