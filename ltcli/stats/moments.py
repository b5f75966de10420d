"""Class means and scatters of features, float64, in one pass and bounded memory.

The samples of a class are gathered in input order and summed in blocks of ``BLOCK``, so its moments
depend on nothing but those samples: not on other classes, nor on how the features were batched.
Each block is centred by its own mean, so features with mean 1000 keep their digits, and blocks are
joined like shards of a data set, by ``merge``.

Features are float [N, D] in feature units and labels int64 [N], on one device that has float64.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ltcli.core.errors import DataError, NumericalError

# Rows of a sum. Fixed, as the order of additions decides the last digits.
BLOCK = 4096

Scatter = Literal["full", "diagonal", "factor"]
"""Form of a scatter: [D, D]; its diagonal [D]; or rows G [R, D] of G'G, R = min(count, D)."""


class Rows(Protocol):
    """Features [N, D] that give rows on request: a tensor, or those of an open artifact."""

    @property
    def shape(self) -> torch.Size:
        """[N, D]."""
        ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows at the positions int64 [B]."""
        ...


@dataclass(frozen=True)
class Moments:
    """Number, mean, float64 [D], and scatter, float64, of a set of samples, at least one.

    The scatter is the sum over samples of (x - mean)(x - mean)', feature units squared, in one of
    the forms of ``Scatter``.
    """

    count: int
    mean: Tensor
    scatter: Tensor


def require_finite(where: str, name: str, values: Tensor, start: int | Tensor = 0) -> None:
    """Refuse NaN and infinity in values float [N, D], naming the first sample that has one.

    ``start`` is the number of the first sample, or has the numbers of all, int64 [N].
    """
    for first in range(0, len(values), BLOCK):
        block = values[first : first + BLOCK]
        # The least and the largest value are NaN if any value is: a tenth of isfinite on them all.
        if block.numel() and not torch.stack(block.aminmax()).isfinite().all():
            row = first + int(torch.nonzero(~block.isfinite().all(dim=1))[0])
            value = float(values[row][~values[row].isfinite()][0])
            sample = start + row if isinstance(start, int) else int(start[row])
            raise NumericalError(where, f"{name} must be finite, got {value} in sample {sample}")


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Number of samples of each class, int64 [C]; labels outside 0 ... C - 1 are refused."""
    # bincount would grow beyond C without a word, and dies of a negative label.
    outside = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(outside):
        sample = int(outside[0])
        rule = f"labels must be in 0 ... {num_classes - 1}, got {int(labels[sample])}"
        raise DataError("class counts", f"{rule} for sample {sample}")
    return torch.bincount(labels, minlength=num_classes)


def class_rows(labels: Tensor, num_classes: int) -> Iterator[tuple[int, Tensor]]:
    """Yield each class that has samples, ascending, and their positions, int64 [n_c], ascending."""
    counts: list[int] = class_counts(labels, num_classes).tolist()
    # One stable sort serves all classes: comparing labels with each class would cost N C.
    order = torch.argsort(labels, stable=True)
    stop = 0
    for c, count in enumerate(counts):
        start, stop = stop, stop + count
        if count:
            yield c, order[start:stop]


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean features of each class, float64 [C, D]; zero for a class without samples."""
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
    """Yield each class that has samples, ascending, and its moments, reading each row once."""
    join = functools.partial(merge, form=form)
    for c, rows in class_rows(labels, num_classes):
        blocks = torch.split(rows, BLOCK)
        yield c, functools.reduce(join, (_of_block(features, block, form) for block in blocks))


def merge(first: Moments, second: Moments, form: Scatter) -> Moments:
    """Moments of two disjoint sets of samples together, exact, from those of each in one form.

    With means apart by d, the scatter is S_1 + S_2 + n_1 n_2 / (n_1 + n_2) d d'.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", COMPSTAT 1982.
    """
    count = first.count + second.count
    fraction, apart = second.count / count, second.mean - first.mean
    mean = first.mean + fraction * apart
    if form == "factor" and count <= len(mean):
        # Up to D rows are the centred samples themselves: centre them anew, without a QR.
        each = [part.scatter + (part.mean - mean) for part in (first, second)]
        return Moments(count, mean, torch.cat(each))
    between = math.sqrt(first.count * fraction) * apart.unsqueeze(0)
    parts = [first.scatter, second.scatter, _scatter(between, form)]
    scatter = _triangular(torch.cat(parts)) if form == "factor" else parts[0] + parts[1] + parts[2]
    return Moments(count, mean, scatter)


def _of_block(features: Rows, block: Tensor, form: Scatter) -> Moments:
    rows = features[block]
    require_finite("class moments", "features", rows, block)
    exact = rows.to(torch.float64)
    mean = exact.mean(dim=0)
    return Moments(len(block), mean, _scatter(exact - mean, form))


def _scatter(rows: Tensor, form: Scatter) -> Tensor:
    """G'G of rows G, float64 [B, D], in a form."""
    if form == "full":
        return rows.T @ rows
    if form == "diagonal":
        return rows.square().sum(dim=0)
    return _triangular(rows)


def _triangular(rows: Tensor) -> Tensor:
    """At most D rows with the same G'G."""
    if len(rows) <= rows.shape[1]:
        return rows
    # G = QR with Q'Q = 1 gives G'G = R'R, without the squared condition of G'G itself.
    factor: Tensor = torch.linalg.qr(rows, mode="r").R
    return factor
