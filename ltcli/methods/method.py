"""The record of the points where methods differ; every default is plain training.

Method files import torch inside their functions, so that the command line can read parameters and
help without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from ltcli.models.classifier import Classifier

    Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Logits float [B, C] and labels int64 [B] to the mean loss float [], nats."""

BOTH = ("pretrain", "finetune")
FINETUNE = ("finetune",)


@dataclass(frozen=True)
class NoParams:
    """A method without parameters of its own."""


@dataclass(frozen=True)
class Trained:
    """What a closed-form method works from.

    Attributes:
        classifier: The trained classifier; a method may change it.
        class_counts: int64 [C], training images.
        features: float [N, D] of the training images.
        labels: int64 [N].
        val_features: float [V, D] of the validation images; V may be 0.
        val_labels: int64 [V].
    """

    classifier: Classifier
    class_counts: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor
    val_features: torch.Tensor
    val_labels: torch.Tensor


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        summary: One line.
        source: Authors, venue, year, arXiv id.
        stages: Where it can be chosen with ``--method``.
        params: Frozen dataclass of its parameters.
        loss: Makes the training loss from parameters and class_counts (int64 [C], on the device).
        balances: Whether its classifier no longer follows the class prior of the training set.
        sampler: The order in which fine-tuning draws training samples.
        start: What fine-tuning starts from: the trained classifier, or a fresh one.
        trainable: The parameters of the classifier that fine-tuning trains: weight, bias, scales.
        solve: Makes the classifier in closed form instead of by fine-tuning, with a record of what
            it chose for the log.
    """

    summary: str
    source: str
    stages: tuple[str, ...]
    params: type = NoParams
    loss: Callable[[Any, torch.Tensor], Loss] | None = None
    balances: bool = True
    sampler: Literal["instance-balanced", "class-aware"] = "instance-balanced"
    start: Literal["trained", "fresh"] = "trained"
    trainable: tuple[str, ...] = ("weight", "bias")
    solve: Callable[[Any, Trained], tuple[Classifier, dict[str, Any]]] | None = None
