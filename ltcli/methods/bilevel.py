"""Parts of all bi-level methods: the balanced meta set, and the gradient after a virtual step.

Every step has a batch of the long-tailed images and a balanced held-out batch. A virtual step of
plain gradient descent lowers the training loss, and v = grad M is the gradient of the held-out loss
M after it. The derivative of M by any quantity in the training loss is then a derivative along v,
so that nothing is differentiated twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import param
from ltcli.methods.method import (
    Run,
    TrainingRun,
    refuse_class_weights,
    require_instance_balanced,
    require_linear,
)
from ltcli.methods.options import Base, base_loss

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps
    from ltcli.stats.meta_covariance import Tangents

    Meta = Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]
    """A step's held-out images or features, and their labels."""

SECOND_STAGE = {
    "data": "images",
    "train": "all",
    "epochs": 40,
    "batch_size": 100,
    "lr": 1e-3,
    "decay": "steps",
    "milestones": (20,),
    "factors": (0.01,),
    "nesterov": True,
    "pad_mode": "reflect",
}
"""Fine-tuning from epoch 160 of 200 on, in the released code of Jamal et al. and of MetaSAug.

The rate falls when that of their virtual step does; their optimiser's falls one epoch before.
"""


@dataclass(frozen=True)
class MetaSet:
    """Options of the meta set."""

    meta_source: Literal["held-out", "train"] = param(
        "held-out", "meta set: the validation images, or images taken out of the training set"
    )
    meta_per_class: int = param(10, "images per class of a meta set from the training set", ge=1)
    meta_batch: int = param(100, "images of the meta set per step", ge=2)


@dataclass(frozen=True)
class Reweighting(MetaSet, Base):
    """Options of methods that find a weight for every sample."""


def reads(options: MetaSet, _run: Run) -> tuple[str, ...]:
    """Inputs of the meta set beside model and data."""
    return ("held-out",) if options.meta_source == "held-out" else ()


def set_aside(options: MetaSet, _run: Run) -> int:
    """Number of training images per class that form the meta set."""
    return options.meta_per_class if options.meta_source == "train" else 0


def check(options: MetaSet, run: Run) -> None:
    """Refuse a non-linear classifier, and a missing or impossible meta set."""
    # Pre-training has no model yet: its classifier is linear.
    if "model" in run.headers:
        require_linear(run.headers["model"])
    data = run.data
    if options.meta_source == "held-out":
        if data.size("val.labels", 0):
            return
        hint = "split with --protocol holdout, or use --meta-source train"
        raise ArtifactError(data.path, "has no held-out images, which are the meta set", hint)
    fewest = min(data.info["class_counts"])
    if options.meta_per_class >= fewest:
        rule = f"meta-per-class must be less than {fewest}, got {options.meta_per_class}"
        hint = f"the smallest class has {fewest} training images, and one must be left"
        raise ParamError(run.stage, rule, hint)
    # Images of the meta set are dropped from the order, which would unbalance another sampler's.
    hint = "split with --protocol holdout, whose meta set is none of the images drawn"
    require_instance_balanced(run, "with --meta-source train", hint)


def check_weights(options: MetaSet, run: Run) -> None:
    """Refuse class weights too, for a method that weights every sample."""
    check(options, run)
    refuse_class_weights(run, "the method finds a weight for every sample itself")


def meta_set(options: MetaSet, run: TrainingRun) -> tuple[Callable[[int], torch.Tensor], Meta]:
    """Order of the training rows in an epoch, and function that makes the meta batch of a step."""
    import torch

    from ltcli.data.batches import Batch
    from ltcli.data.samplers import balanced, random_batches, some_of_each

    if options.meta_source == "held-out":
        if run.held_out is None or run.held_out_labels is None:
            raise ValueError("the method reads held-out data")
        inputs, labels, order = run.held_out, run.held_out_labels, run.order
        rows = balanced(labels.cpu())
    else:
        inputs, labels = run.inputs, run.labels
        count = options.meta_per_class
        rows = some_of_each(labels.cpu(), len(run.class_counts), count, seed=run.seed)
        left = torch.ones(len(labels), dtype=torch.bool)
        left[rows] = False

        def order(epoch: int) -> torch.Tensor:
            # Meta images must not be trained on: their loss would measure nothing.
            drawn = run.order(epoch)
            return drawn[left[drawn]]

    # A batch has no image twice.
    size = min(options.meta_batch, len(rows))
    # Enough for any order: none is longer than the training set.
    steps = -(-len(run.labels) // run.batch_size)

    @functools.lru_cache(maxsize=1)
    def drawn(epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        batches = random_batches(rows, size, steps, seed=run.seed, epoch=epoch)
        return batches.to(run.labels.device), batches

    def meta(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        chosen, host = (batches[batch.step] for batches in drawn(batch.epoch))
        place = (batch.epoch, batch.step, batch.step * size)
        held_out = Batch(*place, chosen, "augment meta", host)
        return inputs(held_out), labels[chosen]

    return order, meta


def behind_virtual_step(
    loss: Callable[[torch.Tensor], torch.Tensor] | None,
    features: torch.Tensor,
    x: torch.Tensor,
    held_out: tuple[torch.Tensor, torch.Tensor],
    run: TrainingRun,
    batch: Batch,
) -> Tangents:
    """Gradient v of the held-out cross-entropy after a virtual step.

    The step is plain gradient descent at the optimiser's rate on all trained parameters of a linear
    classifier and the backbone, without momentum or decay. ``loss`` takes features float [B, D];
    None is no step. ``features`` are those of the inputs ``x``, with their graph if the backbone is
    trained. No other forward pass of this step may come before theirs, as layers draw in order.
    """
    import torch
    from torch.func import functional_call
    from torch.nn import functional as F

    from ltcli.compute.device import autocast, seed_layers
    from ltcli.engine.tangent import directional_derivative
    from ltcli.stats.meta_covariance import Tangents

    network, rate = run.network, run.optimizer.param_groups[0]["lr"]
    head = [network.classifier.weight, network.classifier.bias]
    body = dict(network.backbone.named_parameters()) if run.whole else {}
    theta = [*head, *body.values()]
    virtual = [parameter.detach().clone() for parameter in theta]
    if loss is not None:
        torch._foreach_sub_(virtual, _gradient(loss, features, head, theta[2:]), alpha=rate)
    # From here they are leaves: v is the gradient by them alone.
    for parameter in virtual:
        parameter.requires_grad_()
    inputs, labels = held_out
    if run.whole:
        # Copies: batch statistics of the held-out images must not enter the running ones.
        buffers = {name: b.clone() for name, b in network.backbone.named_buffers()}
        moved = dict(zip(body, virtual[2:], strict=True))
        with autocast(run.labels.device, run.dtype):
            inputs = functional_call(network.backbone, {**moved, **buffers}, (inputs,)).float()
    # Factors of the logits are constants here, and become part of v's class vectors below.
    scales = network.classifier.scales
    logits = scales * F.linear(inputs, virtual[0], virtual[1])
    v = torch.autograd.grad(F.cross_entropy(logits, labels), virtual)
    tangent = None
    if body:
        direction = dict(zip(body, v[2:], strict=True))
        # Layers such as dropout draw the same numbers as for the features: one network, one v.
        seed_layers(labels.device, run.seed, batch.epoch, batch.step)
        with autocast(run.labels.device, run.dtype):
            tangent = directional_derivative(network.backbone, direction, x).float()
    return Tangents(scales.unsqueeze(1) * v[0], scales * v[1], tangent)


def _gradient(
    loss: Callable[[torch.Tensor], torch.Tensor],
    features: torch.Tensor,
    head: Sequence[torch.Tensor],
    body: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """Gradient of a loss of features by the classifier's, then the backbone's parameters."""
    import torch

    # The features are detached from the backbone, so that one forward pass serves both losses.
    cut = features.detach().requires_grad_(len(body) > 0)
    if not body:
        return [*torch.autograd.grad(loss(cut), head)]
    *by_head, by_cut = torch.autograd.grad(loss(cut), [*head, cut])
    # The graph stays, for the real step goes back through it.
    return [*by_head, *torch.autograd.grad(features, body, by_cut, retain_graph=True)]


def alignments(
    losses: Callable[[torch.Tensor], torch.Tensor],
    features: torch.Tensor,
    run: TrainingRun,
    tangents: Tangents,
) -> torch.Tensor:
    """Alignment <grad l_i, v> of each sample with the held-out gradient, float [B].

    It is the derivative of l_i along v: that of its logits times its gradient by them, so that no
    gradient of a single sample is formed. With weights w_i on the losses of a virtual step,
    dM/dw_i = -rate <grad l_i, v>.

    ``losses`` takes logits float [B, C] to the losses of the samples, float [B], and ``features``
    are float [B, D], those of the training batch.
    """
    import torch

    classifier, features = run.network.classifier, features.detach()
    moved = features @ tangents.weight.T + tangents.bias
    if tangents.features is not None:
        moved = moved + tangents.features @ classifier.vectors().detach().T
    logits = classifier(features).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(losses(logits).sum(), logits)
    agreed: torch.Tensor = (slopes * moved).sum(1)
    return agreed


def reweighting(
    options: Reweighting,
    run: TrainingRun,
    before: Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor] | None,
    after: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Batch], torch.Tensor],
) -> Steps:
    """Steps of a method that finds a weight for every sample of a batch.

    ``before`` makes the loss of the virtual step from losses float [B], labels and batch; None is
    no such step. ``after`` makes the loss of the step and takes the ``alignments``, float [B], too.
    """
    from ltcli.engine.steps import Steps, descent

    order, meta = meta_set(options, run)
    base, classifier = base_loss(options, run.class_counts), run.network.classifier

    def objective(batch: Batch) -> torch.Tensor:
        x, labels = run.inputs(batch), run.labels[batch.rows]
        features = run.features_of(x)

        virtual = None
        if before is not None:

            def virtual(found: torch.Tensor) -> torch.Tensor:
                return before(base(classifier(found), labels, batch), labels, batch)

        tangents = behind_virtual_step(virtual, features, x, meta(batch), run, batch)
        agreed = alignments(lambda z: base(z, labels, batch), features, run, tangents)
        return after(base(classifier(features), labels, batch), agreed, labels, batch)

    return Steps(descent(run.optimizer, objective), order=order)
