"""pretrain: a backbone and a classifier, trained on the long-tailed images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli import methods
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import param
from ltcli.engine.schedules import SCHEDULES, Schedule
from ltcli.stages.samples import (
    check_samples,
    refuse_augmentation,
    root_option,
    workers_option,
)
from ltcli.stages.stage import (
    Checked,
    Input,
    Result,
    Stage,
    check_momentum,
    check_processes,
    refuse_given,
)
from ltcli.stages.start import Start, recipe_of, resolve_start

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.methods.method import Method


@dataclass(frozen=True)
class Params:
    """Parameters of pretrain."""

    method: str = param("cross-entropy", "the loss; see ltcli methods")
    backbone: str = param(
        "auto",
        "resnet20/32/44/56/110 (64 features) or resnet10/18/34 (512) for small images, or any"
        " network of timm, as timm.resnet50; auto is resnet32, and none for embeddings",
    )
    weights: str | None = param(
        None,
        "file of the first weights, or default: the ones that timm publishes",
        identity=False,
    )
    schedule: Literal["ldam", "metasaug", "mwn", "mislas", "bbn", "gcl", "fsa", "cosine"] = param(
        "ldam", "published recipe that the options below start from"
    )
    epochs: int | None = param(
        None,
        "length of the run; milestones move in proportion; 0 keeps --weights as they are",
        ge=0,
    )
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
    least_area: float = param(
        0.08, "image files: share of an image that the random crop has at least", gt=0, le=1
    )
    jitter: float = param(
        0.0, "image files: strength of random brightness, contrast and saturation", ge=0, le=1
    )
    mixup: float = param(0.0, "alpha of mixup's Beta distribution; 0 is no mixup", ge=0)
    mixed_labels: Literal["share", "remix"] = param(
        "share", "labels of mixed images: by their share, or remix's, in favour of rare classes"
    )
    remix_ratio: float = param(3.0, "remix: ratio of class sizes from which one counts", ge=1)
    remix_below: float = param(0.5, "remix: share of the image below which it does", ge=0, le=1)
    beta: float = param(
        0.0, "class weights by the effective number: 0 is none, near 1 is 1/n", ge=0, lt=1
    )
    reduction: Literal["weighted-mean", "mean-of-weighted"] = param(
        "weighted-mean", "what the weighted losses of a batch are divided by"
    )
    sampler: Literal[
        "instance-balanced", "class-aware", "square-root", "reversed", "progressive"
    ] = param("instance-balanced", "how an epoch draws its samples")
    defer: int = param(
        0, "first epoch, in the recipe's own length, of these weights and this sampler", ge=0
    )
    snapshots: int = param(0, "also keep the weights after each of the last so many epochs", ge=0)
    root: str | None = root_option()
    workers: int | None = workers_option()
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


def check(params: Any, headers: Mapping[str, Header]) -> Checked:
    """Check what can be known before any work, and find out where the run starts from."""
    schedule = resolved_schedule(params)
    check_momentum("pretrain", schedule.nesterov, params.momentum)
    if params.defer >= schedule.epochs:
        rule = f"defer must be less than the {schedule.epochs} epochs of schedule {params.schedule}"
        raise ParamError("pretrain", f"{rule}, got {params.defer}")
    if params.defer and params.beta == 0 and params.sampler == "instance-balanced":
        rule = "defer must be 0 without --beta and --sampler"
        raise ParamError("pretrain", f"{rule}, got {params.defer}", "nothing else is put off")
    if params.mixed_labels == "remix" and params.mixup == 0:
        raise ParamError("pretrain", "mixed-labels must be share without --mixup, got remix")
    if params.mixed_labels == "share":
        names = ("remix_ratio", "remix_below")
        refuse_given("pretrain", params, names, "without --mixed-labels remix")
    if params.beta == 0:
        refuse_given("pretrain", params, ("reduction",), "without --beta")
    method = methods.find(params.method, "pretrain")
    if method.steps is not None and params.mixup > 0:
        rule = f"mixup must be 0 for {params.method}, got {params.mixup:g}"
        raise ParamError("pretrain", rule, "its steps need every image by itself")
    check_processes("pretrain", method.alone, params.method)
    method.check(params, headers)
    header = headers["split"]
    check_samples("pretrain", params.root, header)
    refuse_augmentation("pretrain", params, header.info["store"])
    start = resolve_start(params, method, header)
    if header.size("train.labels", 0) < 2:
        raise ArtifactError(header.path, "must have at least 2 training images")
    return Checked(start.fingerprint, start.warnings, start)


def run(params: Any, inputs: Mapping[str, Artifact], context: Context) -> Result:
    """Train with the one loop; the last epoch is the result."""
    from ltcli.engine.fit import fit
    from ltcli.engine.schedules import learning_rate
    from ltcli.engine.state import Snapshots, TrainingState
    from ltcli.stages.fresh_setting import fresh_setting, mixing_of
    from ltcli.stages.progress import report
    from ltcli.stages.setting import make_steps

    split, start = inputs["split"], context.start
    assert isinstance(start, Start)
    info = split.header.info
    schedule = resolved_schedule(params)
    setting = fresh_setting(params, schedule, split, start, context)
    network, epochs = setting.network, setting.epochs
    method = methods.find(params.method, "pretrain")
    steps = make_steps(params, method, setting, mixing_of(params, setting.class_counts))
    order = steps.order or setting.order
    if setting.images is not None:
        setting.images.samples.read_ahead(order, schedule.batch_size)
    snapshots = Snapshots(network, epochs - params.snapshots)
    training = fit(
        steps.step,
        order,
        lambda epoch: learning_rate(schedule, epochs, epoch),
        TrainingState(network, setting.optimizer, snapshots, steps.state),
        epochs=epochs,
        batch_size=schedule.batch_size,
        seed=params.seed,
        context=context,
    )
    said, device = steps.facts or dict, setting.labels.device
    for epoch in report(training, epochs, context, device, setting.dtype, said):
        snapshots.take(epoch.epoch)
    state = {} if steps.state is None else steps.state.tensors()
    return Result(
        {
            **network.state_dict(),
            **snapshots.stacked(""),
            **{f"method.{name}": tensor for name, tensor in state.items()},
        },
        {
            "class_names": info["class_names"],
            "class_counts": info["class_counts"],
            "split": split.header.digest,
            "backbone": dataclasses.asdict(start.backbone),
            "classifier": network.classifier.form,
            "method": params.method,
            "balanced": epochs > 0 and _balances(method, params),
            "epochs": epochs,
            "recipe": recipe_of(params, start, split.header),
        },
    )


def _balances(method: Method, params: Any) -> bool:
    remix = bool(params.mixed_labels == "remix" and params.remix_below > 0)
    return remix or methods.balances(method, params)


STAGE = Stage(
    name="pretrain",
    summary="Train a backbone and a classifier on the long-tailed images.",
    params=Params,
    inputs=(Input("split", "split", "split", "images to train on"),),
    output="model",
    run=run,
    shares_work=True,
    check=check,
    has_methods=True,
    examples=(
        "ltcli pretrain -d artifacts/c10-100",
        "ltcli pretrain --backbone timm.resnet50 --weights resnet50.pth --epochs 0"
        " -d artifacts/photos",
        "ltcli pretrain --schedule mislas --mixup 1 --epochs 50 -d artifacts/c10-100",
        "ltcli pretrain --method balanced-softmax --out artifacts/c10-100/balanced.safetensors"
        " -d artifacts/c10-100",
    ),
)
