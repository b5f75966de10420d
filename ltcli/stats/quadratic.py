"""The variance of a logit difference: the quadratic term of ISDA, MetaSAug and RISDA.

    Q[u, c] = (w_c - w_u)' Sigma_u (w_c - w_u)

It depends on the label u, not on the sample, so one row is computed for each class of a batch and
[B, C, D] never exists. Class vectors are taken relative to their mean and, but for a diagonal,
differences before squaring, which keeps the digits where the vectors are close. ``Sigma_u`` is a
full matrix, a diagonal, a factor F_u with Sigma_u = F_u' F_u, or the sum of a factor's and a
diagonal, all of them constants of the loss.

Source of the term: Wang, Pan, Song, Zhang, Wu, Huang, NeurIPS 2019, arXiv 1909.12220.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import torch
from torch import Tensor

from ltcli.compute.transfer import to_device


@dataclass(frozen=True)
class Full:
    """Covariance matrices of the classes.

    Attributes:
        matrices: C tensors, symmetric, float [D, D], feature units squared; or one [C, D, D].
    """

    matrices: Sequence[Tensor] | Tensor

    def row(self, weight: Tensor, c: int) -> Tensor:
        """Return Q[c], float [C], of class vectors float [C, D]."""
        row: Tensor = _FullRow.apply(weight - weight[c], self.matrices[c])
        return row


@dataclass(frozen=True)
class Diagonal:
    """Variances of the features within the classes.

    Attributes:
        variances: float [C, D], feature units squared.
    """

    variances: Tensor


@dataclass(frozen=True)
class Factor:
    """Factors of the classes' covariances: Sigma_c = F_c' F_c.

    A mixture sum_i m_i Sigma_i has the rows sqrt(m_i) F_i of all its members. They are gathered
    when they are needed: kept, they would take many times the memory of ``rows``.

    Attributes:
        rows: float [R, D], feature units.
        offsets: C + 1 positions; F_c is ``rows[offsets[c] : offsets[c + 1]]``.
        mixtures: Class to the (i, m_i) that its covariance is a mixture of.
    """

    rows: Tensor
    offsets: Sequence[int]
    mixtures: Mapping[int, Sequence[tuple[int, float]]] = field(default_factory=dict)

    def factor(self, c: int) -> Tensor:
        """Return F_c, float [r, D]."""
        if c not in self.mixtures:
            return self._own(c)
        members = [self._own(i) * math.sqrt(share) for i, share in self.mixtures[c]]
        return torch.cat([self.rows[:0], *members])

    def row(self, weight: Tensor, c: int) -> Tensor:
        """Return Q[c], float [C], of class vectors float [C, D]."""
        factor = self.factor(c)
        (rows, dim), classes = factor.shape, len(weight)
        # Multiplications over D, forward and backward: of one matrix for the moment, whose backward
        # pass needs no product, against those of the rows.
        if (rows + classes) * dim < 2 * classes * rows:
            row: Tensor = _FullRow.apply(weight - weight[c], factor.T @ factor)
            return row
        # The difference of the products is as good, and less to compute.
        products = weight @ factor.T
        return (products - products[c]).square().sum(1)

    def _own(self, c: int) -> Tensor:
        return self.rows[self.offsets[c] : self.offsets[c + 1]]


@dataclass(frozen=True)
class LowRank:
    """Covariances that are the sum of some directions and of what these leave.

    Attributes:
        directions: F_c of few rows.
        rest: Variances beside F_c' F_c.
    """

    directions: Factor
    rest: Diagonal


Covariances = Full | Diagonal | Factor | LowRank


def difference_variances(weight: Tensor, covariances: Covariances, classes: list[int]) -> Tensor:
    """Return the variance of every logit difference for features of the given classes.

    Args:
        weight: float [C, D], class vectors; gradients flow to them.
        covariances: Of all classes, detached.
        classes: The U classes wanted.

    Returns:
        float [U, C], Q[u, c]; for true covariances zero at c = u and not negative, to rounding.
    """
    # Relative to the mean class vector, which changes no difference and loses fewer digits.
    centred = weight - weight.mean(0)
    if isinstance(covariances, Diagonal):
        return _diagonal_rows(centred, covariances.variances, classes)
    if isinstance(covariances, LowRank):
        rest = _diagonal_rows(centred, covariances.rest.variances, classes)
        return rest + torch.stack([covariances.directions.row(centred, c) for c in classes])
    return torch.stack([covariances.row(centred, c) for c in classes])


def by_sample(weight: Tensor, covariances: Covariances, labels: Tensor) -> Tensor:
    """Return ``difference_variances`` of each sample's class, float [B, C].

    Args:
        weight: float [C, D].
        covariances: Of all classes.
        labels: int64 [B]; on the CPU, or this waits for the device.
    """
    present, position = torch.unique(labels.cpu(), return_inverse=True)
    rows = difference_variances(weight, covariances, present.tolist())
    return rows[to_device(position, weight.device)]


def as_matrices(covariances: Full | Factor | LowRank, classes: list[int]) -> Full:
    """Return the covariances of some classes as matrices; those of the others are zero."""
    if isinstance(covariances, Full):
        return covariances
    directions = covariances if isinstance(covariances, Factor) else covariances.directions
    dim = directions.rows.shape[1]
    # One for all classes that are not wanted.
    matrices = [directions.rows.new_zeros(dim, dim)] * (len(directions.offsets) - 1)
    for c in classes:
        factor = directions.factor(c)
        matrices[c] = factor.T @ factor
        if isinstance(covariances, LowRank):
            matrices[c].diagonal().add_(covariances.rest.variances[c])
    return Full(matrices)


@overload
def mix(covariances: Factor, shares: Tensor, classes: list[int]) -> Factor: ...
@overload
def mix(covariances: Diagonal, shares: Tensor, classes: list[int]) -> Diagonal: ...
@overload
def mix(covariances: Full | Diagonal, shares: Tensor, classes: list[int]) -> Full | Diagonal: ...
@overload
def mix(covariances: Covariances, shares: Tensor, classes: list[int]) -> Covariances: ...
def mix(covariances: Covariances, shares: Tensor, classes: list[int]) -> Covariances:
    """Replace the covariances of some classes by mixtures of all.

    Matrices and variances are mixed at once; factors when they are needed, and this waits for the
    device to know of which.

    Args:
        covariances: Of all C classes.
        shares: float [C, C], at least 0, on the device; class c gets sum_i shares[c, i] Sigma_i.
        classes: Those that are replaced; the others stay as they are.
    """
    if not classes:
        return covariances
    if isinstance(covariances, LowRank):
        directions = mix(covariances.directions, shares, classes)
        return LowRank(directions, mix(covariances.rest, shares, classes))
    if isinstance(covariances, Factor):
        # Of thousands of classes, each borrows from a few.
        chosen = shares[classes].to_sparse()
        borrowers, members = chosen.indices().tolist()
        mixtures: dict[int, list[tuple[int, float]]] = {c: [] for c in classes}
        for k, i, share in zip(borrowers, members, chosen.values().tolist(), strict=True):
            mixtures[classes[k]].append((i, share))
        return Factor(covariances.rows, covariances.offsets, mixtures)
    where = to_device(torch.tensor(classes, dtype=torch.int64), shares.device)
    if isinstance(covariances, Diagonal):
        variances = covariances.variances
        return Diagonal(variances.index_copy(0, where, shares[where] @ variances))
    known = covariances.matrices
    stacked = known if isinstance(known, Tensor) else torch.stack(tuple(known))
    matrices = list(known)
    mixed = torch.tensordot(shares[where], stacked, dims=1)
    for c, matrix in zip(classes, mixed, strict=True):
        matrices[c] = matrix
    return Full(matrices)


def _diagonal_rows(centred: Tensor, variances: Tensor, classes: list[int]) -> Tensor:
    """Return the rows for variances [C, D] with two matrix products and no [U, C, D].

    Q[u, c] = sum_d s_ud w_cd^2 - 2 sum_d s_ud w_ud w_cd + sum_d s_ud w_ud^2.
    """
    where = to_device(torch.tensor(classes, dtype=torch.int64), centred.device)
    own, spread = centred[where], variances[where]
    scaled = spread * own
    squares = spread @ centred.square().T
    rows = squares - 2 * scaled @ centred.T + (scaled * own).sum(1, keepdim=True)
    # A class does not differ from itself; rounding would leave a little.
    return rows.scatter(1, where.unsqueeze(1), 0.0)


class _FullRow(torch.autograd.Function):
    """sum_d (A S)[c, d] A[c, d] for a symmetric constant S; backward needs no second product."""

    @staticmethod
    def forward(ctx: Any, differences: Tensor, matrix: Tensor) -> Tensor:
        """Return float [C] of differences float [C, D] and matrix float [D, D]."""
        product = differences @ matrix
        ctx.save_for_backward(product)
        return (product * differences).sum(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return 2 g (A S)."""
        (product,) = ctx.saved_tensors
        return 2 * grads[0].unsqueeze(1) * product, None
