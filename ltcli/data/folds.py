"""Folds of cross-validation inside the training images."""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def folds(labels: Indices, count: int, seed: int, groups: Indices | None = None) -> Indices:
    """Return the fold in which each image is held out, int64 [N]: 0 ... count - 1, or -1 for never.

    Classes are spread over the folds as evenly as can be, and a fold never holds all images of a
    class: a class of one image, or of one group, is never held out, and one of fewer images than
    folds is held out in as many folds as it has images. Images of a group, int64 [N], are held out
    together.
    """
    if groups is None:
        groups = np.arange(len(labels))
    random = np.random.RandomState(seed)
    order = np.argsort(groups, kind="stable").astype(np.int64, copy=False)
    members = [of for of in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(of)]
    random.shuffle(members)
    num_classes = int(labels.max(initial=-1)) + 1
    held = np.zeros((count, num_classes), np.int64)
    sizes = np.bincount(labels, minlength=num_classes)
    found = np.full(len(labels), -1, np.int64)
    # Large groups first, as small ones fill what they leave; images one class after the other.
    for positions in sorted(members, key=lambda of: (-len(of), int(labels[of[0]]))):
        classes, amounts = np.unique(labels[positions], return_counts=True)
        # The fold that has the least of these classes, as shares of them; of equals, the emptiest.
        shares = (held[:, classes] * (amounts / sizes[classes])).sum(1)
        # Nothing would be left to train on.
        full = np.any(held[:, classes] + amounts >= sizes[classes], axis=1)
        if full.all():
            continue
        fold = min(range(count), key=lambda f: (full[f], shares[f], held[f].sum(), f))
        held[fold, classes] += amounts
        found[positions] = fold
    return found
