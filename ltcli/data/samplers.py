"""The order in which an epoch visits the training images.

Each function returns the whole order at once, as a pure function of (seed, epoch): it does not
depend on workers, ranks or on the epochs before, so that a resumed run sees the same images.

Everywhere, ``labels`` is int64 [N], the class 0..C-1 of each sample, ``seed`` is that of the run,
and ``epoch`` counts from 0. Orders are int64 positions in ``labels``.
"""

from typing import Literal

import torch

from ltcli.compute.seeds import derive

Sampler = Literal["instance-balanced", "class-aware", "square-root", "reversed", "progressive"]


def _generator(purpose: str, seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(purpose, seed, epoch))


def instance_balanced(num_samples: int, *, seed: int, epoch: int) -> torch.Tensor:
    """Return every sample once, shuffled: a permutation of 0..N-1."""
    generator = _generator("instance_balanced", seed, epoch)
    return torch.randperm(num_samples, generator=generator)


def class_aware(
    labels: torch.Tensor,
    num_classes: int,
    *,
    seed: int,
    epoch: int,
    length: int,
    draws_per_class: int = 4,
) -> torch.Tensor:
    """Return [length] samples in which every class that has any is drawn equally often.

    A cycle visits the classes in random order and takes ``draws_per_class`` images from each in a
    row; the next cycle has another order, and the last one is cut. The images of a class come in
    random order, and in another one when all have been seen. Classes without images are left out.

    Source: Liu et al., CVPR 2019, arXiv 1904.05160, released code (ClassAwareSampler); Kang et al.,
    ICLR 2020, arXiv 1910.09217. The released sampler continues where the last epoch stopped and is
    n_max * C long unless it is cut; here each epoch starts afresh and has the requested length.
    """
    generator = _generator("class_aware", seed, epoch)
    class_counts = torch.bincount(labels, minlength=num_classes)
    # K classes have images. From here on a class is its rank among them.
    counts = class_counts[class_counts > 0]
    by_class = torch.argsort(labels, stable=True)
    first = counts.cumsum(0) - counts
    K = len(counts)  # noqa: N806  - size letter
    cycles = -(-length // (draws_per_class * K))

    # A class is drawn cycles * draws times: that takes so many passes over its images. All passes
    # of all classes are shuffled at once; a pass is a segment of n_c entries.
    passes = -(-(cycles * draws_per_class) // counts)
    pass_sizes = counts.repeat_interleave(passes)
    segments = torch.arange(len(pass_sizes)).repeat_interleave(pass_sizes)
    within = torch.arange(len(segments)) - (pass_sizes.cumsum(0) - pass_sizes)[segments]
    images = by_class[first.repeat_interleave(passes)[segments] + within]
    streams = images[_shuffle_within(segments, generator)]
    stream_start = (counts * passes).cumsum(0) - counts * passes

    cycle = torch.arange(cycles).repeat_interleave(K)
    visited = _shuffle_within(cycle, generator) % K
    start = stream_start[visited] + cycle * draws_per_class
    return streams[(start[:, None] + torch.arange(draws_per_class)).flatten()[:length]]


def class_probabilities(
    class_counts: torch.Tensor, sampler: Sampler, progress: float
) -> torch.Tensor:
    """Return the probability of each class under a sampler, float64 [C].

        square-root  ~ n_c^(1/2)
        reversed     ~ 1 / n_c
        progressive  (1 - progress) n_c / N + progress / C

    ``progress`` is the part of the run that is over, 0..1. Classes without samples are never drawn.

    Source: Kang et al., ICLR 2020, arXiv 1910.09217, eq. 1 and 2 (square-root, progressive); Zhou,
    Cui, Wei, Chen, CVPR 2020, arXiv 1912.02413, section 4.2 (reversed).
    """
    counts = class_counts.double()
    present = (counts > 0).double()
    if sampler == "square-root":
        weights = counts.sqrt()
    elif sampler == "reversed":
        # The bound keeps classes without samples at zero instead of 0 / 0.
        weights = present / counts.clamp(min=1)
    else:
        equal = present / present.sum()
        weights = (1 - progress) * counts / counts.sum() + progress * equal
    return weights / weights.sum()


def by_class(
    labels: torch.Tensor, probabilities: torch.Tensor, *, seed: int, epoch: int, length: int
) -> torch.Tensor:
    """Return [length] samples: a class is drawn first, then one of its samples, with replacement.

    ``probabilities`` is float64 [C], and zero for classes without samples.
    """
    generator = _generator("by_class", seed, epoch)
    classes = torch.multinomial(probabilities, length, replacement=True, generator=generator)
    return members(labels, classes, len(probabilities), generator)


def members(
    labels: torch.Tensor, classes: torch.Tensor, num_classes: int, generator: torch.Generator
) -> torch.Tensor:
    """Return a random sample of each of some classes, with replacement, shaped as ``classes``.

    ``classes`` is int64 of any shape, and names only classes that have samples.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    first = counts.cumsum(0) - counts
    # One range for all classes, so that one call draws for classes of every size.
    within = torch.randint(2**31, classes.shape, generator=generator) % counts[classes]
    return torch.argsort(labels, stable=True)[first[classes] + within]


def order_of(
    sampler: Sampler, labels: torch.Tensor, num_classes: int, *, seed: int, epoch: int, epochs: int
) -> torch.Tensor:
    """Return the order [N] of an epoch under a sampler, in a run of ``epochs``."""
    length = len(labels)
    if sampler == "instance-balanced":
        return instance_balanced(length, seed=seed, epoch=epoch)
    if sampler == "class-aware":
        return class_aware(labels, num_classes, seed=seed, epoch=epoch, length=length)
    counts = torch.bincount(labels, minlength=num_classes)
    probabilities = class_probabilities(counts, sampler, epoch / max(1, epochs - 1))
    return by_class(labels, probabilities, seed=seed, epoch=epoch, length=length)


def some_of_each(labels: torch.Tensor, num_classes: int, count: int, *, seed: int) -> torch.Tensor:
    """Return ``count`` random samples of each class, or all of a class that has fewer."""
    shuffled = torch.randperm(len(labels), generator=_generator("some_of_each", seed, 0))
    by_class = [shuffled[labels[shuffled] == c][:count] for c in range(num_classes)]
    return torch.cat(by_class)


def balanced(labels: torch.Tensor) -> torch.Tensor:
    """Return every sample once, in order, then those of smaller classes up to the largest class."""
    again = []
    largest = int(labels.bincount().max())
    for c in range(int(labels.max()) + 1):
        members = (labels == c).nonzero()[:, 0]
        # Whole passes over a class, the last one cut, so that no sample comes two times more than
        # another.
        times = -(-largest // max(1, len(members)))
        again.append(members.repeat(times)[len(members) : largest])
    return torch.cat([torch.arange(len(labels)), *again])


def random_batches(
    rows: torch.Tensor, size: int, steps: int, *, seed: int, epoch: int
) -> torch.Tensor:
    """Return a random subset of rows for each step, int64 [steps, size].

    ``rows`` is int64 [V], and ``size`` at most V: within a step no row comes twice.
    """
    generator = _generator("random_batches", seed, epoch)
    drawn = [torch.randperm(len(rows), generator=generator)[:size] for _ in range(steps)]
    return rows[torch.stack(drawn)]


def _shuffle_within(segments: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return positions that shuffle each segment in place; segments ascend."""
    # A stable sort of shuffled positions by segment keeps the random order within each.
    shuffled = torch.randperm(len(segments), generator=generator)
    return shuffled[torch.argsort(segments[shuffled], stable=True)]
