"""What pre-training works from: a fresh network, its optimiser and its images."""

from functools import partial
from typing import Any

import torch

from ltcli import methods
from ltcli.artifacts.store import Artifact
from ltcli.compute.device import resolve_device, resolve_precision
from ltcli.compute.parallel import here
from ltcli.core.context import Context
from ltcli.data.batches import Augmentation
from ltcli.data.samplers import Sampler, order_of
from ltcli.engine.schedules import Schedule
from ltcli.engine.steps import Augmented, Mixing
from ltcli.methods.method import Setting, weighted_mean
from ltcli.models.network import build_network, place
from ltcli.stages.samples import open_samples
from ltcli.stages.setting import make_optimizer, start_classifier
from ltcli.stages.start import Start, load_start
from ltcli.stats.losses import remix_shares


def fresh_setting(
    params: Any, schedule: Schedule, split: Artifact, start: Start, context: Context
) -> Setting:
    """Return a fresh network, its optimiser and its images."""
    device = resolve_device(context.device)
    method = methods.find(params.method, "pretrain")
    options = methods.options(method, params)
    head, held_out = method.head(options), "held-out" in method.reads(options)
    class_counts: list[int] = split.header.info["class_counts"]
    epochs = schedule.epochs if params.epochs is None else params.epochs
    # At least the last epoch of a short run has what was asked for.
    deferred = min(round(params.defer * epochs / schedule.epochs), epochs - 1)

    augmentation = Augmentation(
        padding=params.padding,
        pad_mode=schedule.pad_mode,
        flip=params.flip,
        least_area=params.least_area,
        jitter=params.jitter,
    )

    def images(part: str) -> Augmented:
        samples = open_samples(split, part, device, params, start.backbone, augmentation)
        return Augmented(samples, params.seed)

    # A last layer alone is small, and its logits decide.
    embeddings = split.header.info["store"] == "features"
    network = build_network(start.backbone, len(class_counts), params.seed, head.form)
    start_classifier(network.classifier, head, fresh=True)
    load_start(network, start)
    network = place(network, device)
    network.share(here())
    labels = split.tensor("train.labels")

    def order(epoch: int) -> torch.Tensor:
        sampler: Sampler = params.sampler if epoch >= deferred else "instance-balanced"
        drawn = {"seed": params.seed, "epoch": epoch, "epochs": epochs}
        return order_of(sampler, labels, len(class_counts), **drawn)

    counts = method.counts(options, torch.tensor(class_counts, device=device))
    pictures = images("train")
    return Setting(
        network=network,
        whole=True,
        optimizer=make_optimizer(network, head, schedule, momentum=params.momentum),
        inputs=pictures,
        maps=None,
        labels=labels.to(device),
        held_out=images("val") if held_out else None,
        held_out_labels=split.tensor("val.labels", device) if held_out else None,
        class_counts=counts,
        order=order,
        reduce=weighted_mean(params, counts, deferred),
        epochs=epochs,
        batch_size=schedule.batch_size,
        seed=params.seed,
        dtype=torch.float32 if embeddings else resolve_precision(params.precision, device),
        images=pictures,
    )


def mixing_of(params: Any, class_counts: torch.Tensor) -> Mixing | None:
    """Return how images and labels are mixed, if they are."""
    if params.mixup == 0:
        return None
    shares = None
    if params.mixed_labels == "remix":
        shares = partial(
            remix_shares,
            class_counts=class_counts,
            ratio=params.remix_ratio,
            below=params.remix_below,
        )
    return Mixing(params.mixup, params.seed, shares)
