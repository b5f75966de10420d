"""Head classes by a rule. No torch, as checks run before any work."""

import itertools
from collections.abc import Sequence
from typing import Literal

from ltcli.core.errors import ParamError

Rule = Literal["share", "top-k", "min-count"]

# From the papers: Feature Space Augmentation 0.9, RISDA 20 on CIFAR-100 and 100 elsewhere.
DEFAULTS = {"share": 0.9, "top-k": 20.0, "min-count": 100.0}


def head_classes(
    class_counts: Sequence[int], rule: Rule, value: float | None, *, where: str
) -> list[bool]:
    """Whether each class is a head class; the others are tail classes.

    Rules, by their value: share: the fewest classes that hold this fraction of the images; top-k:
    the k largest classes; min-count: classes with more images than this. Among equals the first
    count. No value is the default of the rule; ``where`` is the subject of an error.
    """
    given, classes = value is not None, len(class_counts)
    value = DEFAULTS[rule] if value is None else value
    if rule == "min-count":
        head = [count > value for count in class_counts]
    else:
        # sorted is stable, so that among equals the first classes count as head.
        order = sorted(range(classes), key=lambda c: -class_counts[c])
        if rule == "top-k":
            if value != int(value) or not 1 <= value < classes:
                rules = f"head-at must be a whole number from 1 to {classes - 1} for top-k"
                hint = f"there are {classes} classes, and some must be left for the tail"
                raise ParamError(where, f"{rules}, got {value:g}", hint)
            size = int(value)
        else:
            if not 0 < value < 1:
                rules = "head-at must be greater than 0 and less than 1 for share"
                raise ParamError(where, f"{rules}, got {value:g}")
            reached = itertools.accumulate(class_counts[c] for c in order)
            # In whole images: a fraction that is met exactly counts as met in spite of rounding.
            wanted = value * sum(class_counts) - 1e-9
            size = 1 + sum(images < wanted for images in reached)
            if not given:
                # The default suits many classes; of a few, all but the smallest may hold less.
                size = min(size, classes - 1)
        largest = set(order[:size])
        head = [c in largest for c in range(classes)]
    if all(head) or not any(head):
        side = "tail" if all(head) else "head"
        hint = "choose another --head or --head-at"
        raise ParamError(where, f"no class is a {side} class by {rule} {value:g}", hint)
    return head
