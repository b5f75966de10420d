"""What bi-level methods share: the balanced meta set, and the gradient behind a virtual step.

Every step has a batch of the long-tailed images and a balanced held-out batch. A virtual step of
plain gradient descent goes down the training loss, and v = grad M is the gradient of the held-out
loss M behind it. The derivative of M by whatever the training loss depends on is then a derivative
along v, so that nothing is differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import param

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.engine.fit import Batch
    from ltcli.methods.method import Setting
    from ltcli.stats.meta_covariance import Tangents

    Meta = Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]
    """A step's held-out images or features, and their labels."""


@dataclass(frozen=True)
class MetaSet:
    """Parameters of the meta set."""

    meta_source: Literal["held-out", "train"] = param(
        "held-out", "meta set: the validation images, or images taken out of the training set"
    )
    meta_per_class: int = param(10, "images per class of a meta set from the training set", ge=1)
    meta_batch: int = param(100, "images of the meta set per step", ge=1)


def reads(params: Any) -> tuple[str, ...]:
    """Return what a method needs for its meta set beside model and data."""
    return ("held-out",) if params.meta_source == "held-out" else ()


def check(params: Any, headers: Mapping[str, Header]) -> None:
    """Refuse a missing or impossible meta set."""
    data = headers["split" if params.data == "images" else "features"]
    if params.meta_source == "held-out":
        if not data.size("val.labels", 0):
            rule = "has no held-out images, which are the meta set"
            hint = "split with --protocol holdout, or use --meta-source train"
            raise ArtifactError(data.path, rule, hint)
        return
    fewest = min(data.info["class_counts"])
    if params.meta_per_class >= fewest:
        rule = f"meta-per-class must be less than {fewest}, got {params.meta_per_class}"
        hint = f"the smallest class has {fewest} training images, and one must be left"
        raise ParamError("finetune", rule, hint)


def meta_set(params: Any, setting: Setting) -> tuple[Callable[[int], torch.Tensor], Meta]:
    """Return the training rows of an epoch, and what makes the meta batch of a step."""
    import torch

    from ltcli.data.samplers import random_batches, some_of_each
    from ltcli.engine.fit import Batch

    device = setting.labels.device
    if params.meta_source == "held-out":
        if setting.held_out is None or setting.held_out_labels is None:
            raise ValueError("the method reads held-out data")
        inputs, labels, order = setting.held_out, setting.held_out_labels, setting.order
        rows, first = torch.arange(len(labels)), 0
    else:
        inputs, labels = setting.inputs, setting.labels
        num_classes, count = len(setting.class_counts), params.meta_per_class
        rows = some_of_each(labels.cpu(), num_classes, count, seed=setting.seed)
        left = torch.ones(len(labels), dtype=torch.bool)
        left[rows] = False

        def order(epoch: int) -> torch.Tensor:
            drawn = setting.order(epoch)
            return drawn[left[drawn]]

        # Behind those of the training batches, so that no two images of an epoch share their draws.
        first = len(labels)
    size = min(params.meta_batch, len(rows))
    drawn: dict[int, torch.Tensor] = {}

    def meta(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if batch.epoch not in drawn:
            drawn.clear()
            # An epoch's order is no longer than the training set.
            steps = -(-len(setting.labels) // setting.batch_size)
            batches = random_batches(rows, size, steps, seed=setting.seed, epoch=batch.epoch)
            drawn[batch.epoch] = batches.to(device)
        chosen = drawn[batch.epoch][batch.step]
        held_out = Batch(batch.epoch, batch.step, first + batch.step * size, chosen)
        return inputs(held_out), labels[chosen]

    return order, meta


def behind_virtual_step(
    loss: Callable[[torch.Tensor], torch.Tensor],
    features: torch.Tensor,
    x: torch.Tensor,
    held_out: tuple[torch.Tensor, torch.Tensor],
    setting: Setting,
) -> Tangents:
    """Return v, the gradient of the held-out cross-entropy behind a virtual step.

    The step is plain gradient descent at the optimiser's rate on everything that is trained of a
    linear classifier and the backbone, without momentum or decay.

    Args:
        loss: Features float [B, D] to the training loss.
        features: float [B, D], of the training batch, with their graph if the backbone is trained.
        x: What they were made of.
        held_out: Images or features of the meta batch, and int64 labels.
        setting: What is trained.
    """
    import torch
    from torch.func import functional_call
    from torch.nn import functional as F

    from ltcli.engine.device import autocast
    from ltcli.engine.tangent import directional_derivative
    from ltcli.stats.meta_covariance import Tangents

    network, rate = setting.network, setting.optimizer.param_groups[0]["lr"]
    head = [network.classifier.weight, network.classifier.bias]
    body = dict(network.backbone.named_parameters()) if setting.whole else {}
    # The features are cut off from the backbone, so that its forward pass serves both losses.
    cut = features.detach().requires_grad_(setting.whole)
    by_head = torch.autograd.grad(loss(cut), [*head, cut] if setting.whole else head)
    by_body: tuple[torch.Tensor, ...] = ()
    if setting.whole:
        by_body = torch.autograd.grad(features, list(body.values()), by_head[2], retain_graph=True)
    theta, gradient = [*head, *body.values()], [*by_head[:2], *by_body]
    virtual = [
        (parameter.detach() - rate * slope).requires_grad_()
        for parameter, slope in zip(theta, gradient, strict=True)
    ]
    inputs, labels = held_out
    if setting.whole:
        # Batch statistics of the held-out images must not reach the running ones.
        buffers = {name: b.clone() for name, b in network.backbone.named_buffers()}
        moved = dict(zip(body, virtual[2:], strict=True))
        with autocast(setting.labels.device, setting.dtype):
            inputs = functional_call(network.backbone, {**moved, **buffers}, (inputs,)).float()
    scales = network.classifier.scales
    logits = scales * F.linear(inputs, virtual[0], virtual[1])
    v = torch.autograd.grad(F.cross_entropy(logits, labels), virtual)
    tangent = None
    if setting.whole:
        direction = dict(zip(body, v[2:], strict=True))
        with autocast(setting.labels.device, setting.dtype):
            tangent = directional_derivative(network.backbone, direction, x).float()
    return Tangents(scales.unsqueeze(1) * v[0], scales * v[1], tangent)
