"""Class means and covariances of features, in float64 and in bounded memory.

A class's samples are gathered in input order and summed in blocks of ``BLOCK``, so that its moments
depend on nothing but those samples: not on the other classes, nor on how the features were batched.
Covariances are taken around the mean in a second pass, one matrix product a block; features of mean
1000 keep their digits. Features and labels are on one device, which must know float64.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ltcli.core.errors import DataError, NumericalError, ParamError

BLOCK = 4096


def require_finite(where: str, name: str, values: Tensor) -> None:
    """Refuse NaN and infinity, and name the first sample that has one.

    Args:
        where: What the message is about.
        name: What the values are, in the plural.
        values: float [N, D].

    Raises:
        NumericalError: A value is not finite.
    """
    for first in range(0, len(values), BLOCK):
        finite = torch.isfinite(values[first : first + BLOCK]).all(dim=1)
        if not finite.all():
            sample = first + int(torch.nonzero(~finite)[0])
            row = values[sample]
            value = float(row[~torch.isfinite(row)][0])
            raise NumericalError(where, f"{name} must be finite, got {value} in sample {sample}")


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Count the samples of each class.

    Args:
        labels: int64 [N], each in 0 ... num_classes - 1.
        num_classes: C.

    Returns:
        int64 [C].

    Raises:
        DataError: A label is out of its range.
    """
    outside = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(outside):
        sample = int(outside[0])
        raise DataError(
            "class counts",
            f"labels must be in 0 ... {num_classes - 1}, got {int(labels[sample])} "
            f"for sample {sample}",
        )
    return torch.bincount(labels, minlength=num_classes)


def class_rows(labels: Tensor, num_classes: int) -> Iterator[tuple[int, Tensor]]:
    """Walk over the classes that have samples, in ascending order.

    Args:
        labels: int64 [N].
        num_classes: C.

    Yields:
        The class, and the indices of its samples, int64 [n_c], ascending.
    """
    counts: list[int] = class_counts(labels, num_classes).tolist()
    order = torch.argsort(labels, stable=True)
    stop = 0
    for c, count in enumerate(counts):
        start, stop = stop, stop + count
        if count:
            yield c, order[start:stop]


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Average the features of each class.

    Args:
        features: float [N, D], in feature units.
        labels: int64 [N].
        num_classes: C.

    Returns:
        float64 [C, D], zero for a class without samples.

    Raises:
        NumericalError: A feature is not finite.
    """
    require_finite("class moments", "features", features)
    shape = (num_classes, features.shape[1])
    sums = torch.zeros(shape, dtype=torch.float64, device=features.device)
    for c, rows in class_rows(labels, num_classes):
        for block in torch.split(rows, BLOCK):
            sums[c] += features[block].to(torch.float64).sum(dim=0)
    return sums / class_counts(labels, num_classes).clamp(min=1).unsqueeze(1)


def full_covariances(features: Tensor, labels: Tensor, num_classes: int, *, ddof: int) -> Tensor:
    """Estimate the covariance matrix of each class.

    Args:
        features: float [N, D], in feature units.
        labels: int64 [N].
        num_classes: C.
        ddof: The sums are divided by n_c - ddof: 0 for the population form, 1 for the unbiased one.

    Returns:
        float32 [C, D, D], feature units squared; zero for a class of no more than ddof samples.

    Raises:
        NumericalError: A feature is not finite.
    """
    dim = features.shape[1]
    shape = (num_classes, dim, dim)
    covariances = torch.zeros(shape, dtype=torch.float32, device=features.device)
    for c, blocks in _centred_classes(features, labels, num_classes, ddof):
        total = torch.zeros(dim, dim, dtype=torch.float64, device=features.device)
        for block in blocks:
            total.addmm_(block.T, block)
        covariances[c] = total
    return covariances


def diagonal_covariances(
    features: Tensor, labels: Tensor, num_classes: int, *, ddof: int
) -> Tensor:
    """Estimate the variance of each feature within each class.

    Args:
        features: float [N, D], in feature units.
        labels: int64 [N].
        num_classes: C.
        ddof: The sums are divided by n_c - ddof, 0 or 1.

    Returns:
        float32 [C, D], feature units squared: the diagonals of ``full_covariances``.

    Raises:
        NumericalError: A feature is not finite.
    """
    shape = (num_classes, features.shape[1])
    variances = torch.zeros(shape, dtype=torch.float32, device=features.device)
    for c, blocks in _centred_classes(features, labels, num_classes, ddof):
        total = torch.zeros(shape[1], dtype=torch.float64, device=features.device)
        for block in blocks:
            total += block.square().sum(dim=0)
        variances[c] = total
    return variances


def factors(
    features: Tensor, labels: Tensor, num_classes: int, *, ddof: int
) -> tuple[Tensor, Tensor]:
    """Factor each class's covariance without forming it: Sigma_c = F_c' F_c.

    F_c holds the centred features over sqrt(n_c - ddof), one row a sample. A class of more than D
    samples has the triangular factor of these rows instead, which has the same F_c' F_c in D rows.

    Args:
        features: float [N, D], in feature units.
        labels: int64 [N].
        num_classes: C.
        ddof: The sums are divided by n_c - ddof, 0 or 1.

    Returns:
        Rows, float32 [R, D], feature units, and offsets, int64 [C + 1]: F_c is
        ``rows[offsets[c] : offsets[c + 1]]``, of min(n_c, D) rows.

    Raises:
        NumericalError: A feature is not finite.
    """
    dim = features.shape[1]
    sizes = class_counts(labels, num_classes).clamp(max=dim)
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    starts: list[int] = offsets.tolist()
    rows = torch.zeros(starts[-1], dim, dtype=torch.float32, device=features.device)
    for c, blocks in _centred_classes(features, labels, num_classes, ddof):
        factor = torch.zeros(0, dim, dtype=torch.float64, device=features.device)
        for block in blocks:
            factor = torch.cat([factor, block])
            if len(factor) > dim:
                factor = torch.linalg.qr(factor, mode="r").R
        rows[starts[c] : starts[c + 1]] = factor
    return rows, offsets


def _centred_classes(
    features: Tensor, labels: Tensor, num_classes: int, ddof: int
) -> Iterator[tuple[int, Iterator[Tensor]]]:
    """Yield each class that has a covariance, and its rows (x - mean) / sqrt(n_c - ddof)."""
    if ddof not in (0, 1):
        raise ParamError("covariances", f"ddof must be 0 or 1, got {ddof}")
    means = class_means(features, labels, num_classes)
    for c, rows in class_rows(labels, num_classes):
        if len(rows) > ddof:
            yield c, _centred_blocks(features, rows, means[c], (len(rows) - ddof) ** -0.5)


def _centred_blocks(features: Tensor, rows: Tensor, mean: Tensor, scale: float) -> Iterator[Tensor]:
    for block in torch.split(rows, BLOCK):
        yield (features[block].to(torch.float64) - mean) * scale
