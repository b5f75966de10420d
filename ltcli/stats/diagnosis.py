"""What the papers show as evidence, as numbers: spectra, errors, neighbours, divergences, donors.

Everything here is in float64 unless it says otherwise, and nothing is drawn at random.

Sources of what is measured: Li et al., CVPR 2021, arXiv 2103.12579, figures 2 and 4 (spectrum,
confusion); Chu et al., ECCV 2020, arXiv 2008.03673, figure 7 (confusion); Chen et al., AAAI 2022,
arXiv 2112.07928, equation 5 (what a tail class borrows).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ltcli.stats.confusion import top_confusing

# Distances that are held at a time.
_BLOCK = 2**24


@dataclass(frozen=True)
class Spectrum:
    """A covariance by its eigenvalues and the directions of the largest ones.

    Attributes:
        values: float64 [D], falling, feature units squared.
        leading: float64 [D, L], orthonormal columns; fewer where there are no more directions of
            positive variance.
    """

    values: Tensor
    leading: Tensor


def spectrum_of_factor(rows: Tensor, leading: int) -> Spectrum:
    """Return the spectrum of F'F.

    Args:
        rows: F, float [R, D], feature units; R may be 0.
        leading: Directions to keep, L.
    """
    values = torch.zeros(rows.shape[1], dtype=torch.float64)
    if not len(rows):
        return Spectrum(values, values.new_zeros(rows.shape[1], 0))
    _, lengths, directions = torch.linalg.svd(rows.to(torch.float64), full_matrices=False)
    values[: len(lengths)] = lengths.square()
    return Spectrum(values, directions.T[:, : _directions(values, leading)])


def spectrum_of_matrix(covariance: Tensor, leading: int) -> Spectrum:
    """Return the spectrum of a covariance that need not be a product, as a learned one.

    Args:
        covariance: float [D, D], of which the symmetric part counts, or variances [D]; feature
            units squared. Eigenvalues may be negative.
        leading: Directions to keep, L.
    """
    covariance = covariance.to(torch.float64)
    if covariance.dim() == 1:
        values, order = covariance.sort(descending=True, stable=True)
        directions = torch.eye(len(order), dtype=torch.float64)[:, order[:leading]]
        return Spectrum(values, directions[:, : _directions(values, leading)])
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    values, vectors = values.flip(0), vectors.flip(1)
    return Spectrum(values, vectors[:, : _directions(values, leading)])


def _directions(values: Tensor, leading: int) -> int:
    """Return how many of the leading eigenvalues are positive beyond float32 rounding."""
    return int((values[:leading] > 1e-6 * values[0].clamp(min=0)).sum())


def effective_rank(values: Tensor) -> float:
    """Return the exponential of the entropy of the shares of variance, 0 for no variance.

    It is k for k equal eigenvalues. Negative eigenvalues count as zero.

    Source: Roy, Vetterli, "The effective rank", EUSIPCO 2007.

    Args:
        values: float64 [D], eigenvalues.
    """
    positive = values.clamp(min=0)
    total = positive.sum()
    if total == 0:
        return 0.0
    return float(torch.special.entr(positive / total).sum().exp())


def captured(leading: Tensor, rows: Tensor) -> float:
    """Return the share of a covariance's variance that lies in a subspace, 0 ... 1.

    Args:
        leading: float64 [D, L], orthonormal columns.
        rows: float [R, D], F with covariance F'F; 0 is returned where there is no variance.
    """
    rows = rows.to(torch.float64)
    total = rows.square().sum()
    return float((rows @ leading).square().sum() / total) if total else 0.0


def principal_angles(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Return the principal angles of two subspaces in degrees, rising, float64 [count].

    A direction that a subspace of fewer dimensions lacks counts as 90 degrees away.

    Args:
        first: float64 [D, L], orthonormal columns, L at most ``count``.
        second: float64 [D, L'], likewise.
        count: Angles to return.
    """
    angles = torch.full((count,), 90.0, dtype=torch.float64)
    if first.shape[1] and second.shape[1]:
        cosines = torch.linalg.svdvals(first.T @ second).clamp(max=1)
        angles[: len(cosines)] = cosines.acos().rad2deg()
    return angles


def error_rates(graph: Tensor, head: Tensor) -> dict[str, dict[str, float | None]]:
    """Return which side errors come from and go to.

    Args:
        graph: float64 [C, C], rows of a confusion matrix, each summing to 1, or to 0 for a class
            without images.
        head: bool [C].

    Returns:
        ``rates``: mean over the classes of one side of the share of their images that are taken
        for another class of a side, keys such as ``head-tail`` for head images taken for tail
        classes, None for a side without images; ``shares``: the same as shares of all errors,
        every class counting alike, which sum to 1 where there are errors.
    """
    errors = graph.clone().fill_diagonal_(0)
    sides = {"head": head, "tail": ~head}
    sums = {
        f"{a}-{b}": errors[rows][:, columns].sum()
        for a, rows in sides.items()
        for b, columns in sides.items()
    }
    total, tested = errors.sum(), graph.sum(1) > 0
    sizes = {side: int((rows & tested).sum()) for side, rows in sides.items()}
    of_side = {k: sizes[k.partition("-")[0]] for k in sums}
    return {
        "rates": {k: float(v / of_side[k]) if of_side[k] else None for k, v in sums.items()},
        "shares": {k: float(v / total) if total else 0.0 for k, v in sums.items()},
    }


def divergences(means: Tensor, variances: Tensor) -> Tensor:
    """Return KL(i || j) between Gaussians with diagonal covariances, float64 [G, G], nats.

    Args:
        means: float [G, D].
        variances: float [G, D], at least 1e-12 is taken.
    """
    means = means.to(torch.float64)
    means = means - means.mean(0)  # the same divergences, with more digits
    spread = variances.to(torch.float64).clamp(min=1e-12)
    precision = spread.reciprocal()
    ratios = spread @ precision.T
    shifts = (
        means.square() @ precision.T
        - 2 * means @ (means * precision).T
        + (means.square() * precision).sum(1)
    )
    logs = spread.log().sum(1)
    volumes = logs - logs.unsqueeze(1)
    return (0.5 * (ratios + shifts - means.shape[1] + volumes)).clamp(min=0)


def within_and_across(matrix: Tensor, groups: Tensor) -> tuple[float | None, float | None]:
    """Return the means over ordered pairs of one group, and over those of two groups.

    Args:
        matrix: float [G, G]; the diagonal is left out.
        groups: int64 [G].

    Returns:
        The two means; None where there is no such pair.
    """
    same = groups.unsqueeze(1) == groups
    pairs = ~torch.eye(len(groups), dtype=torch.bool)
    found = [matrix[mask & pairs] for mask in (same, ~same)]
    within, across = (float(v.mean()) if len(v) else None for v in found)
    return within, across


def nearest(queries: Tensor, bank: Tensor, k: int, left_out: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest features of a bank.

    Args:
        queries: float [S, D].
        bank: float [N, D].
        k: Neighbours, K, less than N.
        left_out: int64 [S], a row of the bank that is no neighbour: the query's own image.

    Returns:
        Distances, float32 [S, K], feature units, rising, and rows of the bank, int64 [S, K].
    """
    distances, rows = [], []
    # Large distances are computed from squares, which lose digits far from the origin.
    bank = bank.float()
    centre = bank.mean(0)
    queries, bank = queries.float() - centre, bank - centre
    step = max(1, _BLOCK // len(bank))
    for first in range(0, len(queries), step):
        some = slice(first, first + step)
        found = torch.cdist(queries[some], bank)
        found.scatter_(1, left_out[some].unsqueeze(1), torch.inf)
        values, places = found.topk(k, largest=False, sorted=True)
        distances.append(values)
        rows.append(places)
    return torch.cat(distances), torch.cat(rows)


def risda_donors(graph: Tensor, traces: Tensor, tail: Tensor) -> Tensor:
    """Return the shares of variance in a tail class's reasoning covariance.

    Sigma_c + sum_{i != c} graph[c, i] Sigma_i, by its trace; the class's own share is its own.

    Args:
        graph: float [C, C], share of class-i training images predicted as j.
        traces: float64 [C], traces of the covariances, feature units squared.
        tail: int64 [U], the tail classes.

    Returns:
        float64 [U, C], rows sum to 1, or to 0 where there is no variance.
    """
    weights = graph.double().clone().fill_diagonal_(1)[tail]
    lent = weights * traces.double()
    return lent / lent.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def fusion_donors(scores: Tensor, count: int, tail: Tensor) -> Tensor:
    """Return the shares of donor images in the fused features of each tail class.

    Each of its ``count`` most confusing classes gives one donor to every tail image.

    Args:
        scores: float [C, C], mean probability of j over class i.
        count: Donor classes, less than C.
        tail: int64 [U].

    Returns:
        float64 [U, C], rows sum to 1.
    """
    shares = torch.zeros(len(tail), len(scores), dtype=torch.float64)
    return shares.scatter_(1, top_confusing(scores, count)[tail], 1 / count)


def stg_donors(heads: Tensor, labels: Tensor, tail: Tensor, num_classes: int) -> Tensor:
    """Return how the images of each tail class share their nearest head classes.

    Args:
        heads: int64 [N], nearest head class of each training image.
        labels: int64 [N].
        tail: int64 [U].
        num_classes: C.

    Returns:
        float64 [U, C], rows sum to 1, or to 0 for a class without images.
    """
    pairs = torch.bincount(labels * num_classes + heads, minlength=num_classes**2)
    counts = pairs.view(num_classes, num_classes)[tail].double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def draw_gaussian(
    features: Tensor, rows: Tensor, strength: float, generator: torch.Generator
) -> Tensor:
    """Draw one augmented feature for each feature: N(f, strength F'F), as ISDA imagines them.

    Args:
        features: float [S, D].
        rows: float [R, D], F.
        strength: Factor of the covariance.
        generator: On the CPU.

    Returns:
        float32 [S, D].
    """
    noise = torch.randn(len(features), len(rows), generator=generator)
    drawn: Tensor = features.float() + strength**0.5 * noise @ rows.float()
    return drawn
