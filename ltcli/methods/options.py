"""Options that several methods share: the rule for head classes, and the base loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.params import param
from ltcli.methods.method import Loss

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch


@dataclass(frozen=True)
class HeadRule:
    """Options of methods that distinguish head classes from tail classes."""

    head: Literal["share", "top-k", "min-count"] = param(
        "share",
        "head classes: the fewest classes that hold this share of the images, the k largest, or"
        " those above a count",
    )
    head_at: float | None = param(
        None,
        "the share, the k or the count; default 0.9, 20 or 100; the default share leaves at least"
        " the smallest class in the tail",
    )


def head_of(options: HeadRule, class_counts: Sequence[int], where: str) -> list[bool]:
    """Whether each class is a head class; see ``ltcli.stats.head_classes``."""
    from ltcli.stats.head_classes import head_classes

    return head_classes(class_counts, options.head, options.head_at, where=where)


@dataclass(frozen=True)
class Base:
    """Options of methods with a choice of base losses."""

    base: Literal["ce", "focal", "ldam"] = param("ce", "base loss")
    gamma: float = param(1.0, "focal loss: exponent of the factor for easy samples", ge=0)
    max_margin: float = param(0.5, "LDAM: margin of the rarest class, logit units", ge=0)


def base_loss(options: Base, class_counts: torch.Tensor) -> Loss:
    """Base loss of logits; LDAM takes ordinary logits, as in the released code of MetaSAug."""
    from torch.nn import functional as F

    from ltcli.stats import losses

    # In float64 on the CPU, as MPS has none.
    margins = losses.margins(class_counts.cpu(), options.max_margin).float()
    margins = margins.to(class_counts.device)

    def loss(logits: torch.Tensor, labels: torch.Tensor, _batch: Batch) -> torch.Tensor:
        if options.base == "focal":
            return losses.focal(logits, labels, options.gamma)
        if options.base == "ldam":
            logits = losses.with_margins(logits, labels, margins)
        return F.cross_entropy(logits, labels, reduction="none")

    return loss
