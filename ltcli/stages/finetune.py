"""finetune: a better classifier for a trained backbone, from a feature bank or from images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli import methods
from ltcli.core.context import Context
from ltcli.core.errors import ParamError
from ltcli.core.params import as_dict, param, specs
from ltcli.engine.schedules import Schedule, learning_rate
from ltcli.stages.recipe import recipe, recipe_before
from ltcli.stages.samples import (
    check_alike,
    check_samples,
    refuse_augmentation,
    root_option,
    workers_option,
)
from ltcli.stages.stage import (
    Input,
    Result,
    Stage,
    check_epoch,
    check_follows_prior,
    check_kept,
    check_momentum,
    check_processes,
    refuse_given,
)

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.engine.state import Snapshots
    from ltcli.methods.method import Method, Setting


@dataclass(frozen=True)
class Params:
    """Parameters of finetune."""

    method: str = param(help="what to do; see ltcli methods, which may have other defaults")
    data: Literal["features", "images"] = param(
        "features", "train on the feature bank (seconds), or on augmented images"
    )
    train: Literal["classifier", "all"] = param("classifier", "what moves; all needs --data images")
    from_epoch: int | None = param(
        None, "start from the weights that pretrain --snapshots kept after this epoch", ge=1
    )
    epochs: int = param(10, "length; an epoch draws as many samples as there are", ge=1)
    batch_size: int = param(128, "samples per step", ge=2)
    optimizer: Literal["sgd", "adam"] = param("sgd", "which optimiser")
    lr: float = param(0.1, "learning rate at the start", gt=0)
    decay: Literal["cosine", "steps"] = param("cosine", "how the rate falls: to 0, or in steps")
    milestones: tuple[int, ...] = param((), "first epochs of the later phases, for steps", ge=1)
    factors: tuple[float, ...] = param((), "multiples of the rate in these phases", gt=0)
    momentum: float = param(0.9, "of SGD", ge=0, lt=1)
    nesterov: bool = param(False, "Nesterov's momentum")
    weight_decay: float = param(5e-4, "L2 coefficient", ge=0)
    beta: float = param(
        0.0, "class weights by the effective number: 0 is none, near 1 is 1/n", ge=0, lt=1
    )
    reduction: Literal["weighted-mean", "mean-of-weighted"] = param(
        "weighted-mean", "what the weighted losses of a batch are divided by"
    )
    sampler: Literal[
        "instance-balanced", "class-aware", "square-root", "reversed", "progressive"
    ] = param("instance-balanced", "how an epoch draws its samples")
    mixup: float = param(0.0, "alpha of mixup's Beta distribution; 0 is no mixup", ge=0)
    shift_bn: bool = param(
        False, "batch-norm statistics of a frozen backbone follow the images drawn here"
    )
    padding: int = param(4, "pixels of border for the random crop of images", ge=0)
    pad_mode: Literal["constant", "reflect"] = param("constant", "border of the random crop")
    flip: bool = param(True, "flip images at random")
    least_area: float = param(
        0.08, "image files: share of an image that the random crop has at least", gt=0, le=1
    )
    jitter: float = param(
        0.0, "image files: strength of random brightness, contrast and saturation", ge=0, le=1
    )
    snapshots: int = param(0, "also keep the weights after each of the last so many epochs", ge=0)
    root: str | None = root_option()
    workers: int | None = workers_option()
    precision: Literal["auto", "fp32", "bf16"] = param("auto", "bf16 where the device has it")
    seed: int = param(0, "fresh weights, order, augmentation", ge=0, lt=2**32)


def resolved_schedule(params: Params) -> Schedule:
    """Return the learning rates of a run as a recipe of its own length.

    Raises:
        ParamError: Milestones and factors do not match, or the rate falls along a cosine.
    """
    if len(params.milestones) != len(params.factors):
        rule = f"factors must be as many as milestones ({len(params.milestones)})"
        raise ParamError("finetune", f"{rule}, got {len(params.factors)}")
    milestones, factors = params.milestones, params.factors
    if params.decay == "cosine":
        if milestones:
            hint = f"{params.method} has them by default: --milestones '' --factors ''"
            rule = "milestones need --decay steps, got cosine"
            own = methods.find(params.method, "finetune").defaults.get("finetune", {})
            given = milestones != own.get("milestones")
            raise ParamError("finetune", rule, None if given else hint)
    elif not milestones:
        # Without a later phase the rate stays as it is.
        milestones, factors = (params.epochs,), (1.0,)
    return Schedule(
        epochs=params.epochs,
        batch_size=params.batch_size,
        lr=params.lr,
        warmup=0,
        milestones=milestones,
        factors=factors,
        weight_decay=params.weight_decay,
        nesterov=params.nesterov,
        pad_mode=params.pad_mode,
    )


def check(params: Any, headers: Mapping[str, Header]) -> None:
    """Check what can be known before any work."""
    method = methods.find(params.method, "finetune")
    check_processes("finetune", method.alone, params.method)
    if method.solve is not None:
        _check_untrained(params)
    resolved_schedule(params)
    check_momentum("finetune", params.nesterov and params.optimizer == "sgd", params.momentum)
    model = headers["model"]
    if params.data == "images":
        check_samples("finetune", params.root, headers["split"])
        check_alike(headers["split"], model)
    store = headers["split"].info["store"] if params.data == "images" else "features"
    refuse_augmentation("finetune", params, store)
    if params.beta == 0:
        refuse_given("finetune", params, ("reduction",), "without --beta")
    if params.method == "logit-adjustment":
        check_follows_prior("finetune", model)
    trainable = method.head(methods.options(method, params)).trainable
    if params.train == "all" and (params.data != "images" or "weight" not in trainable):
        rule = "train must be classifier"
        hint = "--train all needs --data images and a method that trains the classifier"
        raise ParamError("finetune", f"{rule}, got all", hint)
    if params.shift_bn and (params.data, params.train) != ("images", "classifier"):
        hint = "it needs --data images and --train classifier"
        raise ParamError("finetune", "shift-bn must be off here", hint)
    if method.loss is None:
        for name, given in (("mixup", params.mixup > 0), ("shift-bn", params.shift_bn)):
            if given:
                rule = f"{name} must be off for {params.method}"
                raise ParamError("finetune", rule, "it is for methods with a loss of logits")
    check_kept("finetune", params.from_epoch, model)
    read = ("features", "covariances", "confusion", "generator")
    check_epoch(params.from_epoch, headers, read)
    method.check(params, headers)


def _check_untrained(params: Any) -> None:
    """Refuse what only training would read."""
    used = {"method", "data", "from_epoch", "root", "workers", "precision", "seed"}
    unread = {spec.name for spec in specs(Params)} - used
    hint = "it solves for the classifier and trains nothing"
    refuse_given("finetune", params, unread, f"for {params.method}", hint)


def run(params: Any, inputs: Mapping[str, Artifact], context: Context) -> Result:
    """Solve for a classifier, or train one; the last epoch is the result."""
    import torch

    from ltcli.compute.device import resolve_device, resolve_precision
    from ltcli.models.network import load_network
    from ltcli.stages.setting import prepare, trained

    model = inputs["model"]
    # What adjust says of the logits is not true of those of another classifier.
    info = {k: v for k, v in model.header.info.items() if k != "adjustment"}
    device = resolve_device(context.device)
    # A feature bank leaves nothing for the backbone to do, whose precision this is.
    of_bank = params.data == "features"
    dtype = torch.float32 if of_bank else resolve_precision(params.precision, device)
    method = methods.find(params.method, "finetune")
    epoch = None if params.from_epoch is None else params.from_epoch - 1
    network = load_network(model, device, epoch)
    class_counts = torch.tensor(info["class_counts"])
    whole = params.train == "all"
    extra: dict[str, torch.Tensor] = {}
    chosen: dict[str, Any] = {}
    if method.solve is not None:
        known = trained(params, inputs, network, class_counts, dtype)
        network.classifier, chosen = method.solve(methods.options(method, params), known)
        context.log({"event": "solved", **chosen})
    else:
        schedule = resolved_schedule(params)
        setting = prepare(params, schedule, method, inputs, network, class_counts, dtype)
        snapshots, state = _train(params, schedule, setting, method, context)
        extra = snapshots.stacked("" if whole or params.shift_bn else "classifier.")
        extra |= {f"method.{name}": tensor for name, tensor in state.items()}
    return Result(
        {**network.state_dict(), **extra},
        info
        | {
            "classifier": network.classifier.form,
            "method": params.method,
            # What a classifier has learned goes with it.
            "balanced": (info["balanced"] and not methods.starts_fresh(method, params))
            or methods.balances(method, dataclasses.replace(params, **chosen)),
            "recipe": recipe(recipe_before(inputs), "finetune", as_dict(params)),
        },
    )


def _train(
    params: Any, schedule: Schedule, setting: Setting, method: Method, context: Context
) -> tuple[Snapshots, dict[str, torch.Tensor]]:
    """Train the classifier of a network in place, or the whole network.

    Returns:
        What was kept of the last epochs, and the state of the method at the end.
    """
    from ltcli.engine.fit import fit
    from ltcli.engine.state import Snapshots, TrainingState
    from ltcli.engine.steps import Mixing
    from ltcli.stages.progress import report
    from ltcli.stages.setting import make_steps

    every = setting.whole or params.shift_bn
    moving = setting.network if every else setting.network.classifier
    mixing = Mixing(params.mixup, params.seed) if params.mixup > 0 else None
    steps = make_steps(params, method, setting, mixing)
    order = steps.order or setting.order
    if setting.images is not None:
        setting.images.samples.read_ahead(order, params.batch_size)
    snapshots = Snapshots(moving, params.epochs - params.snapshots)
    training = fit(
        steps.step,
        order,
        lambda epoch: learning_rate(schedule, params.epochs, epoch),
        TrainingState(moving, setting.optimizer, snapshots, steps.state),
        epochs=params.epochs,
        batch_size=params.batch_size,
        seed=params.seed,
        context=context,
    )
    device = setting.labels.device
    facts = steps.facts or dict
    for epoch in report(training, params.epochs, context, device, setting.dtype, facts):
        snapshots.take(epoch.epoch)
    return snapshots, {} if steps.state is None else steps.state.tensors()


def _reads(what: str) -> Any:
    """Return whether a run needs an artifact that only some methods read."""

    def needed(params: Any) -> bool:
        return what in methods.find(params.method, "finetune").reads(params)

    return needed


STAGE = Stage(
    name="finetune",
    summary="Improve the classifier of a trained model, backbone frozen unless --train all.",
    params=Params,
    inputs=(
        Input("model", "model", "pretrain", "what to start from"),
        Input(
            "features",
            "features",
            "dump-features",
            "feature bank of that model",
            lambda params: params.data == "features",
        ),
        Input("split", "split", "split", "images", lambda params: params.data == "images"),
        Input(
            "covariances",
            "covariances",
            "covariances",
            "class means and covariances",
            _reads("covariances"),
        ),
        Input("confusion", "confusion", "confusion", "confusion graph", _reads("confusion")),
        Input("generator", "generator", "stg-train", "generator of features", _reads("generator")),
    ),
    output="model",
    run=run,
    shares_work=True,
    check=check,
    has_methods=True,
    output_stem=lambda params, _inputs: f"finetune-{params.method}",
    examples=(
        "ltcli finetune --method crt -d artifacts/c10-100",
        "ltcli finetune --method balanced-softmax --data images --epochs 5 -d artifacts/c10-100",
    ),
)
