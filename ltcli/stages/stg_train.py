"""stg-train: the generator of STG, learnt from the differences between features of head classes.

Source: "Sample-specific and context-aware augmentation" (STG), anonymous submission. It gives the
moments, the tokens, the memory, the optimiser (Adam, 1e-3) and memory sizes 0, 600 and 1200; every
other default here is a choice of ours.
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
from ltcli.methods.method import HeadRule, head_of
from ltcli.stages.stage import Input, Result, Stage, of_bank

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.engine.steps import Batch
    from ltcli.models.generator import Generator
    from ltcli.stats.differences import DifferenceTargets

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Params(HeadRule):
    """Parameters of stg-train."""

    memory: int = param(1200, "features of the last batches that the sets have as well", ge=0)
    smoothing: float = param(
        0.9, "share of its old moments that a sample keeps at each visit", ge=0, lt=1
    )
    min_set: int = param(2, "samples whose set is smaller are skipped", ge=1)
    include_self: bool = param(True, "a sample is in its own set")
    loss: Literal["mse", "kl"] = param("mse", "squared errors, or divergence of the Gaussians")
    width: int | None = param(
        None, "width of the hidden layers; without it, that of the features", ge=1
    )
    layers: int = param(2, "linear layers of each of the two perceptrons", ge=1)
    token_std: float = param(
        0.02, "standard deviation of the initial class tokens, feature units", ge=0
    )
    sampler: Literal["instance-balanced", "class-aware"] = param(
        "instance-balanced", "in which order an epoch draws the head samples"
    )
    epochs: int = param(50, "length; an epoch draws as many as there are head samples", ge=1)
    batch_size: int = param(512, "samples per step", ge=2)
    lr: float = param(1e-3, "learning rate of Adam, constant", gt=0)
    weight_decay: float = param(0.0, "L2 coefficient", ge=0)
    seed: int = param(0, "initial weights, order", ge=0, lt=2**32)


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Check that there are head and tail classes, and enough to learn from."""
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
    tail = features[~of_head].to(device), labels[~of_head].to(device)
    if len(tail[0]):
        facts = transfer(generator.eval(), *tail)
        context.log({"event": "transfer", **facts})
        logger.info(
            "stg-train: on tail samples %s", ", ".join(f"{k} {facts[k]:.2f}" for k in facts)
        )
    return Result(
        generator.state_dict(),
        of_bank(info) | {"width": width, "layers": params.layers},
    )


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
    from ltcli.engine.steps import Steps
    from ltcli.stats.differences import DifferenceTargets

    device, size = generator.tokens.device, len(labels)
    classes, dim = generator.tokens.shape

    def order(epoch: int) -> torch.Tensor:
        drawn = {"seed": params.seed, "epoch": epoch, "epochs": params.epochs}
        return order_of(params.sampler, labels, classes, **drawn)

    targets = DifferenceTargets(
        size,
        classes,
        dim,
        memory=params.memory,
        momentum=params.smoothing,
        min_set=params.min_set,
        include_self=params.include_self,
        device=device,
    )
    optimizer = torch.optim.Adam(
        generator.parameters(), lr=params.lr, weight_decay=params.weight_decay
    )
    generator.train()
    meters = torch.zeros(3, device=device)
    step = _step(
        params, generator, optimizer, targets, features.to(device), labels.to(device), meters
    )

    def facts() -> dict[str, float]:
        mean, variance, samples = meters.tolist()
        meters.zero_()
        return {"mean_loss": mean / max(1, samples), "variance_loss": variance / max(1, samples)}

    train(
        generator,
        optimizer,
        Steps(step, state=targets, facts=facts),
        order,
        lambda _epoch: params.lr,
        epochs=params.epochs,
        batch_size=params.batch_size,
        seed=params.seed,
        context=context,
    )


def _step(
    params: Params,
    generator: Generator,
    optimizer: torch.optim.Optimizer,
    targets: DifferenceTargets,
    features: torch.Tensor,
    labels: torch.Tensor,
    meters: torch.Tensor,
) -> Callable[[Batch], torch.Tensor]:
    """Return the step of the regression; ``meters`` sums both losses and the samples."""
    import torch

    from ltcli.stats.differences import regression_losses

    def step(batch: Batch) -> torch.Tensor:
        x, y = features[batch.rows], labels[batch.rows]
        mean, variance, usable = targets.visit(batch.rows, x, y)
        predicted_mean, predicted_variance = generator(x, y)
        parts = regression_losses(predicted_mean, predicted_variance, mean, variance, params.loss)
        sums = torch.stack([(part * usable).sum() for part in parts])
        value = sums.sum() / usable.sum().clamp(min=1)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimizer.step()
        meters.add_(torch.cat([sums.detach(), usable.sum().to(sums).view(1)]))
        return value

    return step


def transfer(
    generator: Generator, features: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """Say where the predicted mean differences of tail samples point to.

    A generator that has learnt "towards the own centre" has ``to_own`` near 1; one that has learnt
    "towards the centre of the token's class" has ``to_head`` near 1. ``own_to_head`` is the cosine
    of the two directions themselves, which neither can be told from where it is near 1.

    Args:
        generator: In eval mode.
        features: float [N, D], of tail samples.
        labels: int64 [N].

    Returns:
        Mean cosines of the predicted mean difference with the vectors from the sample to its own
        class mean and to that of its nearest head class, and of these two with each other; and the
        mean length of the prediction over that of the vector to the own mean.
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
