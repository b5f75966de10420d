"""From the artifacts of ``finetune`` to what its methods work from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ltcli import methods
from ltcli.artifacts.backbone import backbone_of
from ltcli.artifacts.store import Artifact
from ltcli.compute.device import autocast
from ltcli.compute.parallel import here
from ltcli.data.batches import Augmentation
from ltcli.data.samplers import order_of
from ltcli.engine.fit import Batch
from ltcli.engine.infer import backbone_features, backbone_maps, features_of
from ltcli.engine.schedules import Schedule
from ltcli.engine.steps import Augmented, Inputs, Mixing, plain_step
from ltcli.methods.method import Head, Method, Setting, Steps, Trained, weighted_mean
from ltcli.models.classifier import Classifier
from ltcli.models.generator import load_generator
from ltcli.models.network import Network, build_classifier
from ltcli.stages.samples import open_samples
from ltcli.stats import quadratic


def trained(
    params: Any,
    inputs: Mapping[str, Artifact],
    network: Network,
    class_counts: torch.Tensor,
    dtype: torch.dtype,
) -> Trained:
    """Return what closed-form methods work from, on the CPU."""
    parts = {}
    device = network.classifier.weight.device
    for part in ("train", "val"):
        if params.data == "features":
            bank = inputs["features"]
            features = bank.tensor(f"{part}.features").float()
            labels = bank.tensor(f"{part}.labels")
        else:
            split = inputs["split"]
            backbone = backbone_of(inputs["model"].header)
            samples = open_samples(split, part, device, params, backbone)
            features = features_of(network, samples, dtype)
            labels = split.tensor(f"{part}.labels")
        parts[part] = (features, labels)
    return Trained(network.classifier.cpu(), class_counts, *parts["train"], *parts["val"])


def prepare(
    params: Any,
    schedule: Schedule,
    method: Method,
    inputs: Mapping[str, Artifact],
    network: Network,
    class_counts: torch.Tensor,
    dtype: torch.dtype,
) -> Setting:
    """Ready a network for training and gather what a method's steps need.

    Args:
        params: The stage's parameters with the method's.
        schedule: Learning rates, weight decay.
        method: The method.
        inputs: The artifacts, by role.
        network: In eval mode, on the device; gets a fresh classifier, and gradients where the
            method trains.
        class_counts: int64 [C].
        dtype: Precision of the backbone.
    """
    device = network.classifier.weight.device
    whole = params.train == "all"
    reads, options = method.reads(params), methods.options(method, params)
    head, counts = method.head(options), method.counts(options, class_counts.to(device))
    is_fresh = head.start == "fresh"
    if is_fresh:
        num_classes, dim = network.classifier.weight.shape
        classifier = build_classifier(dim, num_classes, params.seed, head.form)
        network.classifier = classifier.to(device)
    start_classifier(network.classifier, head, fresh=is_fresh)
    network.backbone.requires_grad_(whole)
    if whole or params.shift_bn:
        network.share(here())
    if whole:
        network.train()
    elif params.shift_bn:
        _train_batch_norms(network.backbone)
    source = _Source(params, inputs, network, dtype)
    on_cpu, labels = source.labels("train")

    def order(epoch: int) -> torch.Tensor:
        drawn = {"seed": params.seed, "epoch": epoch, "epochs": params.epochs}
        return order_of(params.sampler, on_cpu, len(class_counts), **drawn)

    statistics: dict[str, Any] = {}
    if "covariances" in reads:
        statistics["means"] = inputs["covariances"].tensor("means", device)
        statistics["covariances"] = _covariances(inputs["covariances"], device)
    if "confusion" in reads:
        statistics["graph"] = inputs["confusion"].tensor("graph", device)
        statistics["scores"] = inputs["confusion"].tensor("scores", device)
    if "generator" in reads:
        statistics["generator"] = load_generator(inputs["generator"], device)
    held_out = "held-out" in reads
    return Setting(
        network=network,
        whole=whole,
        optimizer=make_optimizer(
            network, head, schedule, momentum=params.momentum, kind=params.optimizer
        ),
        inputs=source.inputs("train", maps=False),
        maps=source.inputs("train", maps=True) if "maps" in reads else None,
        labels=labels,
        held_out=source.inputs("val", maps=False) if held_out else None,
        held_out_labels=source.labels("val")[1] if held_out else None,
        class_counts=counts,
        order=order,
        reduce=weighted_mean(params, counts),
        epochs=params.epochs,
        batch_size=params.batch_size,
        seed=params.seed,
        dtype=dtype,
        images=source.images("train") if params.data == "images" else None,
        **statistics,
    )


def _train_batch_norms(backbone: torch.nn.Module) -> None:
    """Let batch-norms follow what they see; dropout and the like stay off."""
    for module in backbone.modules():
        # The latter where several processes share the work.
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.SyncBatchNorm):
            module.train()


def make_steps(params: Any, method: Method, setting: Setting, mixing: Mixing | None) -> Steps:
    """Return the method's own steps, or those of plain training with its loss.

    Args:
        params: The stage's parameters with the method's.
        method: The method.
        setting: What is trained.
        mixing: Of inputs and labels, for methods without steps; None for none.
    """
    if method.steps is not None:
        return method.steps(methods.options(method, params), setting)
    network: Callable[[torch.Tensor], torch.Tensor] = setting.network
    inputs, dtype = setting.inputs, setting.dtype
    if not setting.whole:
        # A last layer alone is small, and its logits decide: it is trained in float32.
        network, dtype = setting.network.classifier, torch.float32
        if mixing is not None and setting.images is not None:
            # Images are mixed before the frozen backbone.
            network, inputs = _behind_frozen(setting), setting.images
    step = plain_step(
        network,
        setting.optimizer,
        methods.make_loss(method, params, setting.class_counts),
        setting.reduce,
        inputs,
        setting.labels,
        dtype=dtype,
        mixing=mixing,
    )
    return Steps(step)


def _behind_frozen(setting: Setting) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return images to logits, by the frozen backbone in its precision, the classifier outside."""
    network, device = setting.network, setting.labels.device

    def logits(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), autocast(device, setting.dtype):
            features = network.features(images).float()
        found: torch.Tensor = network.classifier(features)
        return found

    return logits


def start_classifier(classifier: Classifier, head: Head, *, fresh: bool) -> None:
    """Set what a method wants to start otherwise, and give gradients to what it trains alone."""
    if head.scale is not None:
        torch.nn.init.constant_(classifier.scales, head.scale)
    if fresh and head.rare_bias:
        torch.nn.init.constant_(classifier.bias, -math.log(max(1, len(classifier.bias) - 1)))
    # On cosines the factor, 16 to 30, stands before the bias too, which would move by its square.
    # From scratch such models are trained without a bias.
    fixed = () if classifier.form == "linear" else ("bias",)
    classifier.train_only(*(name for name in head.trainable if name not in fixed))


def make_optimizer(
    network: Network, head: Head, schedule: Schedule, *, momentum: float, kind: str = "sgd"
) -> torch.optim.Optimizer:
    """Return the optimiser of what has gradients.

    Args:
        network: Backbone and classifier.
        head: Rates of the classifier's parts.
        schedule: Learning rate, weight decay, Nesterov.
        momentum: Of sgd.
        kind: sgd or adam.
    """
    # Decay would pull factors to zero, not to one, and a bias that means something to zero.
    spared = {"classifier.scales"} | ({"classifier.bias"} if head.rare_bias else set())
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            part, _, leaf = name.partition(".")
            decay = 0.0 if name in spared else schedule.weight_decay
            rate = head.rates.get(leaf if part == "classifier" else part, 1.0)
            groups.setdefault((decay, rate), []).append(parameter)
    each = [
        {"params": members, "weight_decay": decay, "rate": rate}
        for (decay, rate), members in groups.items()
    ]
    if kind == "adam":
        return torch.optim.Adam(each, lr=schedule.lr)
    return torch.optim.SGD(each, lr=schedule.lr, momentum=momentum, nesterov=schedule.nesterov)


def _covariances(artifact: Artifact, device: torch.device) -> quadratic.Covariances:
    form = artifact.header.info["form"]
    if form == "full":
        return quadratic.Full(artifact.tensor("full", device))
    if form == "diagonal":
        return quadratic.Diagonal(artifact.tensor("diagonal", device))
    rows, offsets = artifact.tensor("rows", device), artifact.tensor("offsets")
    factor = quadratic.Factor(rows, offsets.tolist())
    if form == "factor":
        return factor
    return quadratic.LowRank(factor, quadratic.Diagonal(artifact.tensor("diagonal", device)))


class _Source:
    """Where a step's images, feature maps or features come from.

    Args:
        params: The stage's parameters.
        inputs: The artifacts, by role.
        network: Its backbone makes features of images unless the whole network is trained.
        dtype: Precision of the frozen backbone.
    """

    def __init__(
        self, params: Any, inputs: Mapping[str, Artifact], network: Network, dtype: torch.dtype
    ) -> None:
        self._params, self._network, self._dtype = params, network, dtype
        self._artifact = inputs["split" if params.data == "images" else "features"]
        self._backbone = backbone_of(inputs["model"].header)
        self._kept: dict[str, Augmented] = {}
        self._device = network.classifier.weight.device

    def labels(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return labels, int64 [N], on the CPU and on the device."""
        labels = self._artifact.tensor(f"{part}.labels")
        return labels, labels.to(self._device)

    def inputs(self, part: str, *, maps: bool) -> Inputs:
        """Return what makes the inputs of a step from one part of the data."""
        if self._params.data == "features":
            return self._stored(f"{part}.maps" if maps else f"{part}.features")
        pictures = self.images(part)
        if self._params.train == "all":
            return pictures
        # In eval mode its batch-norms can be folded away.
        network, fold = self._network, not self._params.shift_bn
        function: Callable[[torch.Tensor], torch.Tensor]
        if maps:
            function = backbone_maps(network) if fold else network.maps
        else:
            function = backbone_features(network, folded=fold)

        world = here()

        def frozen(batch: Batch) -> torch.Tensor:
            images = pictures(batch)
            with torch.no_grad(), autocast(self._device, self._dtype):
                return world.joint(function, images)

        return frozen

    def images(self, part: str) -> Augmented:
        """Return what makes the augmented images of a step from one part of the split."""
        # Kept, so that all who ask share one copy of the images.
        if part not in self._kept:
            params = self._params
            varied = Augmentation(
                padding=params.padding,
                pad_mode=params.pad_mode,
                flip=params.flip,
                least_area=params.least_area,
                jitter=params.jitter,
            )
            samples = open_samples(
                self._artifact, part, self._device, params, self._backbone, varied
            )
            self._kept[part] = Augmented(samples, params.seed)
        return self._kept[part]

    def _stored(self, name: str) -> Inputs:
        stored = self._artifact.tensor(name, self._device)

        def rows(batch: Batch) -> torch.Tensor:
            # A bank of maps may be large: what is stored in half precision stays so.
            return stored[batch.rows].float()

        return rows
