"""Confidence intervals of an accuracy: bootstrap over images and seeds.

Every resample draws N test images with replacement. With S > 1 seeds it also draws S seeds with
replacement, independently of the images, and averages over them. All rows of a table are scored on
the same resampled images. The interval of a row runs between percentiles of its resampled means.

For a balanced score each class is a stratum: n - 1 of its n images are drawn, each counting
n / (n - 1) times, as the mean of n draws has only (n - 1) / n of the variance, half of it for two
images. A class with one image has no within-class variance; all such classes form one stratum. A
single one joins the smallest other class, which overstates its variance.

With several seeds this is the pigeonhole bootstrap, which is a little wide: it counts the
interaction of image and seed up to three times. With two or three seeds it is too narrow in the
part of the seeds themselves, by the factor (S - 1) / S in variance.

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

# Counts in memory at once: 8 MB of int64.
_CHUNK_ELEMENTS = 1 << 20

Integers = np.ndarray[Any, np.dtype[np.int64]]


def bootstrap_weights(
    num_samples: int, resamples: int, seed: int, strata: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield the weights of the samples in R resamples, float [B, N] in chunks; rows sum to N.

    Without strata they are whole numbers in float32, with strata, int64 [N], float64. They depend
    on the arguments alone: methods scored with the same seed see the same resamples.
    """
    for name, value in (("num_samples", num_samples), ("resamples", resamples)):
        if value < 1:
            raise ParamError("bootstrap", f"{name} must be at least 1, got {value}")
    # [seed, 0] draws images, [seed, 1] in ``score_interval`` seeds: independent of each other.
    generator = np.random.default_rng([seed, 0])
    rows = max(1, _CHUNK_ELEMENTS // num_samples)
    for first in range(0, resamples, rows):
        count = min(rows, resamples - first)
        if strata is None:
            draws = generator.integers(num_samples, size=(count, num_samples))
        else:
            draws, worth = _draw_within(strata.numpy(), generator, count)
        # Each resample counts in a range of its own, so that one bincount serves the chunk.
        draws += np.arange(count)[:, None] * num_samples
        counts = np.bincount(draws.ravel(), minlength=count * num_samples)
        weights = torch.from_numpy(counts).view(count, num_samples)
        yield weights.float() if strata is None else weights * worth


def _draw_within(
    strata: Integers, generator: np.random.Generator, count: int
) -> tuple[Integers, Tensor]:
    """Draws, n - 1 from each of H strata of n: positions [B, N - H], and worth of a sample [N]."""
    order = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)
    # A single sample cannot be left out: it is drawn once.
    draws = np.where(sizes > 1, sizes - 1, sizes)
    drawn = np.repeat(np.arange(len(sizes)), draws)
    # Capped, as rounding may take a number just below 1 to the size itself.
    uniform = generator.random((count, len(drawn)))
    inside = np.minimum((uniform * sizes[drawn]).astype(np.int64), sizes[drawn] - 1)
    starts = np.cumsum(sizes) - sizes
    positions: Integers = order[starts[drawn] + inside]
    return positions, torch.from_numpy((sizes / np.maximum(draws, 1))[strata])


def class_strata(labels: Tensor) -> Tensor:
    """Strata of a balanced score, int64 [N], of two samples or more, unless N = 1.

    The stratum is the label int64 [N]. All classes with one sample have the label of the first; a
    single one has that of the smallest other class.
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
    """Scores of S runs on the same R resamples of the images, float64 [R, S].

    A value, bool or float [S, N], is the contribution of image n to the score of run s, times N:
    for the accuracy, whether its prediction is correct. Strata: as for ``bootstrap_weights``.
    """
    # Without strata float32 is exact up to N = 2^24, and faster.
    images = values.shape[1]
    dtype = torch.float32 if strata is None else torch.float64
    columns = values.to(device="cpu", dtype=dtype).T.contiguous()
    # Filled in place: scores kept between the chunks would split the memory that each chunk frees.
    scores = torch.empty(resamples, len(values), dtype=dtype)
    first = 0
    for weights in bootstrap_weights(images, resamples, seed, strata):
        scores[first : first + len(weights)] = weights @ columns
        first += len(weights)
    return scores.double() / images


def resampled_rows(
    rows: Sequence[Tensor], *, resamples: int = 2000, seed: int = 0, strata: Tensor | None = None
) -> list[Tensor]:
    """``resampled_scores`` of several rows, [S, N] each, on the same resamples; S may vary."""
    # Joined and split, so that all rows are scored on one set of draws.
    joined = torch.cat(list(rows))
    scores = resampled_scores(joined, resamples=resamples, seed=seed, strata=strata)
    return list(torch.split(scores, [len(row) for row in rows], dim=1))


def score_interval(scores: Tensor, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Confidence interval of the mean score over seeds: low and high, 0 ... 1.

    The scores, float64 [R, S], are those of S runs that differ in their seed, on R resamples.
    """
    require_level(level)
    generator = np.random.default_rng([seed, 1])
    chosen = torch.from_numpy(generator.integers(scores.shape[1], size=tuple(scores.shape)))
    tail = (1 - level) / 2
    means = scores.gather(1, chosen).mean(dim=1)
    low, high = np.quantile(means.numpy(), [tail, 1 - tail])
    # A resample within classes may weigh correct images above N, so a score can exceed 1.
    return float(low), min(float(high), 1.0)


def require_level(level: float) -> None:
    """Refuse a confidence level that is not between 0 and 1."""
    if not 0 < level < 1:
        raise ParamError("bootstrap", f"level must be between 0 and 1, got {level}")
