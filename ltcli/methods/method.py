"""The record of the points where methods differ, and what a method knows of a run.

Every default of the record is plain training. Nothing here, and nothing in a method's file, imports
torch when it is loaded, so that the command line can read options and help without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import nested, param
from ltcli.data.reading import Reading
from ltcli.engine.schedules import Schedule

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.data.batches import Batch, Samples
    from ltcli.engine.optimizers import Optimizer
    from ltcli.engine.state import Stateful
    from ltcli.engine.steps import Inputs, Reduce, Steps
    from ltcli.models.classifier import Classifier
    from ltcli.models.generator import Generator
    from ltcli.models.network import Network
    from ltcli.stats.quadratic import Covariances

# As a string, which needs no torch when it is loaded.
Loss: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]"
"""Logits float [B, C], labels int64 [B] and the batch to the losses float [B], nats."""

_SCHEDULE, _IMBALANCE = "Schedule", "Class imbalance"
_AUGMENTATION, _RUNNING = "Augmentation", "Running"


@dataclass(frozen=True, kw_only=True)
class Training(Reading):
    """Parameters that pretrain and finetune share; None stands for the value of the schedule."""

    method: str = param(help="method, or a list a,b; see ltcli methods")
    options: object = nested()
    optimizer: Literal["auto", "sgd", "adam", "lbfgs"] = param(
        "auto",
        "lbfgs solves for a classifier on features; auto: that on embeddings, else sgd",
        group=_SCHEDULE,
    )
    epochs: int | None = param(
        None, "length; an epoch draws as many samples as there are", ge=0, group=_SCHEDULE
    )
    batch_size: int | None = param(None, "samples per step", ge=2, group=_SCHEDULE)
    lr: float | None = param(None, "base learning rate", gt=0, group=_SCHEDULE)
    milestones: tuple[int, ...] | None = param(
        None, "first epochs of the later phases of the learning rate", ge=1, group=_SCHEDULE
    )
    factors: tuple[float, ...] | None = param(
        None, "multiples of the base learning rate in these phases", gt=0, group=_SCHEDULE
    )
    momentum: float = param(0.9, "momentum of SGD", ge=0, lt=1, group=_SCHEDULE)
    nesterov: bool | None = param(None, "use Nesterov momentum", group=_SCHEDULE)
    weight_decay: float | None = param(None, "L2 coefficient", ge=0, group=_SCHEDULE)
    l2: float | None = param(
        None, "L2 coefficient of lbfgs; default: best of 5 folds", gt=0, group=_SCHEDULE
    )
    beta: float = param(
        0.0, "effective-number class weights: 0 none, towards 1: 1/n", ge=0, lt=1, group=_IMBALANCE
    )
    reduction: Literal["weighted-mean", "mean-of-weighted"] = param(
        "weighted-mean",
        "normalise by the sum of the weights, or by the batch size",
        group=_IMBALANCE,
    )
    sampler: Literal[
        "instance-balanced", "class-aware", "square-root", "reversed", "progressive"
    ] = param("instance-balanced", "sampling of the training images", group=_IMBALANCE)
    mixup: float = param(
        0.0, "alpha of mixup's Beta distribution; 0 is no mixup", ge=0, group=_AUGMENTATION
    )
    padding: int = param(
        4, "border in pixels for the random crop; 0 is no crop", ge=0, group=_AUGMENTATION
    )
    pad_mode: Literal["constant", "reflect"] | None = param(
        None, "border, black or mirrored", group=_AUGMENTATION
    )
    flip: bool = param(True, "flip images horizontally at random", group=_AUGMENTATION)
    least_area: float = param(
        0.08,
        "image files: smallest part of the image a crop keeps",
        gt=0,
        le=1,
        group=_AUGMENTATION,
    )
    jitter: float = param(
        0.0, "image files: random brightness, contrast, saturation", ge=0, le=1, group=_AUGMENTATION
    )
    snapshots: int = param(0, "number of last epochs to keep the weights of", ge=0, group=_RUNNING)
    seed: int = param(
        0, "seed of initial weights, order and augmentation", ge=0, lt=2**32, group=_RUNNING
    )
    cuda_graph: bool = param(False, "repeat the training step as a CUDA graph", group=_RUNNING)


def with_given(
    schedule: Schedule, params: Training, stage: str, warmup: int | None = None
) -> Schedule:
    """Schedule with the numbers that the parameters give, except its length."""
    # The length stays that of the publication, as milestones move in proportion to it.
    names = ("batch_size", "lr", "milestones", "factors", "weight_decay", "nesterov", "pad_mode")
    given = {name: getattr(params, name) for name in names} | {"warmup": warmup}
    given = {name: value for name, value in given.items() if value is not None}
    schedule = dataclasses.replace(schedule, **given)
    if len(schedule.milestones) != len(schedule.factors):
        rule = f"factors must be as many as milestones ({len(schedule.milestones)})"
        raise ParamError(stage, f"{rule}, got {len(schedule.factors)}")
    return schedule


@dataclass(frozen=True)
class Run:
    """A run before it starts, with its schedule decided.

    Attributes:
        solver: Optimiser: sgd, adam, or lbfgs, which has no epochs.
        whole: Whether the backbone is trained too.
        bank: Whether samples are features of a feature bank instead of images.
        deferred: First epoch with class weights and with the sampler.
        headers: Headers of the inputs by role; empty while the inputs are still being chosen.
    """

    stage: str
    params: Training
    schedule: Schedule
    solver: str
    whole: bool
    bank: bool
    deferred: int
    headers: Mapping[str, Header]

    @property
    def epochs(self) -> int:
        """Epochs of this run."""
        if self.solver == "lbfgs":
            return 0
        given = self.params.epochs
        return self.schedule.epochs if given is None else given

    @property
    def source(self) -> str:
        """Role of the artifact that holds the samples: feature bank or split."""
        return "features" if self.bank else "split"

    @property
    def data(self) -> Header:
        """Header of that artifact."""
        return self.headers[self.source]


@dataclass(frozen=True)
class TrainingRun(Run):
    """A run that trains. Tensors are on the device.

    Attributes:
        optimizer: Its groups have the epoch's learning rate.
        inputs: Makes the images of a step if ``whole``, else its features, float32 [B, D].
        maps: Makes the feature maps of a step, float32 [B, D, Y, X]; None unless the method reads
            "maps".
        labels: int64 [N], training samples.
        held_out: Makes images or features of held-out samples, as ``inputs`` does; None, like
            their labels int64 [V], unless the method reads "held-out".
        class_counts: int64 [C], samples that are trained on.
        order: Epoch to the rows that the sampler draws, int64 on the CPU.
        dtype: Precision of the backbone's forward pass.
        samples: Images of the training part; None for a feature bank.
        means: float32 [C, D], class means of the training features, feature units.
        graph: float32 [C, C], fraction of class-i training images predicted as class j.
        scores: float32 [C, C], mean probability of class j over training images of class i.

    ``means`` and ``covariances`` are None unless the method reads "covariances", ``graph`` and
    ``scores`` unless it reads "confusion", ``generator`` unless it reads "generator".
    """

    network: Network
    optimizer: Optimizer
    inputs: Inputs
    maps: Inputs | None
    labels: torch.Tensor
    held_out: Inputs | None
    held_out_labels: torch.Tensor | None
    class_counts: torch.Tensor
    order: Callable[[int], torch.Tensor]
    reduce: Reduce
    dtype: torch.dtype
    samples: Samples | None = None
    means: torch.Tensor | None = None
    covariances: Covariances | None = None
    graph: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    generator: Generator | None = None

    @property
    def seed(self) -> int:
        """Seed of everything that the run draws."""
        return self.params.seed

    @property
    def batch_size(self) -> int:
        """Samples per step."""
        return self.schedule.batch_size

    def features(self, batch: Batch) -> torch.Tensor:
        """Features of a step, float32 [B, D], with gradients if ``whole``."""
        return self.features_of(self.inputs(batch))

    def features_of(self, inputs: torch.Tensor) -> torch.Tensor:
        """Features, float32 [B, D], of the output of ``inputs`` or ``held_out``."""
        from ltcli.compute.device import autocast

        # A frozen backbone has done its work before training.
        if not self.whole:
            return inputs
        with autocast(self.labels.device, self.dtype):
            features: torch.Tensor = self.network.features(inputs)
        return features.float()

    def cross_entropy(
        self, logits: torch.Tensor, labels: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """Mean cross-entropy of a step, float [], with class weights."""
        from torch.nn import functional as F

        return self.reduce(F.cross_entropy(logits, labels, reduction="none"), labels, batch)

    def feature_steps(self, loss: Loss, state: Stateful | None = None) -> Steps:
        """Steps on the mean loss, float [], of features float [B, D], labels and batch."""
        from ltcli.engine.steps import Steps, descent

        def objective(batch: Batch) -> torch.Tensor:
            return loss(self.features(batch), self.labels[batch.rows], batch)

        return Steps(descent(self.optimizer, objective), state=state)


@dataclass(frozen=True)
class SolvingRun(Run):
    """A run that computes the classifier in closed form, on the CPU.

    Attributes:
        classifier: Trained classifier; a method may change it.
        class_counts: int64 [C], training images.
        features: float [N, D], training images; their labels are int64 [N].
        val_features: float [V, D], validation images; V may be 0.
        means: float32 [C, D], class means, feature units.
        covariance_counts: int64 [C], images that means and covariances come from.

    ``means``, ``covariances`` and their counts are None unless the method reads "covariances".
    """

    classifier: Classifier
    class_counts: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor
    val_features: torch.Tensor
    val_labels: torch.Tensor
    means: torch.Tensor | None = None
    covariances: Covariances | None = None
    covariance_counts: torch.Tensor | None = None


Options = TypeVar("Options")

BOTH = ("pretrain", "finetune")
FINETUNE = ("finetune",)


@dataclass(frozen=True)
class Head:
    """Initial classifier of a run, and its trained parts.

    Attributes:
        start: Trained classifier or a fresh one; ``pretrain`` always has a fresh one.
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
        source: Authors, venue, year, arXiv id.
        defaults: By stage, the method's defaults for the stage's parameters and for its options.
        solve: Computes the classifier in closed form; also returns the options that it chose.
        balances: Whether it takes the class prior out of the classifier by itself, without class
            weights or a sampler.
        alone: Whether one process must run it, as its steps use more than a batch's features.
        on_host: Whether its steps draw numbers, read labels or choose rows on the CPU, so that no
            CUDA graph can repeat them.
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
    on_host: bool = False
    head: Callable[[Options, Run], Head] = lambda _options, _run: Head()
    backbone: Callable[[Options, Run], str] = lambda _options, _run: ""
    reads: Callable[[Options, Run], tuple[str, ...]] = lambda _options, _run: ()
    set_aside: Callable[[Options, Run], int] = lambda _options, _run: 0
    check: Callable[[Options, Run], None] = lambda _options, _run: None


def require_moving_backbone(run: Run) -> None:
    """Refuse a frozen backbone and embeddings, for a loss that only the features can lower."""
    method = run.params.method
    if not run.whole:
        hint = "its loss is a function of the features, which only the backbone changes"
        raise ParamError(run.stage, f"train must be all for {method}, got classifier", hint)
    if run.headers["split"].info["store"] == "features":
        hint = "embeddings have no backbone that could learn other features"
        raise ParamError(run.stage, f"{method} must not be used on embeddings", hint)


def require_frozen_backbone(run: Run, why: str) -> None:
    """Refuse training of the backbone, for a method that rests on its present features."""
    if run.whole:
        raise ParamError(
            run.stage, f"train must be classifier for {run.params.method}, got all", why
        )


def require_instance_balanced(run: Run, rule: str, hint: str) -> None:
    """Refuse every sampler but instance-balanced."""
    if run.params.sampler != "instance-balanced":
        rule = f"sampler must be instance-balanced {rule}, got {run.params.sampler}"
        raise ParamError(run.stage, rule, hint)


def require_linear(model: Header) -> None:
    """Refuse a model whose logits are not linear in the features."""
    # The closed forms hold for logits W f + b, up to a factor for each class.
    form = model.info["classifier"]
    if form != "linear":
        hint = "start from a model whose logits are linear in the features, not one of ldam or ncm"
        raise ArtifactError(model.path, f"classifier must be linear, got {form}", hint)


def require_activation_maps(model: Header) -> None:
    """Refuse a classifier whose logits are not a sum over the positions of feature maps."""
    # Experts average cosines that are normalised one by one, and a memory classifier enriches the
    # features. A cosine classifier differs from a linear one by a factor for the whole map.
    form = model.info["classifier"]
    if form not in ("linear", "cosine"):
        rule = f"must have a linear or cosine classifier for activation maps, got {form}"
        raise ArtifactError(model.path, rule, "start from a model of another method")


def refuse_class_weights(run: Run, why: str) -> None:
    """Refuse class weights, for a method whose steps ignore them."""
    if run.params.beta > 0:
        rule = f"beta must be 0 for {run.params.method}, got {run.params.beta}"
        raise ParamError(run.stage, rule, why)
