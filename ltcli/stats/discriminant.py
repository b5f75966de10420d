"""Linear discriminant analysis: one Gaussian per class, with one covariance S for all.

    z_c = m_c' S^-1 f - m_c' S^-1 m_c / 2 + log prior_c

S is shrunk towards its own diagonal V: S = V^(1/2) ((1 - s) R + s I) V^(1/2), with R the
correlations within the classes, so that the units of the features do not matter. s = 0 is the
pooled covariance, s = 1 has independent features.

Source: Fisher, Annals of Eugenics 1936; Ledoit, Wolf, Journal of Multivariate Analysis 2004 (s).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltcli.core.errors import NumericalError
from ltcli.stats.quadratic import Covariances, Diagonal, Factor, Full, LowRank


def pooled(covariances: Covariances, weights: Tensor) -> Tensor:
    """Return the mean of the class covariances with weights [C] that sum to 1, float64 [D, D]."""
    weights = weights.double()
    if isinstance(covariances, Diagonal):
        return (weights @ covariances.variances.double()).diag()
    if isinstance(covariances, LowRank):
        return pooled(covariances.directions, weights) + pooled(covariances.rest, weights)
    if isinstance(covariances, Factor):
        sizes = torch.tensor(covariances.offsets).diff()
        rows = covariances.rows.double() * weights.repeat_interleave(sizes).sqrt().unsqueeze(1)
        return rows.T @ rows
    assert isinstance(covariances, Full)
    total = torch.zeros_like(covariances.matrices[0], dtype=torch.float64)
    for weight, matrix in zip(weights, covariances.matrices, strict=True):
        total += weight * matrix.double()
    return total


def shrinkage(residuals: Tensor) -> float:
    """Return the s that is estimated to bring S nearest to the true one, 0..1.

    Residuals are float [N, D], features without the mean of their class. Distances are those of
    Frobenius, between correlations.
    """
    scaled = residuals.double()
    scaled = scaled / _not_zero(scaled.square().mean(0).sqrt())
    count, dim = scaled.shape
    squares = scaled.square()
    correlation = scaled.T @ scaled / count
    spread = float((squares.sum(1).square().sum() / count - correlation.square().sum()) / count)
    mean = float(correlation.diagonal().mean())
    distance = float(correlation.square().sum()) - dim * mean**2
    return 1.0 if distance <= 0 else min(1.0, max(0.0, spread / distance))


def discriminant(means: Tensor, covariance: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """Return class vectors [C, D] and biases [C] for equal priors, float64.

    Means are float [C, D], the pooled covariance is float [D, D].

    Raises:
        NumericalError: The shrunk covariance cannot be inverted.
    """
    means, std = means.double(), _not_zero(covariance.double().diagonal().sqrt())
    correlation = (1 - s) * covariance.double() / std.outer(std)
    correlation.diagonal().add_(s)
    factor, failed = torch.linalg.cholesky_ex(correlation)
    # Rounding lets some singular matrices through.
    if failed or factor.diagonal().min() < 1e-7:
        rule = "the pooled covariance must have an inverse: the features depend on each other"
        raise NumericalError("lda", rule, "raise --shrinkage above 0")
    weight = torch.cholesky_solve((means / std).T, factor).T / std
    return weight, -(weight * means).sum(1) / 2


def _not_zero(std: Tensor) -> Tensor:
    # A feature that never varies within a class says nothing about it in these units.
    return torch.where(std > 0, std, 1.0)
