"""How far an accuracy may be chance: bootstrap over images and seeds.

Every resample draws N test images with replacement; with more than one seed it also draws as many
seeds with replacement, independently of the images, and averages over them. All rows of a table
are scored on the same resampled images. The interval of a row runs between percentiles of its
resampled means (percentile method).

For a balanced score each class is drawn by itself, n - 1 images of its n, each counting n / (n - 1)
times: the mean of n draws would have only (n - 1) / n of the variance, half of it where a class has
two images. What a class of one image varies by cannot be seen in it, so such classes are drawn as
one; a lone one with the smallest other class, which makes more of it than it varies by.

With several seeds this is the pigeonhole bootstrap, which is on the wide side: it counts the
interaction of image and seed up to three times. With two or three seeds it is too narrow for what
the seeds themselves contribute, by the factor (S - 1) / S in variance.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; Owen, "The
Pigeonhole Bootstrap", Annals of Applied Statistics 2007, arXiv 0712.1111; Rao and Wu, "Resampling
Inference with Complex Survey Data", Journal of the American Statistical Association 1988 (n - 1
draws of a stratum).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltcli.core.errors import ParamError

_CHUNK_ELEMENTS = 1 << 22  # counts in memory at once

Integers = np.ndarray[Any, np.dtype[np.int64]]


def bootstrap_weights(
    num_samples: int, resamples: int, seed: int, strata: Tensor | None = None
) -> Iterator[Tensor]:
    """Draw how much each sample counts in each resample: weights that sum to N.

    A pure function of its arguments: methods scored with the same seed see the same resamples.

    Args:
        num_samples: N, at least 1.
        resamples: R, at least 1.
        seed: Of these draws only.
        strata: int64 [N], which samples are drawn by themselves, see ``class_strata``; None where
            all are alike.

    Yields:
        float [B, N] in chunks that add up to R rows: without strata float32, whole numbers; with
        them float64.
    """
    for name, value in (("num_samples", num_samples), ("resamples", resamples)):
        if value < 1:
            raise ParamError("bootstrap", f"{name} must be at least 1, got {value}")
    generator = np.random.default_rng([seed, 0])
    rows = max(1, _CHUNK_ELEMENTS // num_samples)
    for first in range(0, resamples, rows):
        count = min(rows, resamples - first)
        if strata is None:
            draws = generator.integers(num_samples, size=(count, num_samples))
        else:
            draws, worth = _draw_within(strata.numpy(), generator, count)
        draws += np.arange(count)[:, None] * num_samples
        counts = np.bincount(draws.ravel(), minlength=count * num_samples)
        weights = torch.from_numpy(counts).view(count, num_samples)
        yield weights.float() if strata is None else weights * worth


def _draw_within(
    strata: Integers, generator: np.random.Generator, count: int
) -> tuple[Integers, Tensor]:
    """Draw n - 1 samples of each stratum of n: positions [B, N - H], and their worth [N]."""
    order = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)
    draws = np.where(sizes > 1, sizes - 1, sizes)
    drawn = np.repeat(np.arange(len(sizes)), draws)
    shares = generator.random((count, len(drawn)))
    inside = np.minimum((shares * sizes[drawn]).astype(np.int64), sizes[drawn] - 1)
    starts = np.cumsum(sizes) - sizes
    positions: Integers = order[starts[drawn] + inside]
    return positions, torch.from_numpy((sizes / np.maximum(draws, 1))[strata])


def class_strata(labels: Tensor) -> Tensor:
    """Return the strata that a balanced score is resampled in, of two samples each or more.

    Args:
        labels: int64 [N]. With N = 1 its stratum is of one sample.

    Returns:
        int64 [N], the label, or one label for all classes of one sample. A lone such class has that
        of the smallest other class.
    """
    sizes = labels.bincount()
    together = (sizes == 1).nonzero()[:, 0]
    if len(together) == 1 and len(labels) > 1:
        others = torch.where(sizes > 1, sizes, len(labels))
        together = torch.cat([together, others.argmin()[None]])
    stratum = torch.arange(len(sizes))
    stratum[together] = together[:1]
    return stratum[labels]


def resampled_scores(
    values: Tensor, *, resamples: int = 2000, seed: int = 0, strata: Tensor | None = None
) -> Tensor:
    """Score every row on the same resamples of the images.

    Args:
        values: bool or float [S, N], what image n adds to the score of run s, times N: for the
            accuracy whether it is predicted right.
        resamples: R.
        seed: Of the resamples.
        strata: As for ``bootstrap_weights``.

    Returns:
        float64 [R, S]. Without strata exact for N up to 2^24, where float32 still counts.
    """
    images = values.shape[1]
    dtype = torch.float32 if strata is None else torch.float64
    columns = values.to(device="cpu", dtype=dtype).T.contiguous()
    drawn = bootstrap_weights(images, resamples, seed, strata)
    return torch.cat([weights @ columns for weights in drawn]).double() / images


def resampled_rows(
    rows: Sequence[Tensor],
    *,
    resamples: int = 2000,
    seed: int = 0,
    strata: Tensor | None = None,
) -> list[Tensor]:
    """Score the runs of several rows on the same resamples of the images.

    Args:
        rows: K times [S, N], as for ``resampled_scores``; S may vary.
        resamples: R.
        seed: Of the resamples.
        strata: As for ``bootstrap_weights``.

    Returns:
        K times float64 [R, S], as of ``resampled_scores``.
    """
    joined = torch.cat(list(rows))
    scores = resampled_scores(joined, resamples=resamples, seed=seed, strata=strata)
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
    return float(low), min(float(high), 1.0)


def require_level(level: float) -> None:
    """Check the level of an interval.

    Raises:
        ParamError: It is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ParamError("bootstrap", f"level must be between 0 and 1, got {level}")
