"""The record of the points where methods differ; every default is plain training.

Method files import torch inside their functions, so that the command line can read parameters and
help without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ltcli.core.params import param

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.engine.fit import Batch
    from ltcli.engine.state import Stateful
    from ltcli.engine.steps import Augmented, Inputs, Reduce
    from ltcli.models.classifier import Classifier
    from ltcli.models.generator import Generator
    from ltcli.models.network import Network
    from ltcli.stats.quadratic import Covariances

    Loss = Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]
    """Logits float [B, C], labels int64 [B] and the batch to the losses float [B], nats."""

BOTH = ("pretrain", "finetune")
FINETUNE = ("finetune",)


@dataclass(frozen=True)
class NoParams:
    """A method without parameters of its own."""


@dataclass(frozen=True)
class HeadRule:
    """Parameters of methods that tell head classes from tail classes."""

    head: Literal["share", "top-k", "min-count"] = param(
        "share", "head classes: the fewest with a share of the images, the k largest, or by count"
    )
    head_at: float | None = param(
        None,
        "that share, that k, or the count to exceed; 0.9, 20 and 100 if not given, and this 0.9"
        " leaves at least the smallest class for the tail",
    )


def head_of(params: Any, class_counts: Sequence[int], where: str) -> list[bool]:
    """Return which classes are head classes by the parameters of ``HeadRule``.

    Raises:
        ParamError: See ``ltcli.stats.head_classes``.
    """
    from ltcli.stats.head_classes import head_classes

    return head_classes(class_counts, params.head, params.head_at, where=where)


@dataclass(frozen=True)
class Base:
    """Parameters of methods that can augment several base losses."""

    base: Literal["ce", "focal", "ldam"] = param("ce", "base loss")
    gamma: float = param(1.0, "exponent of the focal loss", ge=0)
    max_margin: float = param(0.5, "LDAM's margin of the rarest class, logit units", ge=0)


def base_loss(params: Base, class_counts: torch.Tensor) -> Loss:
    """Return the base loss of logits.

    LDAM has no scale here and takes ordinary logits, as in the released code of MetaSAug.
    """
    from torch.nn import functional as F

    from ltcli.stats import losses

    margins = losses.margins(class_counts.cpu(), params.max_margin).float()
    margins = margins.to(class_counts.device)

    def loss(logits: torch.Tensor, labels: torch.Tensor, _batch: Batch) -> torch.Tensor:
        if params.base == "focal":
            return losses.focal(logits, labels, params.gamma)
        if params.base == "ldam":
            logits = losses.with_margins(logits, labels, margins)
        return F.cross_entropy(logits, labels, reduction="none")

    return loss


def weighted_mean(params: Any, class_counts: torch.Tensor, first_epoch: int = 0) -> Reduce:
    """Return what makes the mean loss of a step, with class weights by the effective number.

    Args:
        params: With ``beta`` and ``reduction``.
        class_counts: int64 [C].
        first_epoch: Before this epoch, all weights are 1.
    """
    import torch

    from ltcli.stats import losses
    from ltcli.stats.class_weights import effective_number_weights

    weights = effective_number_weights(class_counts.cpu(), params.beta).float()
    weights = weights.to(class_counts.device)
    none = torch.ones_like(weights)

    def reduce(
        values: torch.Tensor,
        labels: torch.Tensor,
        batch: Batch,
        shares: torch.Tensor | None = None,
    ) -> torch.Tensor:
        now = weights if batch.epoch >= first_epoch else none
        shares = torch.ones_like(values) if shares is None else shares
        return losses.reduce(values, now[labels], params.reduction, shares)

    return reduce


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
class Head:
    """Where fine-tuning starts from, and what is trained of the classifier.

    Attributes:
        start: The trained classifier, or a fresh one. ``pretrain`` always has a fresh one.
        trainable: Any of weight, bias, scales, memory. A bias is trained in linear form alone.
        rates: Multiple of the learning rate of any parameter of the classifier, such as scales or
            memory.centroids, and of backbone; 1 for the others.
        form: Of a fresh classifier, see ``ltcli.models.classifier``.
        scale: Value of all factors at the start; None to leave them as they are.
        rare_bias: A fresh bias is -log(C - 1), at which every sigmoid is 1/C, and has no weight
            decay; otherwise it is 0.
    """

    start: Literal["trained", "fresh"] = "trained"
    trainable: tuple[str, ...] = ("weight", "bias")
    rates: Mapping[str, float] = field(default_factory=dict)
    form: str = "linear"
    scale: float | None = None
    rare_bias: bool = False


@dataclass(frozen=True)
class Setting:
    """What the steps of a method work from. Tensors are on the device.

    Attributes:
        network: Backbone and classifier. Unless ``whole``, the backbone is frozen.
        whole: Whether the backbone is trained too.
        optimizer: Over what is trained; its groups hold the learning rate of the epoch.
        inputs: Makes the images of a step if ``whole``, else its features, float32 [B, D].
        maps: Makes the feature maps of a step, float32 [B, D, Y, X]; None unless the method reads
            "maps".
        labels: int64 [N], of the training samples.
        held_out: Makes images or features, as ``inputs``, of held-out samples; None, as their
            labels, unless the method reads "held-out".
        held_out_labels: int64 [V].
        class_counts: int64 [C], of what is trained on.
        order: Rows that an epoch draws by the sampler, int64 on the CPU.
        reduce: Losses of a step's samples, float [B], labels and batch to the mean, float [].
        epochs: Length of the run.
        batch_size: Rows of a step.
        seed: Of everything that is drawn.
        dtype: Precision of the backbone's forward pass.
        means: float32 [C, D], class means of the training features, feature units.
        covariances: Of the training features, by class.
        graph: float32 [C, C], share of class-i training images that were predicted as j.
        scores: float32 [C, C], mean probability of j over the training images of class i.
        generator: The trained network of ``stg-train``.
        images: Makes the augmented images of a step; None if features come from a bank.

    ``means`` and ``covariances`` are None unless the method reads "covariances", ``graph`` and
    ``scores`` unless it reads "confusion", ``generator`` unless it reads "generator".
    """

    network: Network
    whole: bool
    optimizer: torch.optim.Optimizer
    inputs: Inputs
    maps: Inputs | None
    labels: torch.Tensor
    held_out: Inputs | None
    held_out_labels: torch.Tensor | None
    class_counts: torch.Tensor
    order: Callable[[int], torch.Tensor]
    reduce: Reduce
    epochs: int
    batch_size: int
    seed: int
    dtype: torch.dtype
    means: torch.Tensor | None = None
    covariances: Covariances | None = None
    graph: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    generator: Generator | None = None
    images: Augmented | None = None

    def features(self, batch: Batch) -> torch.Tensor:
        """Return the features of a step, float32 [B, D], with gradients if ``whole``."""
        return self.features_of(self.inputs(batch))

    def features_of(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the features of what ``inputs`` or ``held_out`` made, float32 [B, D]."""
        from ltcli.compute.device import autocast

        if not self.whole:
            return inputs
        with autocast(self.labels.device, self.dtype):
            features: torch.Tensor = self.network.features(inputs)
        return features.float()


@dataclass(frozen=True)
class Steps:
    """The training of a method that is more than a loss of logits.

    Attributes:
        step: Does one optimisation step and returns its mean loss, float [].
        order: Rows that an epoch draws, int64 on the CPU; None for those of the method's sampler.
        state: What a resumed run needs beside weights and optimiser.
        facts: What the log of each epoch shall say beside the loss, since the last call.
    """

    step: Callable[[Batch], torch.Tensor]
    order: Callable[[int], torch.Tensor] | None = None
    state: Stateful | None = None
    facts: Callable[[], dict[str, float]] | None = None


@dataclass(frozen=True)
class Method:
    """One method.

    ``loss`` or ``steps`` says how it trains; ``finetune`` prefers ``solve`` where there is one.
    Functions of (params, ...) get the stage's parameters with the method's own.

    Attributes:
        summary: One line.
        source: Authors, venue, year, arXiv id.
        stages: Where it can be chosen with ``--method``.
        params: Frozen dataclass of its parameters.
        defaults: By stage, defaults of its parameters and of its own that the method has there.
        loss: (params, class_counts int64 [C] on the device) to the losses of samples.
        steps: Makes steps of its own from own parameters and the setting, for ``finetune``.
        solve: Makes the classifier in closed form, with the values of own parameters, by name, that
            it chose because they were not given.
        balances: (params) to whether it takes the class prior out of the classifier by itself,
            without weights or a sampler.
        alone: Whether one process must run it, as its steps do more than use a batch's features.
        head: From own parameters to where fine-tuning starts, what is trained, and the form.
        backbone: From own parameters to what is put behind the backbone's name, see
            ``ltcli.models.network``.
        reads: (params) to what it needs beside model and data: covariances, confusion, generator,
            maps, held-out.
        counts: From own parameters and the samples of each class, int64 [C], to those trained on.
        check: (params, headers of the inputs by role) raises what is wrong before any work.
    """

    summary: str
    source: str
    stages: tuple[str, ...]
    params: type = NoParams
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    loss: Callable[[Any, torch.Tensor], Loss] | None = None
    steps: Callable[[Any, Setting], Steps] | None = None
    solve: Callable[[Any, Trained], tuple[Classifier, dict[str, Any]]] | None = None
    balances: Callable[[Any], bool] = lambda _params: True
    alone: bool = False
    head: Callable[[Any], Head] = lambda _options: Head()
    backbone: Callable[[Any], str] = lambda _options: ""
    reads: Callable[[Any], tuple[str, ...]] = lambda _params: ()
    counts: Callable[[Any, torch.Tensor], torch.Tensor] = lambda _options, class_counts: (
        class_counts
    )
    check: Callable[[Any, Mapping[str, Header]], None] = lambda _params, _headers: None
