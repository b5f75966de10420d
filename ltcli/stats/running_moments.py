"""Running class means and covariances, updated batch by batch: the estimator of ISDA.

For a class with N_c samples so far, mean mu and covariance S, and with m samples in the batch, mean
mu_b and population covariance V_b, let w = m / (N_c + m):

    S  <- (1 - w) S + w V_b + w (1 - w) (mu - mu_b)(mu - mu_b)'
    mu <- (1 - w) mu + w mu_b
    N_c <- N_c + m

Nothing is forgotten: after one pass over fixed features S is their population covariance. The
diagonal form keeps only the variances, by the same rule.

Counts stay on the CPU, which decides the classes of a batch: if the labels are there too, an update
does not wait for the device that has the features.

Source: Wang, Pan, Song, Zhang, Wu, Huang, "Implicit Semantic Data Augmentation for Deep Networks",
NeurIPS 2019, arXiv 1909.12220. Their code updates tensors [B, C, D] and patches the 0/0 of absent
classes; here one matrix product updates each class that is present.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ltcli.compute.transfer import to_device
from ltcli.core.errors import DataError
from ltcli.stats.chunks import batched, chunks, padded
from ltcli.stats.quadratic import Diagonal, Full

Form = Literal["full", "diagonal"]


@dataclasses.dataclass(frozen=True)
class RunningMoments:
    """Moments of the classes after some batches.

    Counts are int64 [C], every visit counted, on the CPU; means float [C, D], feature units;
    covariances C tensors float [D, D], or variances float [C, D], feature units squared, divided by
    the count. Each full covariance is a tensor of its own: an update shares those of absent classes
    with the state before it, instead of copying [C, D, D].
    """

    counts: Tensor
    means: Tensor
    covariances: tuple[Tensor, ...] | Tensor

    def stacked(self) -> Tensor:
        """Covariances, float [C, D, D], or variances, float [C, D]."""
        if isinstance(self.covariances, Tensor):
            return self.covariances
        return torch.stack(self.covariances)


def start(
    num_classes: int,
    dim: int,
    form: Form = "full",
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> RunningMoments:
    """State before the first batch: no samples, all moments zero."""
    zeros = torch.zeros(num_classes, dim, dtype=dtype, device=device)
    covariances: tuple[Tensor, ...] | Tensor = zeros
    if form == "full":
        # One tensor for all classes: no state is ever written to.
        covariances = (torch.zeros(dim, dim, dtype=dtype, device=device),) * num_classes
    return RunningMoments(torch.zeros(num_classes, dtype=torch.int64), zeros, covariances)


@torch.no_grad()
def update(state: RunningMoments, features: Tensor, labels: Tensor) -> RunningMoments:
    """New state after a batch of features [B, D] and labels int64 [B]; the given one stays.

    It is detached, in the precision of the state even under autocast, and keeps the moments of
    classes absent from the batch bit for bit.
    """
    if not len(labels):
        return state
    labels, device = labels.cpu(), state.means.device  # waits for the device unless on the CPU
    present, index, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    classes: list[int] = present.tolist()
    if classes[0] < 0 or classes[-1] >= len(state.counts):
        wrong = classes[0] if classes[0] < 0 else classes[-1]
        rule = f"labels must be in 0 ... {len(state.counts) - 1}, got {wrong}"
        raise DataError("running moments", rule)
    # In float64: after many epochs w is small, and 1 - w must keep its digits.
    weights = sizes / (state.counts[present] + sizes).to(torch.float64)
    where = to_device(present, device)
    covariances: tuple[Tensor, ...] | Tensor
    with torch.autocast(device.type, enabled=False):
        shifts, rows = _batch_rows(state.means[where], features, index, sizes, weights)
        owner = torch.cat([index, torch.arange(len(classes))])
        if isinstance(state.covariances, Tensor):
            kept = to_device((1 - weights).to(rows.dtype), device).unsqueeze(1)
            spread = _membership(owner, rows).T @ rows.square()
            mixed = torch.addcmul(spread, kept, state.covariances[where])
            covariances = state.covariances.index_copy(0, where, mixed)
        elif batched(device):
            covariances = _mixed_together(state.covariances, classes, 1 - weights, owner, rows)
        else:
            # Rows of one class side by side: S is then one product of their transpose with them.
            order = to_device(torch.argsort(owner, stable=True), device)
            groups = torch.split(rows[order], (sizes + 1).tolist())
            full = list(state.covariances)
            for c, weight, group in zip(classes, weights.tolist(), groups, strict=True):
                full[c] = torch.addmm(full[c], group.T, group, beta=1 - weight)
            covariances = tuple(full)
        step = to_device(weights.to(shifts.dtype), device).unsqueeze(1) * shifts
    # index_add copies, so the given state keeps its tensors.
    return RunningMoments(
        counts=state.counts.index_add(0, present, sizes),
        means=state.means.index_add(0, where, step),
        covariances=covariances,
    )


def _mixed_together(
    known: tuple[Tensor, ...], classes: list[int], kept: Tensor, owner: Tensor, rows: Tensor
) -> tuple[Tensor, ...]:
    """Covariances with those of some classes scaled by ``kept`` and given the rows they own."""
    full, dim = list(known), rows.shape[1]
    members: list[list[tuple[int, float]]] = [[] for _ in classes]
    for row, k in enumerate(owner.tolist()):
        members[k].append((row, 1.0))
    for some in chunks(len(classes), dim * max(dim, *(len(group) for group in members))):
        group = padded(rows, members[some])
        # A tensor each: views would keep the whole chunk in memory for one class of it.
        new = torch._foreach_mul([full[c] for c in classes[some]], kept[some].tolist())
        torch._foreach_add_(new, (group.mT @ group).unbind())
        for c, matrix in zip(classes[some], new, strict=True):
            full[c] = matrix
    return tuple(full)


class Estimator:
    """Running moments of a training run, as state that a checkpoint keeps."""

    def __init__(
        self, num_classes: int, dim: int, form: Form, device: torch.device | str = "cpu"
    ) -> None:
        """Start with no samples and zero moments."""
        self._state = start(num_classes, dim, form, device=device)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add one batch; see the function ``update``."""
        self._state = update(self._state, features, labels)

    def replace(self, covariances: Full | Diagonal) -> None:
        """Overwrite all covariances, in the form of the estimator; counts and means stay."""
        new: tuple[Tensor, ...] | Tensor
        if isinstance(covariances, Diagonal):
            new = covariances.variances.detach()
        else:
            new = tuple(matrix.detach() for matrix in covariances.matrices)
        self._state = dataclasses.replace(self._state, covariances=new)

    @property
    def covariances(self) -> Full | Diagonal:
        """Covariances so far; a later update does not change them."""
        known = self._state.covariances
        return Diagonal(known) if isinstance(known, Tensor) else Full(known)

    @property
    def means(self) -> Tensor:
        """Class means so far, float32 [C, D], feature units."""
        return self._state.means

    def tensors(self) -> dict[str, Tensor]:
        """Counts, means and covariances, float32 [C, D, D] or [C, D], by name."""
        state = self._state
        return {"counts": state.counts, "means": state.means, "covariances": state.stacked()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``tensors`` returned, perhaps on another device."""
        device = self._state.means.device
        known = tensors["covariances"].to(device)
        diagonal = isinstance(self._state.covariances, Tensor)
        covariances = known if diagonal else known.unbind()
        means = tensors["means"].to(device)
        self._state = RunningMoments(tensors["counts"].cpu(), means, covariances)


def _membership(index: Tensor, like: Tensor) -> Tensor:
    """Membership of B rows in K classes, 0 or 1, [B, K], from an index int64 [B]."""
    classes = int(index.max()) + 1
    return to_device(torch.nn.functional.one_hot(index, classes).to(like.dtype), like.device)


def _batch_rows(
    means: Tensor, features: Tensor, index: Tensor, sizes: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """mu_b - mu, float [K, D], and rows G with G'G = w V_b + w (1 - w) (mu_b - mu)(mu_b - mu)'.

    G, float [B + K, D], is sqrt(w / m) (x - mu_b) for each sample, then sqrt(w (1 - w)) (mu_b - mu)
    for each class. ``index``, int64 [B], has the positions of the samples among the K classes.
    """

    def column(values: Tensor) -> Tensor:
        return to_device(values.to(means.dtype), means.device).unsqueeze(1)

    member_of = to_device(index, means.device)
    # Relative to the running mean: small numbers even if the features are large.
    shifted = features.to(means.dtype) - means[member_of]
    shifts = (_membership(index, means).T @ shifted) / column(sizes)
    inner = column((weights / sizes).sqrt()[index])
    outer = column((weights * (1 - weights)).sqrt())
    return shifts, torch.cat([inner * (shifted - shifts[member_of]), outer * shifts])
