"""Which classes are head classes."""

from typing import Literal

import torch
from torch import Tensor

from ltcli.core.errors import ParamError

Rule = Literal["share", "top-k", "min-count"]

# What the papers use: Feature Space Augmentation 0.9, RISDA 20 on CIFAR-100 and 100 elsewhere.
DEFAULTS = {"share": 0.9, "top-k": 20.0, "min-count": 100.0}


def head_classes(class_counts: Tensor, rule: Rule, value: float | None, *, where: str) -> Tensor:
    """Return which classes are head classes, bool [C]; the others are tail classes.

    Args:
        class_counts: int64 [C], training images.
        rule: share: the fewest classes that have at least this share of the images; top-k: the k
            largest; min-count: those with more images than this.
        value: The share, k or count; None for the rule's default. Of equal classes the first count.
        where: What an error names.

    Raises:
        ParamError: The value does not fit the rule, or no class is left on one side.
    """
    value = DEFAULTS[rule] if value is None else value
    classes = len(class_counts)
    if rule == "min-count":
        head = class_counts > value
    else:
        order = class_counts.argsort(descending=True, stable=True)
        if rule == "top-k":
            if value != int(value) or not 1 <= value < classes:
                rules = f"head-at must be a whole number from 1 to {classes - 1} for top-k"
                hint = f"there are {classes} classes, and some must be left for the tail"
                raise ParamError(where, f"{rules}, got {value:g}", hint)
            count = int(value)
        else:
            if not 0 < value < 1:
                rules = "head-at must be greater than 0 and less than 1 for share"
                raise ParamError(where, f"{rules}, got {value:g}")
            # In whole images: a share that is met exactly counts as met.
            reached = class_counts[order].cumsum(0).to(torch.float64)
            count = int((reached < value * float(class_counts.sum()) - 1e-9).sum()) + 1
        head = torch.zeros(classes, dtype=torch.bool, device=class_counts.device)
        head[order[:count]] = True
    if head.all() or not head.any():
        side = "tail" if head.all() else "head"
        hint = "choose another --head or --head-at"
        raise ParamError(where, f"no class is a {side} class by {rule} {value:g}", hint)
    return head
