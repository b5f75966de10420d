"""How far an accuracy, or a difference of two, may be chance: bootstrap over images and seeds.

Every resample draws N test images with replacement; with more than one seed it also draws as many
seeds with replacement, independently of the images, and averages over them. The interval runs
between percentiles of the resampled means (percentile method).

With several seeds this is the pigeonhole bootstrap, which is on the wide side: it counts the
interaction of image and seed up to three times. With two or three seeds it is too narrow for what
the seeds themselves contribute, by the factor (S - 1) / S in variance.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; Owen, "The
Pigeonhole Bootstrap", Annals of Applied Statistics 2007, arXiv 0712.1111.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ltcli.core.errors import ParamError

_CHUNK_ELEMENTS = 1 << 22  # counts in memory at once


def bootstrap_weights(num_samples: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """Draw how often each sample is in each resample: multinomial counts that sum to N.

    A pure function of its arguments: methods scored with the same seed see the same resamples.

    Args:
        num_samples: N, at least 1.
        resamples: R, at least 1.
        seed: Of these draws only.

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
        draws = generator.integers(num_samples, size=(count, num_samples))
        draws += np.arange(count)[:, None] * num_samples
        counts = np.bincount(draws.ravel(), minlength=count * num_samples)
        yield torch.from_numpy(counts.astype(np.float32)).view(count, num_samples)


def resampled_accuracies(correct: Tensor, *, resamples: int = 2000, seed: int = 0) -> Tensor:
    """Score every row on the same resamples of the images.

    Args:
        correct: bool [S, N], whether image n is predicted right by run s.
        resamples: R.
        seed: Of the resamples.

    Returns:
        float64 [R, S], accuracies 0 ... 1. Exact for N up to 2^24, where float32 still counts.
    """
    images = correct.shape[1]
    columns = correct.to(device="cpu", dtype=torch.float32).T.contiguous()
    sums = [weights @ columns for weights in bootstrap_weights(images, resamples, seed)]
    return torch.cat(sums).to(torch.float64) / images


def accuracy_interval(
    correct: Tensor, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the mean accuracy over seeds.

    Args:
        correct: bool [S, N], S runs that differ in their seed, N test images.
        level: Share of such intervals that should hold the true value, between 0 and 1.
        resamples: Number of resamples.
        seed: Of the resamples.

    Returns:
        Low and high, 0 ... 1.
    """
    scores = resampled_accuracies(correct, resamples=resamples, seed=seed)
    return _percentiles(_over_seeds(scores, [seed, 1]), level)


def difference_interval(
    a: Tensor, b: Tensor, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the difference a - b of mean accuracies over seeds, and its interval.

    Paired: both methods are scored on the same resampled images, in the same order in both. Their
    seeds are drawn independently, for a seed means nothing across methods.

    Args:
        a: bool [S1, N].
        b: bool [S2, N], of the same images.
        level: Share of such intervals that should hold the true value, between 0 and 1.
        resamples: Number of resamples.
        seed: Of the resamples.

    Returns:
        Difference, low and high, -1 ... 1.
    """
    both = torch.cat([a, b])
    scores = resampled_accuracies(both, resamples=resamples, seed=seed)
    first, second = scores[:, : len(a)], scores[:, len(a) :]
    differences = _over_seeds(first, [seed, 1]) - _over_seeds(second, [seed, 2])
    difference = float(a.to(torch.float64).mean() - b.to(torch.float64).mean())
    return difference, *_percentiles(differences, level)


def is_tie(low: float, high: float) -> bool:
    """Whether a difference of this interval may be none: it holds 0."""
    return low <= 0 <= high


def _over_seeds(scores: Tensor, entropy: list[int]) -> Tensor:
    """Average float64 [R, S] over S seeds drawn with replacement, anew in each resample."""
    generator = np.random.default_rng(entropy)
    chosen = generator.integers(scores.shape[1], size=tuple(scores.shape))
    return scores.gather(1, torch.from_numpy(chosen)).mean(dim=1)


def _percentiles(values: Tensor, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ParamError("bootstrap", f"level must be between 0 and 1, got {level}")
    tail = (1 - level) / 2
    low, high = np.quantile(values.numpy(), [tail, 1 - tail])
    return float(low), float(high)
