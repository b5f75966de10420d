"""Class covariances in the forms that artifacts keep.

    full      Sigma_c, a matrix
    factor    F_c with Sigma_c = F_c' F_c: centred features over sqrt(n_c - ddof), one row a sample,
              or the triangular factor of these rows if they are more than D
    low-rank  the r leading directions of F_c and the variances that they leave:
              Sigma_c ~ L_c' L_c + diag(Sigma_c - L_c' L_c)
    diagonal  the diagonal of Sigma_c

The low-rank form is the factor at r = D and the diagonal at r = 0, and has the exact diagonal and
so the exact trace at every r. Let R be what r directions leave. The diagonal nearest to R in the
Frobenius norm is its own, and lowers the squared error by sum_d R_dd^2 >= (tr R)^2 / D. It costs as
much as one more direction, which lowers it by the square of the largest eigenvalue of R: less than
that if the variance left is spread evenly over more than sqrt(D) directions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ltcli.core.errors import ParamError
from ltcli.stats.moments import Moments, Rows, Scatter, class_counts, class_moments

Form = Literal["full", "factor", "low-rank", "diagonal"]


@dataclass(frozen=True)
class Estimate:
    """Class moments as the artifact keeps them.

    Attributes:
        tensors: means, float32 [C, D], feature units; counts, int64 [C]; and, feature units
            squared, full, float32 [C, D, D], or diagonal, float32 [C, D]; or rows, float32 [R, D],
            feature units, and offsets, int64 [C + 1]: F_c is rows[offsets[c] : offsets[c + 1]]. The
            low-rank form has rows, offsets, and a diagonal of the variances that the rows leave.
        relative_error: Low-rank form: ||Sigma_c - its approximation|| / ||Sigma_c||, in the
            Frobenius norm, averaged over the classes that have a covariance. Otherwise None.
    """

    tensors: dict[str, Tensor]
    relative_error: float | None = None


def estimate(
    features: Rows,
    labels: Tensor,
    num_classes: int,
    form: Form,
    *,
    ddof: int,
    rank: int | None = None,
) -> Estimate:
    """Class means and covariances of features with labels int64 [N]; more: see ``assemble``."""
    # The leading directions come from the exact factor.
    exact: Scatter = "factor" if form == "low-rank" else form
    moments = class_moments(features, labels, num_classes, exact)
    counts = class_counts(labels, num_classes)
    return assemble(moments, counts, features.shape[1], form, ddof=ddof, rank=rank)


def assemble(
    moments: Iterable[tuple[int, Moments]],
    counts: Tensor,
    dim: int,
    form: Form,
    *,
    ddof: int,
    rank: int | None = None,
) -> Estimate:
    """Estimate from the moments of the classes, one class in memory at a time.

    Each class of ``counts``, int64 [C], that has samples has its moments; for the low-rank form, of
    ``rank`` directions per class, their scatters are factors. Sums are divided by n_c - ``ddof``: 0
    for the population form, 1 for the unbiased one; a class of no more samples has a covariance of
    zero.
    """
    if ddof not in (0, 1):
        raise ParamError("covariances", f"ddof must be 0 or 1, got {ddof}")
    means = torch.zeros(len(counts), dim, device=counts.device)
    tensors = {"means": means, "counts": counts}
    scatters = _scatters(moments, means, ddof)
    if form == "full" or form == "diagonal":
        shape = (*means.shape, dim) if form == "full" else means.shape
        tensors[form] = torch.zeros(shape, device=counts.device)
        for c, scatter, divisor in scatters:
            # Rounded to float32 only here, after all sums.
            tensors[form][c] = scatter / divisor
        return Estimate(tensors)
    # A class of n samples has at most n directions, so the rows of all classes are laid end to end.
    kept = dim if rank is None else min(dim, rank)
    sizes = counts.clamp(max=kept)
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    starts: list[int] = offsets.tolist()
    rows = torch.zeros(starts[-1], dim, device=counts.device)
    tensors |= {"rows": rows, "offsets": offsets}
    if form == "factor":
        for c, scatter, divisor in scatters:
            rows[starts[c] : starts[c + 1]] = scatter / divisor**0.5
        return Estimate(tensors)
    tensors["diagonal"] = torch.zeros_like(means)
    errors = []
    for c, scatter, divisor in scatters:
        leading, left, error = truncated(scatter / divisor**0.5, kept)
        rows[starts[c] : starts[c + 1]], tensors["diagonal"][c] = leading, left
        errors.append(error)
    return Estimate(tensors, sum(errors) / max(1, len(errors)))


def truncated(factor: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Leading directions L, float64 [min(R, r), D], of F'F for F float64 [R, D], and what is left.

    That is the diagonal of F'F - L'L, float64 [D], and the relative error of both together in the
    Frobenius norm, 0 for a covariance of zero.
    """
    if len(factor) <= rank:
        return factor, torch.zeros_like(factor[0]), 0.0
    _, lengths, directions = torch.linalg.svd(factor, full_matrices=False)
    leading = lengths[:rank].unsqueeze(1) * directions[:rank]
    # Never below zero but by rounding, and a variance must not be.
    left = (factor.square().sum(0) - leading.square().sum(0)).clamp(min=0)
    powers = lengths.square().square()
    if not powers.sum():
        return leading, left, 0.0
    # Off its diagonal, what is left has the squared norm sum_{i > r} s_i^4 - sum_d left_d^2.
    missed = (powers[rank:].sum() - left.square().sum()).clamp(min=0)
    return leading, left, float((missed / powers.sum()).sqrt())


def _scatters(
    moments: Iterable[tuple[int, Moments]], means: Tensor, ddof: int
) -> Iterator[tuple[int, Tensor, int]]:
    """Write the means, and yield class, scatter and divisor of classes that have a covariance."""
    for c, known in moments:
        means[c] = known.mean
        # With n - 1, one sample has no covariance: zero stays, not 0 / 0.
        if known.count > ddof:
            yield c, known.scatter, known.count - ddof
