"""pretrain: a backbone and a classifier, trained on the long-tailed images from scratch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli import methods
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import as_dict, param
from ltcli.engine.schedules import SCHEDULES, Schedule, learning_rate
from ltcli.stages.stage import Input, Result, Stage, recipe

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact


@dataclass(frozen=True)
class Params:
    """Parameters of pretrain."""

    method: str = param("cross-entropy", "the loss; see ltcli methods")
    backbone: Literal[
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet110",
        "resnet10",
        "resnet18",
        "resnet34",
    ] = param("resnet32", "6n+2 family with D = 64, or 10/18/34 with D = 512")
    schedule: Literal["ldam", "metasaug", "mcw", "mwn", "mislas", "bbn", "gcl", "fsa", "cosine"] = (
        param("ldam", "published recipe that the options below start from")
    )
    epochs: int | None = param(None, "length of the run; milestones move in proportion", ge=1)
    batch_size: int | None = param(None, "images per step", ge=2)
    lr: float | None = param(None, "base learning rate", gt=0)
    warmup: int | None = param(None, "epochs of linear warm-up", ge=0)
    milestones: tuple[int, ...] | None = param(
        None, "first epochs of the later phases, in the recipe's own length", ge=1
    )
    factors: tuple[float, ...] | None = param(
        None, "multiples of the base rate in these phases", gt=0
    )
    weight_decay: float | None = param(None, "L2 coefficient", ge=0)
    nesterov: bool | None = param(None, "Nesterov's momentum")
    momentum: float = param(0.9, "of SGD", ge=0, lt=1)
    pad_mode: Literal["constant", "reflect"] | None = param(None, "border of the random crop")
    padding: int = param(4, "pixels of border for the random crop; 0 for no crop", ge=0)
    flip: bool = param(True, "flip images at random")
    mixup: float = param(0.0, "alpha of mixup's Beta distribution; 0 is no mixup", ge=0)
    snapshots: int = param(0, "also keep the weights after each of the last so many epochs", ge=0)
    precision: Literal["auto", "fp32", "bf16"] = param("auto", "bf16 where the device has it")
    seed: int = param(0, "initial weights, order, augmentation", ge=0, lt=2**32)


def resolved_schedule(params: Params) -> Schedule:
    """Return the recipe with every number that was given replaced.

    Raises:
        ParamError: Milestones and factors do not match.
    """
    base = SCHEDULES[params.schedule]
    fields = [field.name for field in dataclasses.fields(Schedule) if field.name != "epochs"]
    given = {name: getattr(params, name) for name in fields if getattr(params, name) is not None}
    schedule = dataclasses.replace(base, **given)
    if len(schedule.milestones) != len(schedule.factors):
        rule = f"factors must be as many as milestones ({len(schedule.milestones)})"
        raise ParamError("pretrain", f"{rule}, got {len(schedule.factors)}")
    return schedule


def check(params: Any, headers: Mapping[str, Header]) -> None:
    """Check what can be known before any work."""
    resolved_schedule(params)
    header = headers["split"]
    if header.size("train.images", 0) < 2:
        raise ArtifactError(header.path, "must have at least 2 training images")


def run(params: Any, inputs: Mapping[str, Artifact], context: Context) -> Result:
    """Train with the one loop; the last epoch is the result."""
    import torch

    from ltcli.data.batches import ImageBatches
    from ltcli.data.samplers import instance_balanced
    from ltcli.engine.device import resolve_device, resolve_precision
    from ltcli.engine.fit import fit
    from ltcli.engine.state import Snapshots, TrainingState
    from ltcli.engine.steps import augmented, plain_step
    from ltcli.models.network import build_network, place
    from ltcli.stages.progress import report

    split = inputs["split"]
    info = split.header.info
    device = resolve_device(context.device)
    dtype = resolve_precision(params.precision, device)
    schedule = resolved_schedule(params)
    epochs = params.epochs or schedule.epochs
    images = ImageBatches.of_split(
        split,
        "train",
        device,
        padding=params.padding,
        pad_mode=schedule.pad_mode,
        flip=params.flip,
    )
    labels = split.tensor("train.labels", device)
    network = build_network(params.backbone, len(info["class_names"]), params.seed)
    network = place(network, device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=schedule.lr,
        momentum=params.momentum,
        weight_decay=schedule.weight_decay,
        nesterov=schedule.nesterov,
    )
    method = methods.find(params.method, "pretrain")
    counts = torch.tensor(info["class_counts"], device=device)
    step = plain_step(
        network,
        optimizer,
        methods.make_loss(method, params, counts),
        augmented(images, seed=params.seed),
        labels,
        dtype=dtype,
        mixup=params.mixup,
        seed=params.seed,
    )
    snapshots = Snapshots(network, epochs - params.snapshots)
    training = fit(
        step,
        lambda epoch: instance_balanced(images.size, seed=params.seed, epoch=epoch),
        lambda epoch: learning_rate(schedule, epochs, epoch),
        TrainingState(network, optimizer, snapshots),
        epochs=epochs,
        batch_size=schedule.batch_size,
        context=context,
    )
    for epoch in report(training, epochs, context, device, dtype):
        snapshots.take(epoch.epoch)
    return Result(
        {**network.state_dict(), **snapshots.stacked("")},
        {
            "class_names": info["class_names"],
            "class_counts": info["class_counts"],
            "mean": info["mean"],
            "std": info["std"],
            "image_size": list(split.header.tensors["train.images"][1][1:3]),
            "split": split.header.digest,
            "backbone": params.backbone,
            "classifier": network.classifier.form,
            "method": params.method,
            "balanced": method.balances,
            "epochs": epochs,
            "recipe": recipe(
                recipe([], "split", split.header.parameters), "pretrain", as_dict(params)
            ),
        },
    )


STAGE = Stage(
    name="pretrain",
    summary="Train a backbone and a classifier on the long-tailed images.",
    params=Params,
    inputs=(Input("split", "split", "split", "images to train on"),),
    output="model",
    run=run,
    check=check,
    has_methods=True,
    examples=(
        "ltcli pretrain -d artifacts/c10-100",
        "ltcli pretrain --schedule mislas --mixup 1 --epochs 50 -d artifacts/c10-100",
        "ltcli pretrain --method balanced-softmax --out artifacts/c10-100/balanced.safetensors"
        " -d artifacts/c10-100",
    ),
)
