"""Differences of several rows from one, judged together, and the smallest one that can be shown.

d_k is the score (accuracy, or balanced accuracy) of row k less that of the first row, means over
seeds; d*_kr the same on
resample r of the images; s_k the standard deviation of d*_k over the resamples, and c the ``level``
quantile of

    T_r = max_k |d*_kr - d_k| / s_k

The intervals d_k -+ c s_k hold all true differences at once in ``level`` of the cases. So whatever
the true differences are, the chance that any row without one is called better or worse is at most
1 - level (for large N; strong control of the family-wise error). With one row c is that of the
normal distribution, 1.96, which is also the least it can be.

Why not Holm on p-values of each row: all rows share images and reference, so their differences are
strongly correlated, which T uses and Holm cannot; 2,000 resamples resolve no p-value that is to be
compared with 0.05 / 20; and Holm's verdicts have no intervals that say the same as they do.

Images are many, seeds are few, and a bootstrap over few makes too little of them. So the images
are resampled, and of the seeds, S of variance v, both rows add v / S to s_k^2; c becomes that of
Student's t with Welch's degrees of freedom,

    f = s_k^4 / sum (v / S)^2 / (S - 1)    over both rows, infinite for one run each

This counts what a seed does to single images twice, so verdicts on several seeds err to a tie.
With two seeds f is hardly known, and several rows may be wrong more often (see the simulation in
the tests).

Of a balanced score, images are few too where classes are: a class of n images adds u^2 / (n - 1) to
the sum, u its part in s_k^2. Such verdicts err to a tie as well.

A row of true difference D is called different with the chance Phi(|D| / s_k - c), the other sign
being out of reach, which gives the smallest detectable one at a power:

    D_k = (c + z_power) s_k

With one run in each row and plain accuracy, s_k^2 = (q - d_k^2) / N, q the share of images that
only one of both gets right: what rows agree on costs nothing. The verdict then is about these two
networks, on images like these: two seeds of one method are different networks, and a large test set
may show it.

Source: Westfall and Young, "Resampling-Based Multiple Testing", 1993, section 2.3 (single step);
Romano and Wolf, "Exact and Approximate Stepdown Methods for Multiple Hypothesis Testing", Journal
of the American Statistical Association 2005 (studentised, bootstrap, joint intervals); Welch,
Biometrika 1947, and Satterthwaite, Biometrics Bulletin 1946 (degrees of freedom); Wallace, Annals
of Mathematical Statistics 1959 (Student's t from the normal, within 0.5 % for 4 degrees and more,
too wide for fewer).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from ltcli.stats.intervals import require_level

POWER = 0.8  # of the smallest detectable difference

# Differences are multiples of 1 / (N S), or 1 / (N S C) and more; what is below this is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """A row compared with the first one. Shares, -1 ... 1.

    Attributes:
        value: Score less that of the first row.
        interval: Of the value; all intervals of a table hold together.
        detectable: The smallest true difference that would be found with a chance of ``POWER``;
            None where the rows never differ, as nothing then says how far they may, and where
            even the largest would not be.
    """

    value: float
    interval: tuple[float, float]
    detectable: float | None

    @property
    def tie(self) -> bool:
        """Whether there may be no difference: the interval holds 0."""
        low, high = self.interval
        return low <= 0 <= high


def differences(
    rows: Sequence[Tensor], scores: Sequence[Tensor], level: float, strata: Tensor | None = None
) -> list[Difference]:
    """Compare all rows but the first with the first one.

    Args:
        rows: K times bool or float [S, N], K at least 2, what image n adds to the score of run s,
            times N.
        scores: K times float64 [R, S], their scores on the same resamples of the images.
        level: Chance that all intervals hold the true differences, between 0 and 1.
        strata: int64 [N], images that were resampled by themselves; None where all are alike.

    Returns:
        K - 1 differences.
    """
    require_level(level)
    means = torch.stack([row.double().mean() for row in rows])
    values = means[1:] - means[0]
    values = torch.where(values.abs() > _ROUNDING, values, 0.0)
    resampled = torch.stack([score.mean(dim=1) for score in scores], dim=1)
    draws = resampled[:, 1:] - resampled[:, :1]
    errors = draws.std(dim=0, correction=0)
    errors = torch.where(errors > _ROUNDING, errors, 0.0)
    steps = torch.where(errors > 0, (draws - values).abs() / errors, 0.0)
    # Few resamples, or rows that hardly differ, may give less than a normal difference needs.
    normal = NormalDist().inv_cdf((1 + level) / 2)
    critical = max(normal, float(np.quantile(steps.amax(dim=1).numpy(), level)))
    found = []
    for row, value, of_images in zip(rows[1:], values.tolist(), errors.tolist(), strict=True):
        pair = (row, rows[0])
        uncertain = 0.0 if strata is None or of_images == 0 else _uncertain(pair, strata)
        error, factor = _with_seeds(of_images, uncertain, critical, pair)
        interval = (max(-1.0, value - factor * error), min(1.0, value + factor * error))
        detectable = (factor + NormalDist().inv_cdf(POWER)) * error
        found.append(Difference(value, interval, detectable if 0 < detectable <= 1 else None))
    return found


def _with_seeds(
    error: float, uncertain: float, critical: float, pair: Sequence[Tensor]
) -> tuple[float, float]:
    """Return a standard error and a critical value that count in the seeds of both rows.

    Args:
        error: Over images.
        uncertain: The sum of squared parts of its square over their degrees of freedom.
        critical: For infinite degrees of freedom.
        pair: The rows compared, [S, N] each.
    """
    variance = error**2
    for row in pair:
        if len(row) > 1:
            of_mean = float(row.double().mean(dim=1).var()) / len(row)
            variance += of_mean
            uncertain += of_mean**2 / (len(row) - 1)
    if uncertain == 0:
        return error, critical
    return math.sqrt(variance), student(critical, variance**2 / uncertain)


def _uncertain(pair: Sequence[Tensor], strata: Tensor) -> float:
    """Return the sum over strata of u^2 / (n - 1), u = n s^2 / N^2 of the paired difference."""
    row, reference = (values.double().mean(dim=0) for values in pair)
    total = 0.0
    for part in torch.split((row - reference)[strata.argsort()], strata.bincount().tolist()):
        if len(part) > 1:
            total += (len(part) * float(part.var()) / len(row) ** 2) ** 2 / (len(part) - 1)
    return total


def student(normal: float, freedom: float) -> float:
    """Return the quantile of Student's t where the normal distribution has ``normal``.

    Args:
        normal: At least 0.
        freedom: Degrees of freedom, greater than 0.
    """
    stretched = normal * (8 * freedom + 3) / (8 * freedom + 1)
    return math.sqrt(freedom * math.expm1(min(stretched**2 / freedom, 700.0)))
