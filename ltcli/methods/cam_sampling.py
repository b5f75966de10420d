"""CAM-based sampling: images with a moved foreground fill up the rare classes.

    L = mean_i CE(z_i, y_i), every class drawn n_max + n_min times in an epoch

An epoch has every training image once, and n_max + n_min - n_c more draws of class c. In these, the
foreground is turned, shifted or flipped and pasted back on top, see ``ltcli.data.foreground``. The
foreground is the region in which the class activation map of the initial model, scaled to 0..1,
reaches 3/4 of its own mean, as in the released code. With ``at_most``, as off CIFAR, classes with
that many images or more get none, others at most that many.

The paper's bag of tricks is ``pretrain --mixup 1``, this from epoch 161 on, and a last stage of
plain training. Its CIFAR runs have 400 epochs. Images are moved anew in every step here, once
before training there. The default of 10 epochs has the steps of 40 epochs of CIFAR-10-LT at factor
100.

Source: Zhang, Wei, Zhou, Wu, AAAI 2021 (no arXiv id known), and released code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.artifacts.backbone import require_maps
from ltcli.compute.transfer import to_device
from ltcli.core.params import param
from ltcli.methods import bilevel
from ltcli.methods.method import (
    FINETUNE,
    Method,
    Run,
    TrainingRun,
    require_activation_maps,
    require_instance_balanced,
    require_moving_backbone,
)

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


@dataclass(frozen=True)
class Options:
    """Options of CAM-based sampling."""

    at_most: int | None = param(
        None, "most extra images per class; classes with more images than this get none", ge=0
    )
    foreground_at: float = param(
        0.75,
        "activation from which a pixel is foreground, as a multiple of the map's mean",
        ge=0,
        le=1,
    )


def moved_counts(class_counts: torch.Tensor, at_most: int | None) -> torch.Tensor:
    """Number of moved images of each class in an epoch, int64 [C]."""
    counts = class_counts.max() + class_counts.min() - class_counts
    if at_most is not None:
        counts = counts.clamp(max=at_most).where(class_counts < at_most, 0)
    return counts


def drawn_rows(
    labels: torch.Tensor, more: torch.Tensor, *, seed: int, epoch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Order of an epoch, int64 [M], and whether each of its images is moved, bool [M].

    Labels are int64 [N] on the CPU, ``more`` is int64 [C], the extra draws of each class.
    """
    import torch

    from ltcli.compute.seeds import derive
    from ltcli.data.samplers import members

    generator = torch.Generator().manual_seed(derive("cam-sampling", seed, epoch))
    classes = torch.arange(len(more)).repeat_interleave(more)
    drawn = members(labels, classes, len(more), generator)
    rows = torch.cat([torch.arange(len(labels)), drawn])
    shuffled = torch.randperm(len(rows), generator=generator)
    # Extra draws stand behind the training images: a position tells them apart.
    return rows[shuffled], shuffled >= len(labels)


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps on images and moved images."""
    from ltcli.engine.steps import Steps, descent

    labels = run.labels.cpu()
    more = moved_counts(run.class_counts.cpu(), options.at_most)
    move = _mover(options, run)
    # A pure function of the epoch, so it can be made again at any time.
    drawn = functools.lru_cache(maxsize=1)(
        lambda epoch: drawn_rows(labels, more, seed=run.seed, epoch=epoch)
    )

    def objective(batch: Batch) -> torch.Tensor:
        flags = drawn(batch.epoch)[1][batch.first : batch.first + len(batch.rows)]
        y = run.labels[batch.rows]
        x = move(run.inputs(batch), y, flags.nonzero().flatten(), batch)
        return run.cross_entropy(run.network.classifier(run.features_of(x)), y, batch)

    return Steps(descent(run.optimizer, objective), order=lambda epoch: drawn(epoch)[0])


def check(_options: Options, run: Run) -> None:
    """Refuse a frozen backbone, one without maps, and another sampler."""
    require_moving_backbone(run)
    require_activation_maps(run.headers["model"])
    require_instance_balanced(run, "for cam-sampling", "the method fills up rare classes by itself")
    require_maps(run.headers["model"])


def _mover(
    options: Options, run: TrainingRun
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Batch], torch.Tensor]:
    """Function that moves the foreground of some images of a step."""
    import torch
    from torch.nn import functional as F

    from ltcli.compute.device import autocast
    from ltcli.compute.seeds import derive
    from ltcli.data.foreground import KINDS, with_moved_foreground
    from ltcli.engine.infer import backbone_maps
    from ltcli.stats.fusion import activation_maps, unit_range

    # Copies of backbone and weights: foregrounds come from the initial model throughout.
    maps_of = backbone_maps(run.network)
    weights = run.network.classifier.vectors().detach().clone()
    device = weights.device

    @torch.no_grad()
    def move(
        x: torch.Tensor, labels: torch.Tensor, which: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        if len(which) == 0:
            return x
        seed = derive("cam-sampling moves", run.seed, batch.epoch, batch.step)
        generator = torch.Generator().manual_seed(seed)
        kinds = torch.randint(KINDS, which.shape, generator=generator)
        draws = torch.rand(len(which), 2, generator=generator)
        # Drawn on the CPU, so that a GPU run moves the same images in the same way.
        kinds, draws, which = (to_device(some, device) for some in (kinds, draws, which))
        chosen = x[which]
        with autocast(device, run.dtype):
            maps = maps_of(chosen).float()
        activations = activation_maps(maps, weights[labels[which]]).unsqueeze(1)
        activations = F.interpolate(activations, x.shape[2:], mode="bilinear").squeeze(1)
        scaled = unit_range(activations)
        foreground = scaled >= options.foreground_at * scaled.mean((1, 2), keepdim=True)
        return x.index_copy(0, which, with_moved_foreground(chosen, foreground, kinds, draws))

    return move


METHOD = Method(
    summary="rare classes filled up with images whose foreground was moved",
    source="Zhang et al., AAAI 2021 (no arXiv id known)",
    stages=FINETUNE,
    options=Options,
    defaults={"finetune": {**bilevel.SECOND_STAGE, "epochs": 10, "milestones": (5,)}},
    steps=make_steps,
    on_host=True,
    balances=lambda options, _run: options.at_most != 0,
    check=check,
)
