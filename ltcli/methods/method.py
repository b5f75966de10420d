"""Record of the points where methods differ; every default is plain training.

Method files import torch inside their functions, so that the command line reads options and help
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from ltcli.core.params import param

if TYPE_CHECKING:
    import torch

    from ltcli.engine.steps import Batch, Steps
    from ltcli.methods.run import Run, SolvingRun, TrainingRun
    from ltcli.models.classifier import Classifier

    Loss = Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]
    """Logits float [B, C], labels int64 [B] and the batch to the losses float [B], nats."""

Options = TypeVar("Options")

BOTH = ("pretrain", "finetune")
FINETUNE = ("finetune",)


@dataclass(frozen=True)
class Head:
    """Initial classifier of a run, and its trained parts.

    Attributes:
        start: Start from the trained classifier, or from a fresh one. ``pretrain`` always has a
            fresh one.
        trainable: Any of weight, bias, scales, memory. A bias is trained only in linear form.
        rates: Multiple of the learning rate by parameter of the classifier, such as scales or
            memory.centroids, and for ``backbone``; 1 for the others.
        form: Form of a fresh classifier, see ``ltcli.models.classifier``.
        scale: Initial value of all factors; None keeps them.
        rare_bias: A fresh bias starts at -log(C - 1), at which every sigmoid is 1/C, and has no
            weight decay; otherwise it starts at 0.
    """

    start: Literal["trained", "fresh"] = "trained"
    trainable: tuple[str, ...] = ("weight", "bias")
    rates: Mapping[str, float] = field(default_factory=dict)
    form: str = "linear"
    scale: float | None = None
    rare_bias: bool = False


@dataclass(frozen=True)
class Method(Generic[Options]):
    """One method.

    ``loss`` or ``steps`` says how it trains; ``finetune`` prefers ``solve`` where there is one.
    Every function takes the method's own options and the run.

    Attributes:
        summary: One line.
        source: Authors, venue, year, arXiv id.
        stages: Stages whose ``--method`` offers it.
        options: Frozen dataclass of its own parameters.
        defaults: By stage, the method's defaults for the stage's parameters and for its options.
        loss: Makes the function from logits to the losses of samples.
        steps: Makes steps of its own.
        solve: Computes the classifier in closed form. Also returns, by name, the options that it
            chose itself.
        balances: Whether it takes the class prior out of the classifier by itself, without class
            weights or a sampler.
        alone: Whether one process must run it, as its steps use more than a batch's features.
        head: Initial classifier, its form and its trained parts.
        backbone: Variant of the backbone, see ``ltcli.models``; empty for the plain one.
        reads: Inputs beside model and data: covariances, confusion, generator, maps, held-out.
        set_aside: Number of training images per class that it does not train on.
        check: Raises all errors that can be known before any work.
    """

    summary: str
    source: str
    stages: tuple[str, ...]
    options: type[Options]
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    loss: Callable[[Options, TrainingRun], Loss] | None = None
    steps: Callable[[Options, TrainingRun], Steps] | None = None
    solve: Callable[[Options, SolvingRun], tuple[Classifier, dict[str, Any]]] | None = None
    balances: Callable[[Options, Run], bool] = lambda _options, _run: True
    alone: bool = False
    head: Callable[[Options, Run], Head] = lambda _options, _run: Head()
    backbone: Callable[[Options, Run], str] = lambda _options, _run: ""
    reads: Callable[[Options, Run], tuple[str, ...]] = lambda _options, _run: ()
    set_aside: Callable[[Options, Run], int] = lambda _options, _run: 0
    check: Callable[[Options, Run], None] = lambda _options, _run: None


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
