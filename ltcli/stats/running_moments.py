"""Class means and covariances that grow batch by batch: the estimator of ISDA.

For a class with N_c samples so far, of mean mu and covariance S, and m samples in the batch, of
mean mu_b and population covariance V_b, with w = m / (N_c + m):

    S  <- (1 - w) S + w V_b + w (1 - w) (mu - mu_b)(mu - mu_b)'
    mu <- (1 - w) mu + w mu_b
    N_c <- N_c + m

Nothing is forgotten: after one pass over fixed features S is their population covariance.

Source: Wang, Pan, Song, Zhang, Wu, Huang, "Implicit Semantic Data Augmentation for Deep Networks",
NeurIPS 2019, arXiv 1909.12220. Their code updates tensors [B, C, D] and patches the 0/0 of absent
classes; here only present classes are touched, each by one matrix product.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ltcli.core.errors import DataError


@dataclasses.dataclass(frozen=True)
class RunningMoments:
    """What is known of the classes after some batches.

    Each covariance is a tensor of its own, so that an update shares those of absent classes with
    the state before it instead of copying [C, D, D].

    Attributes:
        counts: int64 [C], samples seen, every visit counted.
        means: float [C, D], feature units.
        covariances: C tensors, float [D, D], feature units squared, divided by the count.
    """

    counts: Tensor
    means: Tensor
    covariances: tuple[Tensor, ...]

    def stacked(self, classes: Sequence[int] | None = None) -> Tensor:
        """Return float [K, D, D], the covariances of these classes, or of all."""
        chosen = range(len(self.covariances)) if classes is None else classes
        return torch.stack([self.covariances[c] for c in chosen])


def start(
    num_classes: int,
    dim: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> RunningMoments:
    """Return the state before the first batch: no samples, all moments zero."""
    zero = torch.zeros(dim, dim, dtype=dtype, device=device)
    return RunningMoments(
        counts=torch.zeros(num_classes, dtype=torch.int64, device=device),
        means=torch.zeros(num_classes, dim, dtype=dtype, device=device),
        covariances=(zero,) * num_classes,  # shared: no state is ever written to
    )


@torch.no_grad()
def update(state: RunningMoments, features: Tensor, labels: Tensor) -> RunningMoments:
    """Take one batch into account; the given state stays as it is.

    Detached, and in the precision of the state even under autocast. Waits for the device, which
    holds the counts.

    Args:
        state: Moments so far.
        features: float [B, D], in feature units.
        labels: int64 [B].

    Returns:
        The new state. Moments of classes absent from the batch are the same bit for bit.

    Raises:
        DataError: A label is out of its range.
    """
    if not len(labels):
        return state
    labels, device = labels.cpu(), state.means.device
    present, index, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    classes: list[int] = present.tolist()
    if classes[0] < 0 or classes[-1] >= len(state.counts):
        wrong = classes[0] if classes[0] < 0 else classes[-1]
        raise DataError(
            "running moments", f"labels must be in 0 ... {len(state.counts) - 1}, got {wrong}"
        )
    weights = sizes / (state.counts.cpu()[present] + sizes).to(torch.float64)
    owner = torch.cat([index, torch.arange(len(classes))])
    order = torch.argsort(owner, stable=True).to(device)

    with torch.autocast(device.type, enabled=False):
        shifts, rows = _batch_rows(state.means[present.to(device)], features, index, sizes, weights)
        groups = torch.split(rows[order], (sizes + 1).tolist())
        covariances = list(state.covariances)
        for c, weight, group in zip(classes, weights.tolist(), groups, strict=True):
            covariances[c] = torch.addmm(covariances[c], group.T, group, beta=1 - weight)
        step = weights.to(shifts).unsqueeze(1) * shifts
    return RunningMoments(
        counts=state.counts.index_add(0, present.to(device), sizes.to(device)),
        means=state.means.index_add(0, present.to(device), step),
        covariances=tuple(covariances),
    )


def _batch_rows(
    means: Tensor, features: Tensor, index: Tensor, sizes: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn a batch into rows G with w V_b + w (1 - w) (mu_b - mu)(mu_b - mu)' = G'G.

    Args:
        means: float [K, D], running means of the K classes present.
        features: float [B, D].
        index: int64 [B], which of the K classes.
        sizes: int64 [K], m.
        weights: float64 [K], w.

    Returns:
        mu_b - mu, float [K, D], and float [B + K, D]: sqrt(w / m) (x - mu_b) for each sample, then
        sqrt(w (1 - w)) (mu_b - mu) for each class.
    """
    member = torch.nn.functional.one_hot(index, len(sizes)).to(means)
    member_of = index.to(means.device)
    # Relative to the running mean: small numbers even where the features are not.
    shifted = features.to(means.dtype) - means[member_of]
    shifts = (member.T @ shifted) / sizes.to(means).unsqueeze(1)
    inner = (weights / sizes).sqrt()[index].to(means).unsqueeze(1)
    outer = (weights * (1 - weights)).sqrt().to(means).unsqueeze(1)
    return shifts, torch.cat([inner * (shifted - shifts[member_of]), outer * shifts])
