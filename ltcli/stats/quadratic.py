"""The variance of a logit difference: the quadratic term of ISDA, MetaSAug and RISDA.

    Q[u, c] = (w_c - w_u)' Sigma_u (w_c - w_u)

It depends on the label u, not on the sample, so one row is computed for each class of a batch and
[B, C, D] never exists. Differences are taken before squaring, which keeps the digits where the
class vectors are close. ``Sigma_u`` is a full matrix, a diagonal, or a factor F_u with
Sigma_u = F_u' F_u, all of them constants of the loss.

Source of the term: Wang, Pan, Song, Zhang, Wu, Huang, NeurIPS 2019, arXiv 1909.12220.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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

    Attributes:
        rows: float [R, D], feature units.
        offsets: C + 1 positions; F_c is ``rows[offsets[c] : offsets[c + 1]]``.
    """

    rows: Tensor
    offsets: Sequence[int]

    def row(self, weight: Tensor, c: int) -> Tensor:
        """Return Q[c], float [C], of class vectors float [C, D]."""
        factor = self.rows[self.offsets[c] : self.offsets[c + 1]]
        return ((weight - weight[c]) @ factor.T).square().sum(1)


Covariances = Full | Diagonal | Factor


def difference_variances(weight: Tensor, covariances: Covariances, classes: list[int]) -> Tensor:
    """Return the variance of every logit difference for features of the given classes.

    Args:
        weight: float [C, D], class vectors; gradients flow to them.
        covariances: Of all classes, detached.
        classes: The U classes wanted.

    Returns:
        float [U, C], Q[u, c]; zero at c = u, and never negative for true covariances.
    """
    if isinstance(covariances, Diagonal):
        return _diagonal_rows(weight, covariances.variances, classes)
    return torch.stack([covariances.row(weight, c) for c in classes])


def by_sample(weight: Tensor, covariances: Covariances, labels: Tensor) -> Tensor:
    """Return ``difference_variances`` of each sample's class, float [B, C].

    Args:
        weight: float [C, D].
        covariances: Of all classes.
        labels: int64 [B].
    """
    present, position = torch.unique(labels, return_inverse=True)
    rows = difference_variances(weight, covariances, present.tolist())
    return rows[position]


def _diagonal_rows(weight: Tensor, variances: Tensor, classes: list[int]) -> Tensor:
    """Return the rows for variances [C, D] with two matrix products and no [U, C, D].

    Q[u, c] = sum_d s_ud w_cd^2 - 2 sum_d s_ud w_ud w_cd + sum_d s_ud w_ud^2, with w relative to the
    mean class vector, which changes no difference and loses fewer digits.
    """
    centred = weight - weight.mean(0)
    own, spread = centred[classes], variances[classes]
    scaled = spread * own
    squares = spread @ centred.square().T
    return squares - 2 * scaled @ centred.T + (scaled * own).sum(1, keepdim=True)


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
