"""Class means and scatters of features, in float64, in one pass and in bounded memory.

A class's samples are gathered in input order and folded in blocks of ``BLOCK``, so that its moments
depend on nothing but those samples: not on the other classes, nor on how the features were batched.
Each row is read once. Every block is centred by its own mean, and blocks are joined as shards of a
data set are, by ``merge``; features of mean 1000 keep their digits. Features and labels are on one
device, which must know float64.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ltcli.core.errors import DataError, NumericalError

BLOCK = 4096

Scatter = Literal["full", "diagonal", "factor"]
"""How a scatter is kept: [D, D]; its diagonal [D]; or rows G [R, D] of G'G, R = min(count, D)."""


class Rows(Protocol):
    """Features [N, D] of which some rows can be had: a tensor, or those of an open artifact."""

    @property
    def shape(self) -> torch.Size:
        """[N, D]."""
        ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return the rows at the positions int64 [B]."""
        ...


@dataclass(frozen=True)
class Moments:
    """What is known of a set of samples, at least one.

    Attributes:
        count: Samples.
        mean: float64 [D], feature units.
        scatter: float64, sum over samples of (x - mean)(x - mean)', feature units squared, in one
            of the forms of ``Scatter``.
    """

    count: int
    mean: Tensor
    scatter: Tensor


def require_finite(where: str, name: str, values: Tensor, start: int = 0) -> None:
    """Refuse NaN and infinity, and name the first sample that has one.

    Args:
        where: What the message is about.
        name: What the values are, in the plural.
        values: float [N, D].
        start: Number of the first sample.

    Raises:
        NumericalError: A value is not finite.
    """
    for first in range(0, len(values), BLOCK):
        finite = torch.isfinite(values[first : first + BLOCK]).all(dim=1)
        if not finite.all():
            sample = first + int(torch.nonzero(~finite)[0])
            row = values[sample]
            value = float(row[~torch.isfinite(row)][0])
            rule = f"{name} must be finite, got {value} in sample {start + sample}"
            raise NumericalError(where, rule)


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


def class_moments(
    features: Rows, labels: Tensor, num_classes: int, form: Scatter
) -> Iterator[tuple[int, Moments]]:
    """Walk over the classes that have samples, in ascending order, with the moments of each.

    Args:
        features: float [N, D], in feature units.
        labels: int64 [N].
        num_classes: C.
        form: Of the scatters.

    Yields:
        The class, and its moments.

    Raises:
        NumericalError: A feature is not finite.
    """
    join = functools.partial(merge, form=form)
    for c, rows in class_rows(labels, num_classes):
        blocks = torch.split(rows, BLOCK)
        yield c, functools.reduce(join, (_of_block(features, block, form) for block in blocks))


def merge(first: Moments, second: Moments, form: Scatter) -> Moments:
    """Return the moments of two disjoint sets of samples together, exactly.

    With means apart by d, the scatter is S_1 + S_2 + n_1 n_2 / (n_1 + n_2) d d'.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", COMPSTAT 1982.

    Args:
        first: Of one set.
        second: Of the other, in the same form.
        form: Of the scatters.
    """
    count = first.count + second.count
    share, apart = second.count / count, second.mean - first.mean
    mean = first.mean + share * apart
    if form == "factor" and count <= len(mean):
        # Rows no more than features are the centred samples themselves; they are centred anew.
        each = [part.scatter + (part.mean - mean) for part in (first, second)]
        return Moments(count, mean, torch.cat(each))
    between = math.sqrt(first.count * share) * apart.unsqueeze(0)
    parts = [first.scatter, second.scatter, _scatter(between, form)]
    scatter = _triangular(torch.cat(parts)) if form == "factor" else parts[0] + parts[1] + parts[2]
    return Moments(count, mean, scatter)


def _of_block(features: Rows, block: Tensor, form: Scatter) -> Moments:
    rows = features[block]
    finite = torch.isfinite(rows).all(dim=1)
    if not finite.all():
        first = int(torch.nonzero(~finite)[0])
        value = float(rows[first][~torch.isfinite(rows[first])][0])
        rule = f"features must be finite, got {value} in sample {int(block[first])}"
        raise NumericalError("class moments", rule)
    exact = rows.to(torch.float64)
    mean = exact.mean(dim=0)
    return Moments(len(block), mean, _scatter(exact - mean, form))


def _scatter(rows: Tensor, form: Scatter) -> Tensor:
    """Return G'G of rows G, float64 [B, D], in a form."""
    if form == "full":
        return rows.T @ rows
    if form == "diagonal":
        return rows.square().sum(dim=0)
    return _triangular(rows)


def _triangular(rows: Tensor) -> Tensor:
    """Return rows of the same G'G, at most D."""
    if len(rows) <= rows.shape[1]:
        return rows
    factor: Tensor = torch.linalg.qr(rows, mode="r").R
    return factor
