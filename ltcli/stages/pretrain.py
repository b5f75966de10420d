"""pretrain: a backbone and a classifier, trained on the long-tailed images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli import methods
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import param
from ltcli.engine.schedules import SCHEDULES
from ltcli.methods.method import Run, Training, with_given
from ltcli.stages import solving
from ltcli.stages.samples import check_padding, check_samples
from ltcli.stages.stage import (
    Checked,
    Input,
    Result,
    Stage,
    check_momentum,
    check_processes,
    refuse_augmentation,
    refuse_given,
)
from ltcli.stages.start import Start, load_start, recipe_of, resolve_start

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.engine.steps import Mixing


@dataclass(frozen=True, kw_only=True)
class Params(Training):
    """Parameters of pretrain."""

    backbone: str = param(
        "auto",
        "resnet20/32/44/56/110 or resnet10/18/34 for small images, or timm.NAME, a network"
        " of timm; auto is resnet32, none for embeddings",
    )
    weights: str | None = param(
        None, "file of initial weights, or default: those of timm", identity=False
    )
    schedule: Literal["ldam", "metasaug", "mwn", "mislas", "bbn", "gcl", "fsa", "cosine"] = param(
        "ldam", "published recipe, whose numbers these options replace", group="Schedule"
    )
    warmup: int | None = param(
        None, "epochs of linear warm-up of the learning rate", ge=0, group="Schedule"
    )
    mixed_labels: Literal["share", "remix"] = param(
        "share", "labels of mixed images", group="Augmentation"
    )
    remix_ratio: float = param(
        3.0, "Remix: class-size ratio from which the rarer class wins", ge=1, group="Augmentation"
    )
    remix_below: float = param(
        0.5,
        "Remix: mixing weight below which the rarer class wins",
        ge=0,
        le=1,
        group="Augmentation",
    )
    defer: int = param(
        0, "first epoch with weights and sampler, in schedule epochs", ge=0, group="Class imbalance"
    )


def run_of(params: Params, headers: Mapping[str, Header]) -> Run:
    """The run that parameters describe."""
    schedule = with_given(SCHEDULES[params.schedule], params, "pretrain", warmup=params.warmup)
    epochs = schedule.epochs if params.epochs is None else params.epochs
    # A short run has weights and sampler in its last epoch at least.
    deferred = max(0, min(round(params.defer * epochs / schedule.epochs), epochs - 1))
    run = Run(
        stage="pretrain",
        params=params,
        schedule=schedule,
        solver="sgd",
        whole=True,
        bank=False,
        deferred=deferred,
        headers=headers,
    )
    method = methods.find(params.method, "pretrain")
    defaults = method.defaults.get("pretrain", {})
    return dataclasses.replace(run, solver=solving.decided(run, method, defaults))


def check(params: Params, headers: Mapping[str, Header]) -> Checked:
    """Check what is known before any work, and find out where the run starts from."""
    header, run = headers["split"], run_of(params, headers)
    method, schedule = methods.find(params.method, "pretrain"), run.schedule
    check_momentum("pretrain", schedule.nesterov and run.solver == "sgd", params.momentum)
    if params.defer >= schedule.epochs:
        rule = f"defer must be less than the {schedule.epochs} epochs of schedule {params.schedule}"
        raise ParamError("pretrain", f"{rule}, got {params.defer}")
    if params.defer and params.beta == 0 and params.sampler == "instance-balanced":
        rule = "defer must be 0 without --beta and --sampler"
        raise ParamError("pretrain", f"{rule}, got {params.defer}", "nothing else is put off")
    if params.mixed_labels == "remix" and params.mixup == 0:
        raise ParamError("pretrain", "mixed-labels must be share without --mixup, got remix")
    defaults = method.defaults.get("pretrain", {})
    solving.check(run, method, defaults)
    refuse = functools.partial(refuse_given, "pretrain", params, defaults=defaults)
    if params.mixed_labels == "share":
        refuse(("remix_ratio", "remix_below"), "without --mixed-labels remix")
    if params.beta == 0:
        refuse(("reduction",), "without --beta")
    if method.steps is not None and params.mixup > 0:
        rule = f"mixup must be 0 for {params.method}, got {params.mixup:g}"
        raise ParamError("pretrain", rule, "its steps need every image by itself")
    check_processes("pretrain", method.alone, params.method)
    method.check(params.options, run)
    check_samples("pretrain", params.root, header)
    check_padding("pretrain", params.padding, header)
    refuse_augmentation("pretrain", params, header.info["store"], defaults)
    start = resolve_start(params, method.backbone(params.options, run), header)
    if header.size("train.labels", 0) < 2:
        raise ArtifactError(header.path, "must have at least 2 training images")
    return Checked(start.fingerprint, start.warnings, start)


def run(params: Params, inputs: Mapping[str, Artifact], context: Context) -> Result:
    """Train with the one loop; the last epoch is the result."""
    import torch

    from ltcli.compute.device import resolve_device, resolve_precision
    from ltcli.models.network import build_network, place
    from ltcli.stages.training import assemble, start_classifier, train

    split, start = inputs["split"], context.start
    assert isinstance(start, Start)
    method, device = methods.find(params.method, "pretrain"), resolve_device(context.device)
    info, run = split.header.info, run_of(params, {"split": split.header})
    head = method.head(params.options, run)
    network = build_network(start.backbone, len(info["class_names"]), params.seed, head.form)
    start_classifier(network.classifier, head, fresh=True)
    load_start(network, start)
    # A last layer alone is small, and its logits decide: it is trained in float32.
    alone = info["store"] == "features"
    dtype = torch.float32 if alone else resolve_precision(params.precision, device)
    network = place(network, device)
    ready, kept = assemble(method, run, network, inputs, start.backbone, dtype), {}
    solved = run.solver == "lbfgs"
    if solved:
        solving.solve(ready, method, inputs, context)
    else:
        kept = train(method, ready, mixing_of(params, ready.class_counts), context)
    remix = params.mixed_labels == "remix" and params.remix_below > 0
    return Result(
        {**network.state_dict(), **kept},
        {
            "class_names": info["class_names"],
            "class_counts": info["class_counts"],
            "split": split.header.digest,
            "backbone": dataclasses.asdict(start.backbone),
            "classifier": network.classifier.form,
            "method": params.method,
            "balanced": (solved or run.epochs > 0)
            and (remix or methods.balances(method, params.options, run)),
            "epochs": run.epochs,
            "recipe": recipe_of(params, run.solver, start, split.header),
        },
    )


def mixing_of(params: Params, class_counts: torch.Tensor) -> Mixing | None:
    """How images and labels are mixed; None where they are not."""
    from ltcli.engine.steps import Mixing
    from ltcli.stats.losses import remix_shares

    if params.mixup == 0:
        return None
    shares = None
    if params.mixed_labels == "remix":
        ratio, below = params.remix_ratio, params.remix_below
        shares = functools.partial(
            remix_shares, class_counts=class_counts, ratio=ratio, below=below
        )
    return Mixing(params.mixup, params.seed, shares)


STAGE = Stage(
    name="pretrain",
    summary="Train a backbone and a classifier on long-tailed images.",
    params=Params,
    inputs=(Input("split", "split", "split", "images to train on"),),
    output="model",
    run=run,
    shares_work=True,
    check=check,
    has_methods=True,
    defaults={"method": "cross-entropy"},
    examples=(
        "ltcli pretrain -d artifacts/c10-100",
        "ltcli pretrain --backbone timm.resnet50 --weights default --epochs 0 -d photos",
        "ltcli pretrain --schedule mislas --mixup 1 --epochs 50 -d artifacts/c10-100",
    ),
)
