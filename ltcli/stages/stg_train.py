"""stg-train: STG's generator, trained on the differences between features of head classes.

Source: "Sample-specific and context-aware augmentation" (STG), anonymous submission. It gives the
moments, the tokens, the memory, the optimiser (Adam, 1e-3) and memory sizes 0, 600 and 1200; we
chose every other default.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError
from ltcli.core.params import param
from ltcli.engine.schedules import MIN_STEPS, epochs_for
from ltcli.methods.options import HeadRule, head_of
from ltcli.stages.stage import Input, Result, Stage, of_bank, refuse_given

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.data.batches import Batch
    from ltcli.models.generator import Generator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Params(HeadRule):
    """Parameters of stg-train."""

    memory: int = param(1200, "number of earlier features in the memory", ge=0)
    smoothing: float = param(
        0.9, "weight of a sample's old moments in their moving average", ge=0, lt=1
    )
    min_set: int = param(2, "fewest features of the same class that give a sample a target", ge=1)
    include_self: bool = param(True, "count a sample itself among the features of its class")
    loss: Literal["mse", "kl"] = param(
        "mse", "squared errors of mean and variance, or divergence of the Gaussians"
    )
    width: int | None = param(
        None, "width of the hidden layers; without it, that of the features", ge=1
    )
    layers: int = param(2, "linear layers of each of the two perceptrons", ge=1)
    token_std: float = param(
        0.02, "standard deviation of the initial class tokens, feature units", ge=0
    )
    sampler: Literal["instance-balanced", "class-aware"] = param(
        "instance-balanced", "sampling of the head samples"
    )
    epochs: int | None = param(
        None, "epochs to train, 50 or more; an epoch draws as many as there are samples", ge=1
    )
    min_steps: int | None = param(None, MIN_STEPS, ge=1)
    batch_size: int = param(512, "samples per step", ge=2)
    lr: float = param(1e-3, "learning rate of Adam, constant", gt=0)
    weight_decay: float = param(0.0, "L2 coefficient", ge=0)
    seed: int = param(0, "seed of initial weights and order", ge=0, lt=2**32)


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Refuse data without head or tail classes, or with too few head images."""
    if params.epochs is not None:
        hint = "it says how long to train where nothing else does"
        refuse_given("stg-train", params, ("min_steps",), "with --epochs", hint)
    header = headers["features"]
    counts = header.info["class_counts"]
    if sum(itertools.compress(counts, head_of(params, counts, "stg-train"))) < 2:
        raise ArtifactError(header.path, "must have at least 2 images of head classes")


def run(params: Params, inputs: Mapping[str, Artifact], context: Context) -> Result:
    """Train on the head classes; the last epoch is the result."""
    import torch

    from ltcli.compute.device import resolve_device
    from ltcli.models.generator import build_generator
    from ltcli.stats.moments import class_means

    bank = inputs["features"]
    info = bank.header.info
    counts = info["class_counts"]
    head = torch.tensor(head_of(params, counts, "stg-train"))
    device = resolve_device(context.device)
    features, labels = bank.tensor("train.features").float(), bank.tensor("train.labels")
    width = params.width or features.shape[1]
    generator = build_generator(
        class_means(features, labels, len(counts)).float(),
        head,
        width=width,
        layers=params.layers,
        token_std=params.token_std,
        seed=params.seed,
    ).to(device)
    of_head = head[labels]
    _train(params, generator, features[of_head], labels[of_head], context)
    # A check only: nothing of it changes the generator.
    tail = features[~of_head].to(device), labels[~of_head].to(device)
    if len(tail[0]):
        cosines = transfer(generator.eval(), *tail)
        context.log({"event": "transfer", **cosines})
        text = ", ".join(f"{name} {value:.2f}" for name, value in cosines.items())
        logger.info("stg-train: on tail samples %s", text)
    # Width and layers rebuild the network before the weights are loaded.
    shape = {"width": width, "layers": params.layers}
    return Result(generator.state_dict(), of_bank(info) | shape)


def _train(
    params: Params,
    generator: Generator,
    features: torch.Tensor,
    labels: torch.Tensor,
    context: Context,
) -> None:
    """Train a generator in place on features of head classes, float32 [N, D] on the CPU."""
    import torch

    from ltcli.data.samplers import order_of
    from ltcli.engine.fit import train
    from ltcli.engine.optimizers import Adam
    from ltcli.engine.steps import Steps, descent
    from ltcli.stats.differences import DifferenceTargets, regression_losses

    device, on_host = generator.tokens.device, labels
    classes, dim = generator.tokens.shape
    features, labels = features.to(device), labels.to(device)
    targets = DifferenceTargets(
        len(labels),
        classes,
        dim,
        memory=params.memory,
        momentum=params.smoothing,
        min_set=params.min_set,
        include_self=params.include_self,
        device=device,
    )
    epochs = params.epochs
    if epochs is None:
        epochs = epochs_for(50, params.min_steps, len(labels), params.batch_size)
    # Sums over an epoch: both losses, and the samples with a usable set.
    meters = torch.zeros(3, device=device)

    def order(epoch: int) -> torch.Tensor:
        drawn = {"seed": params.seed, "epoch": epoch, "epochs": epochs}
        return order_of(params.sampler, on_host, classes, **drawn)

    def objective(batch: Batch) -> torch.Tensor:
        x, y = features[batch.rows], labels[batch.rows]
        mean, variance, usable = targets.visit(batch.rows, x, y)
        predicted = generator(x, y)
        parts = regression_losses(predicted[0], predicted[1], mean, variance, params.loss)
        sums = torch.stack([(part * usable).sum() for part in parts])
        # Read once an epoch: reading a number in every step would wait for the device.
        meters.add_(torch.cat([sums.detach(), usable.sum().to(sums).view(1)]))
        return sums.sum() / usable.sum().clamp(min=1)

    def facts() -> dict[str, float]:
        mean, variance, samples = meters.tolist()
        meters.zero_()
        return {"mean_loss": mean / max(1, samples), "variance_loss": variance / max(1, samples)}

    optimizer = Adam(generator.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    train(
        generator.train(),
        optimizer,
        Steps(descent(optimizer, objective), state=targets, facts=facts),
        order,
        # Constant, as in the source.
        lambda _epoch: params.lr,
        epochs=epochs,
        batch_size=params.batch_size,
        seed=params.seed,
        context=context,
    )


def transfer(
    generator: Generator, features: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """Directions of the mean differences that a generator predicts for tail samples.

    ``to_own`` and ``to_head`` are mean cosines with the vectors to the mean of the own class and of
    the nearest head class: near 1 for a generator that has learned "towards that centre".
    ``own_to_head`` is the cosine between these two vectors; near 1, they cannot be told apart.
    ``length`` is the mean length of the prediction over that of the vector to the own mean.
    """
    import torch
    from torch.nn import functional as F

    with torch.no_grad():
        nearest = generator.nearest_head(features)
        mean, _ = generator(features, nearest)
        own = generator.class_means[labels] - features
        head = generator.class_means[nearest] - features
        return {
            "to_own": float(F.cosine_similarity(mean, own).mean()),
            "to_head": float(F.cosine_similarity(mean, head).mean()),
            "own_to_head": float(F.cosine_similarity(own, head).mean()),
            "length": float(mean.norm(dim=1).mean() / own.norm(dim=1).mean()),
        }


STAGE = Stage(
    name="stg-train",
    summary="Train the feature generator of finetune --method stg.",
    params=Params,
    inputs=(Input("features", "features", "dump-features", "feature bank"),),
    output="generator",
    run=run,
    check=check,
    examples=(
        "ltcli stg-train -d artifacts/c10-100",
        "ltcli stg-train --memory 600 --head min-count -d artifacts/c10-100",
    ),
)
