"""The variance of a logit difference: the quadratic term of ISDA, MetaSAug and RISDA.

    Q[u, c] = (w_c - w_u)' Sigma_u (w_c - w_u)

It depends on the label u, not on the sample, so each class of a batch needs one row and [B, C, D]
never exists. ``Sigma_u`` is a full matrix, a diagonal, a factor F_u with Sigma_u = F_u' F_u, or the
sum of a factor's and a diagonal, in feature units squared. All are constants of the loss.

Every form has two methods: ``q_rows`` gives Q of some classes, float [U, C], from centred class
vectors float [C, D]; ``mixed`` replaces the covariances of some classes by mixtures
sum_i weights[c, i] Sigma_i, with weights float [C, C], at least 0, on the device.

Source of the term: Wang, Pan, Song, Zhang, Wu, Huang, NeurIPS 2019, arXiv 1909.12220.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ltcli.compute.transfer import to_device
from ltcli.stats.chunks import batched, chunks, padded


@dataclass(frozen=True)
class Full:
    """Covariance matrices: C tensors, symmetric, float [D, D]; or one [C, D, D]."""

    matrices: Sequence[Tensor] | Tensor

    def q_rows(self, centred: Tensor, classes: list[int]) -> Tensor:
        """Q of some classes, float [U, C]."""
        if not batched(centred.device):
            return torch.stack([_full_row(centred, c, self.matrices[c]) for c in classes])
        rows = []
        for some in chunks(len(classes), max(centred.numel(), centred.shape[1] ** 2)):
            matrices = torch.stack([self.matrices[c] for c in classes[some]])
            rows.append(_full_rows(centred, classes[some], matrices))
        return torch.cat(rows)

    def mixed(self, weights: Tensor, classes: list[int]) -> Full:
        """Covariances with mixtures for some classes."""
        if not classes:
            return self
        known = self.matrices
        stacked = known if isinstance(known, Tensor) else torch.stack(tuple(known))
        mixed = torch.tensordot(weights[_index(classes, weights)], stacked, dims=1)
        # A list of matrices: those of the other classes are shared, not copied.
        matrices = list(known)
        for c, matrix in zip(classes, mixed, strict=True):
            matrices[c] = matrix
        return Full(matrices)


@dataclass(frozen=True)
class Diagonal:
    """Variances of the features within the classes, float [C, D]."""

    variances: Tensor

    def q_rows(self, centred: Tensor, classes: list[int]) -> Tensor:
        """Q of some classes, float [U, C].

        Q[u, c] = sum_d s_ud w_cd^2 - 2 sum_d s_ud w_ud w_cd + sum_d s_ud w_ud^2.
        """
        # Two products of matrices and no [U, C, D].
        where = _index(classes, centred)
        own, spread = centred[where], self.variances[where]
        scaled = spread * own
        squares = spread @ centred.square().T
        rows = squares - 2 * scaled @ centred.T + (scaled * own).sum(1, keepdim=True)
        # A class does not differ from itself; rounding would leave a little.
        return rows.scatter(1, where.unsqueeze(1), 0.0)

    def mixed(self, weights: Tensor, classes: list[int]) -> Diagonal:
        """Variances with mixtures for some classes."""
        if not classes:
            return self
        where = _index(classes, weights)
        return Diagonal(self.variances.index_copy(0, where, weights[where] @ self.variances))


@dataclass(frozen=True)
class Factor:
    """Factors of the covariances: Sigma_c = F_c' F_c.

    F_c is ``rows[offsets[c] : offsets[c + 1]]`` of rows float [R, D], feature units; ``mixtures``
    has, by class, the (i, weight) whose covariances its own is a mixture of.
    """

    rows: Tensor
    offsets: Sequence[int]
    mixtures: Mapping[int, Sequence[tuple[int, float]]] = field(default_factory=dict)

    def factor(self, c: int) -> Tensor:
        """F_c, float [r, D]."""
        if c not in self.mixtures:
            return self._own(c)
        # sum_i m_i Sigma_i has the rows sqrt(m_i) F_i of all its members.
        members = [self._own(i) * math.sqrt(weight) for i, weight in self.mixtures[c]]
        return torch.cat([self.rows[:0], *members])

    def q_rows(self, centred: Tensor, classes: list[int]) -> Tensor:
        """Q of some classes, float [U, C]."""
        if not batched(centred.device):
            return torch.stack([self._row(centred, c) for c in classes])
        members = [self._members(c) for c in classes]
        count, dim = centred.shape
        longest = max(len(group) for group in members)
        rows = []
        for some in chunks(len(classes), max(count, longest, dim) * max(longest, dim)):
            factors = padded(self.rows, members[some])
            if _by_matrix(longest, count, dim):
                matrices = factors.mT @ factors
                rows.append(_full_rows(centred, classes[some], matrices))
                continue
            products = centred @ factors.mT
            own = factors @ centred[_index(classes[some], centred)].unsqueeze(2)
            rows.append((products - own.mT).square().sum(2))
        # A class does not differ from itself; two orders of one product may, by rounding.
        where = _index(classes, centred).unsqueeze(1)
        return torch.cat(rows).scatter(1, where, 0.0)

    def mixed(self, weights: Tensor, classes: list[int]) -> Factor:
        """Factors with mixtures for some classes; this waits for the device to know the members."""
        if not classes:
            return self
        # Only noted here and gathered on use: kept, they would take many times the memory. Of
        # thousands of classes each borrows from a few, hence the sparse form.
        chosen = weights[classes].to_sparse()
        borrowers, members = chosen.indices().tolist()
        mixtures: dict[int, list[tuple[int, float]]] = {c: [] for c in classes}
        for k, i, weight in zip(borrowers, members, chosen.values().tolist(), strict=True):
            mixtures[classes[k]].append((i, weight))
        return Factor(self.rows, self.offsets, mixtures)

    def _row(self, centred: Tensor, c: int) -> Tensor:
        factor = self.factor(c)
        (rows, dim), classes = factor.shape, len(centred)
        if _by_matrix(rows, classes, dim):
            return _full_row(centred, c, factor.T @ factor)
        # The difference of the products is as exact, and less to compute.
        products = centred @ factor.T
        return (products - products[c]).square().sum(1)

    def _members(self, c: int) -> list[tuple[int, float]]:
        """Rows of F_c and the factor of each."""
        return [
            (row, math.sqrt(weight))
            for i, weight in self.mixtures.get(c, [(c, 1.0)])
            for row in range(self.offsets[i], self.offsets[i + 1])
        ]

    def _own(self, c: int) -> Tensor:
        return self.rows[self.offsets[c] : self.offsets[c + 1]]


@dataclass(frozen=True)
class LowRank:
    """Covariances of a few directions each, F_c of few rows, and the variances that these leave."""

    directions: Factor
    rest: Diagonal

    def q_rows(self, centred: Tensor, classes: list[int]) -> Tensor:
        """Q of some classes, float [U, C]."""
        return self.rest.q_rows(centred, classes) + self.directions.q_rows(centred, classes)

    def mixed(self, weights: Tensor, classes: list[int]) -> LowRank:
        """Directions and variances with mixtures for some classes."""
        if not classes:
            return self
        rest = self.rest.mixed(weights, classes)
        return LowRank(self.directions.mixed(weights, classes), rest)


Covariances = Full | Diagonal | Factor | LowRank


def by_sample(weight: Tensor, covariances: Covariances, labels: Tensor) -> Tensor:
    """Variances Q[y, c] of the logit differences of each sample, float [B, C].

    For true covariances they are 0 at c = y and not negative, to rounding. Gradients flow to the
    class vectors float [C, D]. Labels int64 [B] on the CPU spare it from waiting for the device.
    """
    present, position = torch.unique(labels.cpu(), return_inverse=True)
    # Relative to the mean class vector, which changes no difference and loses fewer digits.
    rows = covariances.q_rows(weight - weight.mean(0), present.tolist())
    return rows[to_device(position, weight.device)]


def as_matrices(covariances: Full | Factor | LowRank, classes: list[int]) -> Full:
    """Covariances of some classes as matrices; those of the others are zero."""
    if isinstance(covariances, Full):
        return covariances
    directions = covariances if isinstance(covariances, Factor) else covariances.directions
    dim = directions.rows.shape[1]
    # One zero matrix stands for all classes that nobody asked for.
    matrices = [directions.rows.new_zeros(dim, dim)] * (len(directions.offsets) - 1)
    for c in classes:
        factor = directions.factor(c)
        matrices[c] = factor.T @ factor
        if isinstance(covariances, LowRank):
            matrices[c].diagonal().add_(covariances.rest.variances[c])
    return Full(matrices)


def _index(classes: list[int], like: Tensor) -> Tensor:
    """Classes as int64 [U] on the device of a tensor."""
    return to_device(torch.tensor(classes, dtype=torch.int64), like.device)


def _by_matrix(rows: int, classes: int, dim: int) -> bool:
    """Whether F'F takes fewer multiplications over D than the products with the rows of F."""
    # Forward and backward: the backward pass of the matrix needs no product.
    return (rows + classes) * dim < 2 * classes * rows


def _full_rows(centred: Tensor, classes: list[int], matrices: Tensor) -> Tensor:
    """Q of some classes, float [U, C], for matrices float [U, D, D]; as ``_full_row``."""
    own = centred[_index(classes, centred)].unsqueeze(1)
    rows: Tensor = _FullRow.apply(centred - own, matrices)
    return rows


def _full_row(centred: Tensor, c: int, matrix: Tensor) -> Tensor:
    """Q[c], float [C], for one covariance matrix."""
    # Differences before squaring, which keeps the digits if class vectors are close.
    row: Tensor = _FullRow.apply(centred - centred[c], matrix)
    return row


class _FullRow(torch.autograd.Function):
    """sum_d (A S)[c, d] A[c, d] for a symmetric constant S, of one class or of several.

    The backward pass needs no second product.
    """

    @staticmethod
    def forward(ctx: Any, differences: Tensor, matrix: Tensor) -> Tensor:
        """Return float [..., C] for differences [..., C, D] and matrices [..., D, D]."""
        product = differences @ matrix
        ctx.save_for_backward(product)
        return (product * differences).sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return 2 g (A S)."""
        (product,) = ctx.saved_tensors
        return 2 * grads[0].unsqueeze(-1) * product, None
