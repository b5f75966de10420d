"""How far an accuracy may be chance: bootstrap over images and seeds.

Every resample draws N test images with replacement, or, for a balanced score, as many of each class
as there are; with more than one seed it also draws as many
seeds with replacement, independently of the images, and averages over them. All rows of a table
are scored on the same resampled images. The interval of a row runs between percentiles of its
resampled means (percentile method).

With several seeds this is the pigeonhole bootstrap, which is on the wide side: it counts the
interaction of image and seed up to three times. With two or three seeds it is too narrow for what
the seeds themselves contribute, by the factor (S - 1) / S in variance.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; Owen, "The
Pigeonhole Bootstrap", Annals of Applied Statistics 2007, arXiv 0712.1111.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltcli.core.errors import ParamError

_CHUNK_ELEMENTS = 1 << 22  # counts in memory at once


def bootstrap_weights(
    num_samples: int, resamples: int, seed: int, classes: Tensor | None = None
) -> Iterator[Tensor]:
    """Draw how often each sample is in each resample: multinomial counts that sum to N.

    A pure function of its arguments: methods scored with the same seed see the same resamples.

    Args:
        num_samples: N, at least 1.
        resamples: R, at least 1.
        seed: Of these draws only.
        classes: int64 [N], where each class is drawn by itself; None where samples are alike.

    Yields:
        float32 [B, N], whole numbers, in chunks that add up to R rows.
    """
    for name, value in (("num_samples", num_samples), ("resamples", resamples)):
        if value < 1:
            raise ParamError("bootstrap", f"{name} must be at least 1, got {value}")
    generator = np.random.default_rng([seed, 0])
    rows = max(1, _CHUNK_ELEMENTS // num_samples)
    for first in range(0, resamples, rows):
        count = min(rows, resamples - first)
        if classes is None:
            draws = generator.integers(num_samples, size=(count, num_samples))
        else:
            draws = _within(classes, generator.random((count, num_samples)))
        draws += np.arange(count)[:, None] * num_samples
        counts = np.bincount(draws.ravel(), minlength=count * num_samples)
        yield torch.from_numpy(counts.astype(np.float32)).view(count, num_samples)


def _within(
    classes: Tensor, shares: np.ndarray[Any, np.dtype[np.float64]]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Turn draws in [0, 1), [B, N], into positions: draw n is of the class of sample n."""
    labels = classes.numpy()
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    inside = np.minimum((shares * sizes[labels]).astype(np.int64), sizes[labels] - 1)
    drawn: np.ndarray[Any, np.dtype[np.int64]] = order[starts[labels] + inside]
    return drawn


def resampled_scores(
    values: Tensor, *, resamples: int = 2000, seed: int = 0, classes: Tensor | None = None
) -> Tensor:
    """Score every row on the same resamples of the images.

    Args:
        values: bool or float [S, N], what image n adds to the score of run s, times N: for the
            accuracy whether it is predicted right.
        resamples: R.
        seed: Of the resamples.
        classes: As for ``bootstrap_weights``.

    Returns:
        float64 [R, S]. Counts are exact for N up to 2^24, where float32 still counts.
    """
    images = values.shape[1]
    columns = values.to(device="cpu", dtype=torch.float32).T.contiguous()
    drawn = bootstrap_weights(images, resamples, seed, classes)
    return torch.cat([weights @ columns for weights in drawn]).to(torch.float64) / images


def resampled_rows(
    rows: Sequence[Tensor],
    *,
    resamples: int = 2000,
    seed: int = 0,
    classes: Tensor | None = None,
) -> list[Tensor]:
    """Score the runs of several rows on the same resamples of the images.

    Args:
        rows: K times [S, N], as for ``resampled_scores``; S may vary.
        resamples: R.
        seed: Of the resamples.
        classes: As for ``bootstrap_weights``.

    Returns:
        K times float64 [R, S], as of ``resampled_scores``.
    """
    joined = torch.cat(list(rows))
    scores = resampled_scores(joined, resamples=resamples, seed=seed, classes=classes)
    return list(torch.split(scores, [len(row) for row in rows], dim=1))


def score_interval(scores: Tensor, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return the interval of the mean score over seeds.

    Args:
        scores: float64 [R, S], scores of S runs that differ in their seed, on R resamples.
        level: Share of such intervals that should hold the true value, between 0 and 1.
        seed: Of the resamples of the seeds.

    Returns:
        Low and high, 0 ... 1.
    """
    require_level(level)
    generator = np.random.default_rng([seed, 1])
    chosen = torch.from_numpy(generator.integers(scores.shape[1], size=tuple(scores.shape)))
    tail = (1 - level) / 2
    means = scores.gather(1, chosen).mean(dim=1)
    low, high = np.quantile(means.numpy(), [tail, 1 - tail])
    return float(low), float(high)


def require_level(level: float) -> None:
    """Check the level of an interval.

    Raises:
        ParamError: It is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ParamError("bootstrap", f"level must be between 0 and 1, got {level}")
