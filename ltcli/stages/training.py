"""The one assembly of a training run, for pretrain and finetune: artifacts in, tensors ready."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from ltcli.artifacts.backbone import Backbone
from ltcli.artifacts.store import Artifact
from ltcli.compute.device import autocast
from ltcli.compute.parallel import here
from ltcli.core.context import Context
from ltcli.core.errors import ResourceError
from ltcli.data.batches import Augmentation, Batch, ImageBatches, Samples
from ltcli.data.samplers import order_of
from ltcli.engine import fit
from ltcli.engine.graph import Recorded, cuda_graph, own_stream
from ltcli.engine.infer import backbone_features, backbone_maps
from ltcli.engine.optimizers import SGD, Adam, Optimizer
from ltcli.engine.schedules import Schedule, learning_rate
from ltcli.engine.steps import Inputs, Mixing, Record, Steps, plain_step, weighted_mean
from ltcli.methods.method import Head, Method, Run, TrainingRun
from ltcli.models.classifier import Classifier
from ltcli.models.generator import load_generator
from ltcli.models.network import Network
from ltcli.stages.samples import open_samples
from ltcli.stats import quadratic
from ltcli.stats.class_weights import effective_number_weights

logger = logging.getLogger(__name__)


def assemble(
    method: Method[Any],
    run: Run,
    network: Network,
    inputs: Mapping[str, Artifact],
    backbone: Backbone | None,
    dtype: torch.dtype,
    *,
    shift_bn: bool = False,
) -> TrainingRun:
    """Everything that the steps of a run work from.

    The network is on the device, with the classifier that the run starts from; its record
    ``backbone`` says how images are prepared and is None for a bank. With ``shift_bn`` the
    batch-norms of a frozen backbone follow the images of the run.
    """
    params, options, device = run.params, run.params.options, network.classifier.weight.device
    if params.cuda_graph and device.type != "cuda":
        hint = "only GPUs of NVIDIA have CUDA graphs"
        raise ResourceError("--cuda-graph", f"device must be cuda, got {device}", hint)
    head, reads = method.head(options, run), method.reads(options, run)
    # Gradients of a frozen backbone would only cost memory.
    network.backbone.requires_grad_(run.whole)
    if run.whole or shift_bn:
        network.share(here())
    if run.whole:
        network.train()
    elif shift_bn:
        _train_batch_norms(network.backbone)
    source = inputs[run.source]
    augmentation = Augmentation(
        padding=params.padding,
        pad_mode=run.schedule.pad_mode,
        flip=params.flip,
        least_area=params.least_area,
        jitter=params.jitter,
        seed=params.seed,
    )

    def samples_of(part: str) -> Samples | None:
        if backbone is None:
            return None
        return open_samples(source, part, device, params, backbone, augmentation)

    def inputs_of(part: str, samples: Samples | None, *, maps: bool = False) -> Inputs:
        if samples is None:
            return _stored(source, f"{part}.maps" if maps else f"{part}.features", device)
        if run.whole:
            return samples.drawn
        # Batch-norms that follow the images cannot be folded into the convolutions.
        return _frozen(network, samples, dtype, maps=maps, folded=not shift_bn)

    samples, held_out = samples_of("train"), "held-out" in reads
    # On the CPU, where orders are drawn for every device alike.
    labels = source.tensor("train.labels")
    num_classes = len(source.header.info["class_counts"])
    class_counts = torch.tensor(source.header.info["class_counts"], device=device)
    # A meta set is held out of training, so priors and weights must not count it.
    class_counts = class_counts - method.set_aside(options, run)

    def order(epoch: int) -> torch.Tensor:
        # Deferred re-balancing: the features come first, from the natural distribution.
        sampler = params.sampler if epoch >= run.deferred else "instance-balanced"
        drawn = {"seed": params.seed, "epoch": epoch, "epochs": run.epochs}
        return order_of(sampler, labels, num_classes, **drawn)

    return TrainingRun(
        **vars(run),
        network=network,
        optimizer=make_optimizer(
            network, head, run.schedule, momentum=params.momentum, kind=run.solver
        ),
        inputs=inputs_of("train", samples),
        maps=inputs_of("train", samples, maps=True) if "maps" in reads else None,
        labels=labels.to(device),
        held_out=inputs_of("val", samples_of("val")) if held_out else None,
        held_out_labels=source.tensor("val.labels", device) if held_out else None,
        class_counts=class_counts,
        order=order,
        reduce=weighted_mean(params.beta, params.reduction, class_counts, run.deferred),
        dtype=dtype,
        samples=samples,
        **statistics(reads, inputs, device),
    )


def train(
    method: Method[Any],
    run: TrainingRun,
    mixing: Mixing | None,
    context: Context,
    *,
    shift_bn: bool = False,
) -> dict[str, torch.Tensor]:
    """Kept epochs and the state of the method, as tensors; the network is trained in place."""
    steps = make_steps(method, run, mixing)
    every = run.whole or shift_bn  # Shifted batch norms change the backbone: epochs keep all.
    if run.samples is not None:
        # Later batches are decoded while this one is trained.
        run.samples.read_ahead(steps.order or run.order, run.batch_size)
    record = _recorder(method, run, mixing, context) if run.params.cuda_graph else None
    with nullcontext() if record is None else own_stream(run.labels.device):
        snapshots, state = fit.train(
            run.network if every else run.network.classifier,
            run.optimizer,
            steps,
            run.order,
            lambda epoch: learning_rate(run.schedule, run.epochs, epoch),
            epochs=run.epochs,
            batch_size=run.batch_size,
            seed=run.seed,
            context=context,
            dtype=run.dtype,
            keep=run.params.snapshots,
            record=record,
            chance=_chance(run) if _has_chance(method, run) else None,
        )
    return {**snapshots.stacked("" if every else "classifier."), **state}


def _has_chance(method: Method[Any], run: TrainingRun) -> bool:
    """Whether the losses of a run are cross-entropies; the first process alone says something."""
    # Cosines with a factor, and steps of other networks, have losses of another scale.
    linear = run.network.classifier.form == "linear"
    return linear and (method.loss is not None or not run.whole) and here().rank == 0


def _chance(run: TrainingRun) -> Callable[[int], float]:
    """Function that gives the cross-entropy of the class shares of an epoch, nats."""
    labels, counts, beta = run.labels.cpu(), run.class_counts.cpu(), run.params.beta

    def chance(epoch: int) -> float:
        shares = labels[run.order(epoch)].bincount(minlength=len(counts)).double()
        if beta > 0 and epoch >= run.deferred:
            shares *= effective_number_weights(counts, beta)
        return float(torch.special.entr(shares / shares.sum()).sum())

    return chance


def _recorder(
    method: Method[Any], run: TrainingRun, mixing: Mixing | None, context: Context
) -> Record | None:
    """Form of a step that a GPU repeats by itself; None, with a line in the log, if none can be."""
    reasons = {
        f"steps of {run.params.method} need the CPU": method.on_host,
        "mixup needs the CPU": mixing is not None,
        "images are in files": run.samples is not None and run.data.info["store"] == "files",
        "several processes share a step": here().size > 1,
    }
    reason = next((words for words, holds in reasons.items() if holds), None)
    context.log({"event": "graph", "recorded": reason is None, "reason": reason})
    if reason is not None:
        logger.info("%s: no CUDA graph: %s", context.name, reason)
        return None
    draws = run.samples.draws if isinstance(run.samples, ImageBatches) else None
    # Class weights begin in a later epoch.
    return partial(
        Recorded,
        optimizer=run.optimizer,
        batch_size=run.batch_size,
        draws=draws,
        phase=lambda epoch: epoch >= run.deferred,
        record=cuda_graph,
    )


def make_steps(method: Method[Any], run: TrainingRun, mixing: Mixing | None) -> Steps:
    """The method's own steps, or those of plain training with its loss."""
    options = run.params.options
    if method.steps is not None:
        return method.steps(options, run)
    if method.loss is None:
        raise ValueError("a method has a loss or steps")
    network: Callable[[torch.Tensor], torch.Tensor] = run.network
    inputs, dtype = run.inputs, run.dtype
    if not run.whole:
        # A last layer alone is small, and its logits decide: it is trained in float32.
        network, dtype = run.network.classifier, torch.float32
        if mixing is not None and run.samples is not None:
            # Images are mixed before the frozen backbone.
            network, inputs = _behind_frozen(run), run.samples.drawn
    step = plain_step(
        network,
        run.optimizer,
        method.loss(options, run),
        run.reduce,
        inputs,
        run.labels,
        dtype=dtype,
        mixing=mixing,
    )
    return Steps(step)


def start_classifier(classifier: Classifier, head: Head, *, fresh: bool) -> None:
    """Set the initial values that a method asks for, and mark what it trains alone."""
    if head.scale is not None:
        torch.nn.init.constant_(classifier.scales, head.scale)
    if fresh and head.rare_bias:
        # sigmoid(-log(C - 1)) = 1/C: every class starts with its chance probability.
        torch.nn.init.constant_(classifier.bias, -math.log(max(1, len(classifier.bias) - 1)))
    # The factor of a cosine, 16 to 30, stands before the bias too, which would move by its square.
    # From scratch such models are trained without a bias.
    fixed = set() if classifier.form == "linear" else {"bias"}
    classifier.train_only(*(set(head.trainable) - fixed))


def make_optimizer(
    network: Network, head: Head, schedule: Schedule, *, momentum: float, kind: str = "sgd"
) -> Optimizer:
    """The optimiser, sgd or adam, of the parameters that have gradients."""
    # Decay would pull factors to zero, not to one, and a bias that means something to zero.
    spared = {"classifier.scales"} | ({"classifier.bias"} if head.rare_bias else set())
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            part, _, leaf = name.partition(".")
            decay = 0.0 if name in spared else schedule.weight_decay
            rate = head.rates.get(leaf if part == "classifier" else part, 1.0)
            fresh = {"params": [], "weight_decay": decay, "rate": rate}
            # Few groups, as an optimiser updates one group after the other.
            groups.setdefault((decay, rate), fresh)["params"].append(parameter)
    each = list(groups.values())
    if kind == "adam":
        return Adam(each, lr=schedule.lr)
    return SGD(each, lr=schedule.lr, momentum=momentum, nesterov=schedule.nesterov)


def _train_batch_norms(backbone: torch.nn.Module) -> None:
    """Let batch-norms follow their inputs; dropout and the like stay off."""
    for module in backbone.modules():
        # The latter where several processes share the work.
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.SyncBatchNorm):
            module.train()


def _stored(bank: Artifact, name: str, device: torch.device) -> Inputs:
    """Function that takes a step's rows out of a feature bank."""
    stored = bank.tensor(name, device)  # Copied to the device once, not in every step.
    # A bank of maps may be large: what is stored in half precision stays so until it is used.
    return lambda batch: stored[batch.rows].float()


def _frozen(
    network: Network, samples: Samples, dtype: torch.dtype, *, maps: bool, folded: bool
) -> Inputs:
    """Function that makes features, or maps, of a step's images by a frozen backbone."""
    function: Callable[[torch.Tensor], torch.Tensor]
    if maps:
        function = backbone_maps(network) if folded else network.maps
    else:
        function = backbone_features(network, folded=folded)
    world, images_of = here(), samples.drawn

    def inputs(batch: Batch) -> torch.Tensor:
        images = images_of(batch)
        with (
            torch.no_grad(),
            autocast(samples.device, dtype),
        ):  # No backward pass needs activations.
            return world.joint(function, images)

    return inputs


def _behind_frozen(run: TrainingRun) -> Callable[[torch.Tensor], torch.Tensor]:
    """Images to logits: the frozen backbone in its precision, the classifier in float32."""
    network, device = run.network, run.labels.device

    def logits(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), autocast(device, run.dtype):
            features = network.features(images).float()
        found: torch.Tensor = network.classifier(features)
        return found

    return logits


def statistics(
    reads: Collection[str], inputs: Mapping[str, Artifact], device: torch.device
) -> dict[str, Any]:
    """Fields of a run that come from covariances, confusion and generator."""
    found: dict[str, Any] = {}
    if "covariances" in reads:
        found["means"] = inputs["covariances"].tensor("means", device)
        found["covariances"] = _covariances(inputs["covariances"], device)
    if "confusion" in reads:
        found |= {name: inputs["confusion"].tensor(name, device) for name in ("graph", "scores")}
    if "generator" in reads:
        found["generator"] = load_generator(inputs["generator"], device)
    return found


def _covariances(artifact: Artifact, device: torch.device) -> quadratic.Covariances:
    form = artifact.header.info["form"]
    if form == "full":
        return quadratic.Full(artifact.tensor("full", device))
    if form == "diagonal":
        return quadratic.Diagonal(artifact.tensor("diagonal", device))
    offsets = artifact.tensor("offsets").tolist()
    factor = quadratic.Factor(artifact.tensor("rows", device), offsets)
    if form == "factor":
        return factor
    return quadratic.LowRank(factor, quadratic.Diagonal(artifact.tensor("diagonal", device)))
