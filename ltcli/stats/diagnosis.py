"""The evidence of the papers as numbers: spectra, errors, neighbours, divergences, donors.

Everything here is in float64 unless it says otherwise, and only ``draw_gaussian`` is random.

Sources of the measures: Li et al., CVPR 2021, arXiv 2103.12579, figures 2 and 4 (spectrum,
confusion); Chu et al., ECCV 2020, arXiv 2008.03673, figure 7 (confusion); Chen et al., AAAI 2022,
arXiv 2112.07928, equation 5 (donors of a tail class).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ltcli.stats.confusion import top_confusing

# Distances held at a time, to bound memory: 64 MB.
_BLOCK = 2**24


@dataclass(frozen=True)
class Spectrum:
    """A covariance by its eigenvalues and the directions of the largest ones.

    Attributes:
        values: float64 [D], falling, feature units squared.
        leading: float64 [D, L], orthonormal columns, those of positive variance alone.
    """

    values: Tensor
    leading: Tensor


def spectrum_of_factor(rows: Tensor, leading: int) -> Spectrum:
    """Spectrum of F'F for F in ``rows``, float [R, D], R >= 0; at most ``leading`` directions."""
    # Singular values of F keep the digits that squaring to F'F would lose.
    _, lengths, directions = torch.linalg.svd(rows.to(torch.float64), full_matrices=False)
    values = lengths.new_zeros(rows.shape[1])
    values[: len(lengths)] = lengths.square()
    return _cut(values, directions.T, leading)


def spectrum_of_matrix(covariance: Tensor, leading: int) -> Spectrum:
    """Spectrum of a covariance that need not be a product, such as a learned one.

    ``covariance`` is float [D, D], of which the symmetric part counts, or variances [D], in feature
    units squared. Eigenvalues may be negative.
    """
    covariance = covariance.to(torch.float64)
    if covariance.dim() == 1:
        values, order = covariance.sort(descending=True, stable=True)
        return _cut(values, torch.eye(len(order), dtype=torch.float64)[:, order], leading)
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    return _cut(values.flip(0), vectors.flip(1), leading)


def _cut(values: Tensor, directions: Tensor, leading: int) -> Spectrum:
    # Eigenvalues below a millionth of the largest are rounding of float32 features.
    known = int((values[:leading] > 1e-6 * values[0].clamp(min=0)).sum())
    return Spectrum(values, directions[:, :known])


def effective_rank(values: Tensor) -> float:
    """Exponential of the entropy of the shares of variance: k for k equal eigenvalues.

    Of the eigenvalues, float64 [D], negative ones count as zero, and no variance gives 0.

    Source: Roy, Vetterli, "The effective rank", EUSIPCO 2007.
    """
    positive = values.clamp(min=0)
    total = positive.sum()
    return float(torch.special.entr(positive / total).sum().exp()) if total else 0.0


def captured(leading: Tensor, rows: Tensor) -> float:
    """Share of the variance of F'F that lies in a subspace, 0 ... 1; 0 without variance.

    ``leading``, float64 [D, L], has the orthonormal columns of the subspace; ``rows`` is F, float
    [R, D].
    """
    rows = rows.to(torch.float64)
    total = rows.square().sum()
    return float((rows @ leading).square().sum() / total) if total else 0.0


def principal_angles(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Principal angles of two subspaces in degrees, rising, float64 [count].

    A direction that the smaller subspace lacks counts as 90 degrees away. Both have orthonormal
    columns, float64 [D, L], L at most ``count``.
    """
    angles = torch.full((count,), 90.0, dtype=torch.float64)
    # Rounding may give a cosine above 1, whose angle is not a number.
    cosines = torch.linalg.svdvals(first.T @ second).clamp(max=1)
    angles[: len(cosines)] = cosines.acos().rad2deg()
    return angles


def error_rates(graph: Tensor, head: Tensor) -> dict[str, dict[str, float | None]]:
    """Errors between head and tail classes, keys such as ``head-tail`` for head taken for tail.

    Args:
        graph: float64 [C, C], rows of a confusion matrix, each summing to 1, or to 0 for a class
            without images.
        head: bool [C].

    Returns:
        ``rates``: mean over the classes of a side of the share of their images taken for another
        class; None for a side without images. ``shares``: the same as shares of all errors, which
        sum to 1 where there are errors. Every class counts alike.
    """
    errors = graph.clone().fill_diagonal_(0)
    sides = {"head": head, "tail": ~head}
    sums = {
        f"{a}-{b}": errors[rows][:, columns].sum()
        for a, rows in sides.items()
        for b, columns in sides.items()
    }
    total, tested = errors.sum(), graph.sum(1) > 0
    sizes = {k: int((sides[k.partition("-")[0]] & tested).sum()) for k in sums}
    return {
        "rates": {k: float(v / sizes[k]) if sizes[k] else None for k, v in sums.items()},
        "shares": {k: float(v / total) if total else 0.0 for k, v in sums.items()},
    }


def divergences(means: Tensor, variances: Tensor) -> Tensor:
    """KL(i || j) between Gaussians with diagonal covariances, float64 [G, G], nats.

    Means and variances are float [G, D]; variances below 1e-12 count as 1e-12.
    """
    means = means.to(torch.float64)
    # The divergences stay the same, with more digits.
    means = means - means.mean(0)
    spread = variances.to(torch.float64).clamp(min=1e-12)
    precision = spread.reciprocal()
    ratios = spread @ precision.T
    # (m_i - m_j)^2 / v_j, multiplied out: a table [G, G, D] could be gigabytes.
    shifts = (
        means.square() @ precision.T
        - 2 * means @ (means * precision).T
        + (means.square() * precision).sum(1)
    )
    logs = spread.log().sum(1)
    volumes = logs - logs.unsqueeze(1)
    return (0.5 * (ratios + shifts - means.shape[1] + volumes)).clamp(min=0)


def within_and_across(matrix: Tensor, groups: Tensor) -> tuple[float | None, float | None]:
    """Means over ordered pairs of one group and of two groups; None without such a pair.

    ``matrix`` is float [G, G], whose diagonal is left out, and ``groups`` int64 [G].
    """
    same = groups.unsqueeze(1) == groups
    pairs = ~torch.eye(len(groups), dtype=torch.bool)
    found = [matrix[mask & pairs] for mask in (same, ~same)]
    within, across = (float(v.mean()) if len(v) else None for v in found)
    return within, across


def nearest(queries: Tensor, bank: Tensor, k: int, left_out: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the nearest features of a bank, float32 [S, K], rising, and their rows, int64.

    Args:
        queries: float [S, D].
        bank: float [N, D].
        k: Neighbours, K, less than N.
        left_out: int64 [S], a row of the bank that is no neighbour: the query's own image.
    """
    distances, rows = [], []
    # Large distances are computed from squares, which lose digits far from the origin.
    bank = bank.float()
    centre = bank.mean(0)
    queries, bank = queries.float() - centre, bank - centre
    step = max(1, _BLOCK // len(bank))
    for some, own in zip(torch.split(queries, step), torch.split(left_out, step), strict=True):
        found = torch.cdist(some, bank).scatter_(1, own.unsqueeze(1), torch.inf)
        values, places = found.topk(k, largest=False, sorted=True)
        distances.append(values)
        rows.append(places)
    return torch.cat(distances), torch.cat(rows)


def risda_donors(graph: Tensor, traces: Tensor, tail: Tensor) -> Tensor:
    """Shares of variance in a tail class's reasoning covariance, float64 [U, C].

    The covariance is Sigma_c + sum_{i != c} graph[c, i] Sigma_i, measured by its trace. Rows sum to
    1, or to 0 where there is no variance.

    Args:
        graph: float [C, C], share of class-i training images predicted as j.
        traces: float64 [C], traces of the covariances, feature units squared.
        tail: int64 [U], the tail classes.
    """
    weights = graph.double().clone().fill_diagonal_(1)[tail]
    lent = weights * traces.double()
    return lent / lent.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def fusion_donors(scores: Tensor, count: int, tail: Tensor) -> Tensor:
    """Shares of donor images in the fused features of each tail class, float64 [U, C].

    Each of its ``count`` most confusing classes, less than C, gives one donor to every tail image;
    ``scores``, float [C, C], are the mean probabilities of j over class i. ``tail`` is int64 [U].
    """
    shares = torch.zeros(len(tail), len(scores), dtype=torch.float64)
    return shares.scatter_(1, top_confusing(scores, count)[tail], 1 / count)


def stg_donors(heads: Tensor, labels: Tensor, tail: Tensor, num_classes: int) -> Tensor:
    """Shares of the nearest head classes among the images of each tail class, float64 [U, C].

    Rows sum to 1, or to 0 for a class without images. ``heads`` and ``labels``, int64 [N], are
    nearest head class and class of each training image; ``tail`` is int64 [U].
    """
    pairs = torch.bincount(labels * num_classes + heads, minlength=num_classes**2)
    counts = pairs.view(num_classes, num_classes)[tail].double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def draw_gaussian(
    features: Tensor, rows: Tensor, strength: float, generator: torch.Generator
) -> Tensor:
    """One augmented feature for each feature, N(f, strength F'F) as in ISDA, float32 [S, D].

    ``features`` are float [S, D] and ``rows`` F, float [R, D]; the generator is on the CPU.
    """
    # F'n has covariance F'F for white noise n: no matrix need be made, or factorised.
    noise = torch.randn(len(features), len(rows), generator=generator)
    drawn: Tensor = features.float() + strength**0.5 * noise @ rows.float()
    return drawn
