"""Differences of several rows from the first one, judged together, and the smallest detectable one.

d_k is the score (accuracy, or balanced accuracy) of row k less that of the first row, means over
seeds; d*_kr is the same on resample r of the images; s_k is the standard deviation of d*_k over the
resamples, and c the ``level`` quantile of

    T_r = max_k |d*_kr - d_k| / s_k

The intervals d_k -+ c s_k contain all true differences at once with probability ``level``. So for
any true differences, the probability of calling some row better or worse that is neither is at most
1 - level (for large N; strong control of the family-wise error). With one row c is that of the
normal distribution, 1.96, which is also the least c can be.

Why not Holm's method on a p-value per row: all rows share images and reference, so their
differences are strongly correlated, which T uses and Holm cannot; 2,000 resamples resolve no
p-value to compare with 0.05 / 20; and no intervals match Holm's verdicts.

Images are many and seeds are few, and a bootstrap over few values is too narrow. So only images are
resampled. The seeds of each row, S with variance v, add v / S to s_k^2, and c becomes that of
Student's t with Welch's degrees of freedom,

    f = s_k^4 / sum (v / S)^2 / (S - 1)    over both rows, infinite for one run each

This counts the effect of a seed on single images twice, so verdicts on several seeds err towards a
tie. With two seeds f is hardly known, and several rows may be wrong more often (see the simulation
in the tests).

For a balanced score, small classes have few images too: a class of n images adds u^2 / (n - 1) to
the sum, u its part in s_k^2. Such verdicts err towards a tie as well.

A row with true difference D is called different with probability Phi(|D| / s_k - c), as the other
sign is out of reach. So the smallest difference detectable at a power is

    D_k = (c + z_power) s_k

With one run in each row and plain accuracy, s_k^2 = (q - d_k^2) / N, q the fraction of images that
only one of both predicts correctly: images on which the rows agree cost nothing. The verdict is
then about these two networks, on such images: two seeds of one method are different networks, and a
large test set may show it.

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

POWER = 0.8  # chance of finding the smallest detectable difference

# Differences are multiples of 1 / (N S), or 1 / (N S C) and more; anything below this is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """Score of a row less that of the first one, -1 ... 1; all intervals of a table hold together.

    ``detectable`` is the smallest true difference that would be found with a chance of ``POWER``;
    None if the rows never differ, as their variance is then unknown, and if none would be found.
    """

    value: float
    interval: tuple[float, float]
    detectable: float | None

    @property
    def tie(self) -> bool:
        """Whether the interval contains 0: there may be no difference."""
        low, high = self.interval
        return low <= 0 <= high


def differences(
    rows: Sequence[Tensor], scores: Sequence[Tensor], level: float, strata: Tensor | None = None
) -> list[Difference]:
    """Differences of all rows but the first from the first one, K - 1.

    Each of the K rows, at least 2, has the contributions of image n to the score of run s, times N,
    bool or float [S, N]; and its scores float64 [R, S] on the same resamples of the images, whose
    strata are int64 [N], or None for a single one. All intervals contain the true differences with
    probability ``level``.
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
    # With few resamples, or rows that hardly differ, the quantile may be below the normal one.
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
    """Standard error and critical value that include the seeds of both rows, [S, N] each."""
    # ``uncertain`` sums squared parts of the variance over images, over their degrees of freedom.
    variance = error**2
    for row in pair:
        # One seed tells nothing about the variance of seeds.
        if len(row) > 1:
            of_mean = float(row.double().mean(dim=1).var()) / len(row)
            variance += of_mean
            uncertain += of_mean**2 / (len(row) - 1)
    # Infinite degrees of freedom, where Student's t is the normal distribution.
    if uncertain == 0:
        return error, critical
    return math.sqrt(variance), student(critical, variance**2 / uncertain)


def _uncertain(pair: Sequence[Tensor], strata: Tensor) -> float:
    """Sum over strata of u^2 / (n - 1), with u = n s^2 / N^2 of the paired difference."""
    row, reference = (values.double().mean(dim=0) for values in pair)
    total = 0.0
    for part in torch.split((row - reference)[strata.argsort()], strata.bincount().tolist()):
        # A stratum of one sample has no variance to estimate.
        if len(part) > 1:
            total += (len(part) * float(part.var()) / len(row) ** 2) ** 2 / (len(part) - 1)
    return total


def student(normal: float, freedom: float) -> float:
    """Quantile of Student's t at the probability where the normal quantile is ``normal`` >= 0."""
    # Wallace's closed form: scipy would be a dependency for this one number.
    stretched = normal * (8 * freedom + 3) / (8 * freedom + 1)
    # Cut off below the overflow of exp, which few hundredths of a degree of freedom reach.
    return math.sqrt(freedom * math.expm1(min(stretched**2 / freedom, 700.0)))
