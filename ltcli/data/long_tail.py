"""Long-tailed training sets cut out of a pool: the number of images of each class, and the draw.

The draws follow the released code of LDAM-DRW, on which nearly all long-tailed CIFAR results rest:
numpy's legacy generator, seeded once, shuffles the pool indices of each class in label order, and
the first n_c are taken. Labels are int64 [N], the class 0..C-1 of each pool image; seeds have 32
bits.

Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019,
arXiv 1901.05555 (the exponential profile); Cao et al., Learning Imbalanced Datasets with
Label-Distribution-Aware Margin Loss, NeurIPS 2019, arXiv 1906.07413 (the step profile, the images).
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ltcli.core.errors import DataError, ParamError

Indices = NDArray[np.int64]
Profile = Literal["exp", "step", "natural"]


def require_factor(imbalance_factor: float) -> None:
    """Raise ParamError for a factor below 1, such as the reciprocal that other code takes."""
    if not imbalance_factor >= 1:
        meant = f"did you mean {1 / imbalance_factor:g}?" if imbalance_factor > 0 else None
        rule = f"imbalance_factor must be at least 1, got {imbalance_factor:g}"
        raise ParamError("split", rule, meant)


def profile_counts(
    profile: Profile, pool_counts: Sequence[int], imbalance_factor: float
) -> list[int]:
    """Return the number of training images of each class, at least 1.

    With n the smallest pool count and C classes, ``exp`` gives class c
    ``int(n * (1 / imbalance_factor) ** (c / (C - 1)))`` images; ``step`` gives n to the first
    C // 2 classes and ``int(n / imbalance_factor)`` to the others; ``natural`` keeps the pool and
    ignores the imbalance factor. ``int`` truncates, so the real ratio can be larger: CIFAR-100 at
    200 ends at 2 images, a ratio of 250. The released step profile drops the last class of an odd
    number of classes; here it is reduced like the rest of its half.

    Raises:
        ParamError: The imbalance factor is below 1, or so large that a class would be empty.
        DataError: A class has no image in the pool.
    """
    empty = [label for label, count in enumerate(pool_counts) if count < 1]
    if empty or not pool_counts:
        message = f"class {empty[0]} has no images in the pool" if empty else "pool has no classes"
        raise DataError("split", message, "leave out classes without images")
    if profile == "natural":
        return list(pool_counts)
    require_factor(imbalance_factor)
    largest, num_classes = min(pool_counts), len(pool_counts)
    counts = _reduced(profile, largest, num_classes, imbalance_factor)
    if 0 in counts:
        # Truncation can fail at the bound itself: int(49 * (1 / 49)) is 0.
        feasible = next(
            factor
            for factor in range(largest, 0, -1)
            if 0 not in _reduced(profile, largest, num_classes, factor)
        )
        rule = f"imbalance_factor {imbalance_factor:g} leaves class {counts.index(0)} no images"
        raise ParamError("split", rule, f"use at most {feasible}")
    return counts


def _reduced(
    profile: Profile, largest: int, num_classes: int, imbalance_factor: float
) -> list[int]:
    if profile == "step":
        kept = max(1, num_classes // 2)
        return [largest] * kept + [int(largest / imbalance_factor)] * (num_classes - kept)
    last = max(1, num_classes - 1)
    # Computed as in the released code, since truncation makes rounding errors visible.
    ratio = 1 / imbalance_factor
    return [int(largest * ratio ** (label / last)) for label in range(num_classes)]


def _shuffled_classes(labels: Indices, num_classes: int, seed: int) -> Iterator[Indices]:
    """Yield the positions of each class, shuffled, in label order."""
    # Only the legacy generator reproduces the published index lists.
    random = np.random.RandomState(seed)
    # One stable sort finds ascending positions of all classes; a search for each takes C times N.
    order = np.argsort(labels, kind="stable").astype(np.int64, copy=False)
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    for positions in np.split(order, ends)[:num_classes]:
        random.shuffle(positions)
        yield positions


def cao_indices(labels: Indices, counts: Sequence[int], seed: int) -> Indices:
    """Return exactly the pool positions that the LDAM-DRW code draws, int64 [sum of counts].

    They are ordered by class, and within a class in the order of the draw; the released code
    (imbalance_cifar.py) has seed 0.

    Raises:
        DataError: The pool has fewer images of a class than its count.
    """
    parts = [np.empty(0, np.int64)]
    for label, positions in enumerate(_shuffled_classes(labels, len(counts), seed)):
        if len(positions) < counts[label]:
            rule = f"class {label} must have {counts[label]} images, got {len(positions)}"
            raise DataError("split", rule)
        parts.append(positions[: counts[label]])
    return np.concatenate(parts)


def counts_for_test(counts: Sequence[int], fraction: float) -> list[int]:
    """Return the number of test images to cut off each class.

    The fraction is rounded down; at least one image is cut, but never the last one, which leaves
    none to train on.
    """
    return [min(max(1, int(count * fraction)), max(0, count - 1)) for count in counts]


def counts_for_validation(counts: Sequence[int], per_class: int | None) -> list[int]:
    """Return the number of validation images to cut off each class.

    At most half of a class is cut. None stands for what leaves the tail alone: a tenth of a class,
    rounded down, so that a class of fewer than 10 images gives none.
    """
    return [count // 10 if per_class is None else min(per_class, count // 2) for count in counts]


def cut(
    labels: Indices, counts: Sequence[int], seed: int, groups: Indices | None = None
) -> tuple[Indices, Indices]:
    """Return the positions of the images cut out of a pool, and of the others, int64.

    The others ascend.

    Args:
        labels: Class of each image of the pool, int64 [N].
        counts: Images to cut off each class.
        seed: Of the draw.
        groups: Group of each image, int64 [N]. A group stays together: the cut then meets the
            counts as well as whole groups can, and leaves each class an image. None cuts image by
            image: the positions are ordered by class and draw.

    Source: the protocol of MetaSAug (Li et al., CVPR 2021, arXiv 2103.12579) holds 10 images per
    class out of the balanced 50,000 before it makes them long-tailed.
    """
    if groups is None:
        taken = cao_indices(labels, counts, seed)
    else:
        taken = _whole_groups(labels, counts, seed, groups)
    free = np.ones(len(labels), np.bool_)
    free[taken] = False
    return taken, np.flatnonzero(free).astype(np.int64, copy=False)


def _whole_groups(labels: Indices, counts: Sequence[int], seed: int, groups: Indices) -> Indices:
    """Return the positions of whole groups that come close to the counts, ascending.

    A group is taken if that lowers the sum over classes of the distance from the count, as a share
    of the class. Large groups come first, as small ones fill what they leave; groups of one size
    are drawn.
    """
    wanted, sizes = np.array(counts), np.bincount(labels, minlength=len(counts))
    have = np.zeros_like(wanted)
    order = np.argsort(groups, kind="stable").astype(np.int64, copy=False)
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    np.random.RandomState(seed).shuffle(members)
    taken = [np.empty(0, np.int64)]
    for positions in sorted(members, key=len, reverse=True):
        classes, amounts = np.unique(labels[positions], return_counts=True)
        now, goal, size = have[classes], wanted[classes], sizes[classes]
        farther = (np.abs(now + amounts - goal) - np.abs(now - goal)) / size
        # The last image of a class is left to train on.
        if farther.sum() < 0 and (now + amounts < size).all():
            have[classes] += amounts
            taken.append(positions)
    return np.sort(np.concatenate(taken))
