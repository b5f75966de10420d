"""finetune: a better classifier for a trained backbone, from a feature bank or from images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli import methods
from ltcli.artifacts.backbone import backbone_of
from ltcli.core.context import Context
from ltcli.core.errors import ParamError
from ltcli.core.params import as_dict, param, specs
from ltcli.engine.schedules import MIN_STEPS, Schedule, epochs_for
from ltcli.methods.method import Method, Run, SolvingRun, Training, with_given
from ltcli.stages import solving
from ltcli.stages.samples import check_alike, check_padding, check_samples, open_samples
from ltcli.stages.stage import (
    Input,
    Result,
    Stage,
    check_epoch,
    check_follows_prior,
    check_kept,
    check_momentum,
    check_processes,
    recipe,
    refuse_augmentation,
    refuse_given,
)

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.models.network import Network

# Roles of inputs made from a model, beside the model itself.
_STATISTICS = ("features", "covariances", "confusion", "generator")

# Epochs and rates of a classifier on a frozen backbone; a method's own defaults come first.
RECIPE = Schedule(
    epochs=10,
    batch_size=128,
    lr=0.1,
    warmup=0,
    milestones=(),
    factors=(),
    weight_decay=5e-4,
    nesterov=False,
    pad_mode="constant",
)
# Epochs have no default of their own: on features a run takes as many as make enough steps.
_LENGTHS = ("epochs", "warmup")
DEFAULTS = {name: value for name, value in vars(RECIPE).items() if name not in _LENGTHS}


@dataclass(frozen=True, kw_only=True)
class Params(Training):
    """Parameters of finetune."""

    data: Literal["features", "images"] = param(
        "features", "training samples; a bank of features takes seconds"
    )
    train: Literal["classifier", "all"] = param(
        "classifier", "trained part; all needs --data images"
    )
    from_epoch: int | None = param(
        None, "start from this epoch, kept by pretrain --snapshots", ge=1
    )
    min_steps: int | None = param(None, MIN_STEPS, ge=1, group="Schedule")
    decay: Literal["cosine", "steps"] = param(
        "cosine", "fall of the learning rate", group="Schedule"
    )
    shift_bn: bool = param(
        False, "batch norms of a frozen backbone follow the images", group="Augmentation"
    )


def run_of(params: Params, headers: Mapping[str, Header]) -> Run:
    """The run that parameters describe; a cosine refuses milestones."""
    schedule = with_given(RECIPE, params, "finetune")
    epochs = schedule.epochs if params.epochs is None else params.epochs
    bank = params.data == "features"
    if bank and params.epochs is None and "features" in headers:
        samples = headers["features"].size("train.labels", 0)
        longer = epochs_for(epochs, params.min_steps, samples, schedule.batch_size)
        milestones = tuple(round(one * longer / epochs) for one in schedule.milestones)
        epochs, schedule = longer, dataclasses.replace(schedule, milestones=milestones)
    if params.decay == "cosine":
        if schedule.milestones:
            hint = f"{params.method} has them by default: --milestones '' --factors ''"
            own = methods.find(params.method, "finetune").defaults.get("finetune", {})
            given = schedule.milestones != own.get("milestones")
            rule = "milestones need --decay steps, got cosine"
            raise ParamError("finetune", rule, None if given else hint)
    elif not schedule.milestones:
        # Without a later phase the rate stays as it is.
        schedule = dataclasses.replace(schedule, milestones=(epochs,), factors=(1.0,))
    run = Run(
        stage="finetune",
        params=params,
        # Milestones are counted in epochs of this run.
        schedule=dataclasses.replace(schedule, epochs=epochs),
        solver="sgd",
        whole=params.train == "all",
        bank=bank,
        deferred=0,
        headers=headers,
    )
    method = methods.find(params.method, "finetune")
    return dataclasses.replace(run, solver=solving.decided(run, method, _defaults(method)))


def _defaults(method: Method[Any]) -> dict[str, Any]:
    return {**DEFAULTS, **method.defaults.get("finetune", {})}


def needs(params: Params) -> set[str]:
    """Roles of the inputs that a run reads."""
    method = methods.find(params.method, "finetune")
    run = run_of(params, {})
    return {"model", run.source, *method.reads(params.options, run)}


def unread(method: str) -> set[str]:
    """Names of the parameters that nothing reads with a method: those of training, if it solves."""
    if methods.find(method, "finetune").solve is None:
        return set()
    used = {"method", "data", "from_epoch", "root", "workers", "precision", "seed"}
    return {spec.name for spec in specs(Params)} - used


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Check what is known before any work."""
    method, model = methods.find(params.method, "finetune"), headers["model"]
    defaults = _defaults(method)
    refuse = functools.partial(refuse_given, "finetune", params, defaults=defaults)
    check_processes("finetune", method.alone, params.method)
    hint = "it solves for the classifier and trains nothing"
    refuse(unread(params.method), f"for {params.method}", hint)
    run = run_of(params, headers)
    if params.epochs == 0:  # Only pretrain has a use for 0 epochs: given weights.
        raise ParamError("finetune", "epochs must be at least 1, got 0")
    # Adam reads neither momentum nor nesterov.
    check_momentum("finetune", run.schedule.nesterov and run.solver == "sgd", params.momentum)
    if method.solve is None:
        solving.check(run, method, defaults)
    if params.data == "images":
        check_samples("finetune", params.root, headers["split"])
        check_alike(headers["split"], model)
        check_padding("finetune", params.padding, headers["split"])
    if not run.bank or params.epochs is not None:
        where = "with --epochs" if run.bank else "without a feature bank"
        refuse(("min_steps",), where, "it says how long to train where nothing else does")
    store = headers["split"].info["store"] if params.data == "images" else "features"
    refuse_augmentation("finetune", params, store, defaults)
    if params.beta == 0:  # Weights of 1 sum to the batch size: both reductions are the same.
        refuse(("reduction",), "without --beta")
    if params.method == "logit-adjustment":  # A second correction would overshoot.
        check_follows_prior("finetune", model)
    trainable = method.head(params.options, run).trainable
    # No gradient reaches a backbone through stored features.
    if params.train == "all" and (params.data != "images" or "weight" not in trainable):
        hint = "--train all needs --data images and a method that trains the classifier"
        raise ParamError("finetune", "train must be classifier, got all", hint)
    if params.shift_bn and (params.data, params.train) != ("images", "classifier"):
        hint = "it needs --data images and --train classifier"
        raise ParamError("finetune", "shift-bn must be off here", hint)
    if method.loss is None:
        for name, given in (("mixup", params.mixup > 0), ("shift-bn", params.shift_bn)):
            if given:
                rule = f"{name} must be off for {params.method}"
                raise ParamError("finetune", rule, "it is for methods with a loss of logits")
    check_kept("finetune", params.from_epoch, model)
    check_epoch(params.from_epoch, headers, _STATISTICS)
    method.check(params.options, run)


def run(params: Params, inputs: Mapping[str, Artifact], context: Context) -> Result:
    """Solve for a classifier, or train one; the last epoch is the result."""
    import torch

    from ltcli.compute.device import resolve_device, resolve_precision
    from ltcli.engine.steps import Mixing
    from ltcli.models import network as networks

    model = inputs["model"]
    # The adjustment of the old logits does not hold for those of another classifier.
    info = dict(model.header.info)
    info.pop("adjustment", None)
    method, device = methods.find(params.method, "finetune"), resolve_device(context.device)
    run = run_of(params, {role: artifact.header for role, artifact in inputs.items()})
    # People count epochs from 1, snapshots from 0.
    epoch = None if params.from_epoch is None else params.from_epoch - 1
    passed_on: dict[str, torch.Tensor] = {}
    if run.bank:
        # The features are there already: the backbone is passed on without being built.
        classifier = networks.load_classifier(model, epoch).to(device)
        network = networks.Network(torch.nn.Identity(), classifier).eval()
        tensors = networks.load_part(model, "backbone", epoch)
        passed_on = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
        dtype = torch.float32  # Only the classifier runs, and it is trained in float32.
    else:
        network = networks.load_network(model, device, epoch)
        dtype = resolve_precision(params.precision, device)
    options: Any = params.options
    fresh, kept = False, dict[str, torch.Tensor]()
    if method.solve is not None:
        solving_run = _solving(method, run, inputs, network, dtype)
        network.classifier, chosen = method.solve(options, solving_run)
        context.log({"event": "solved", **chosen})
        options = dataclasses.replace(options, **chosen)  # ``balances`` must judge the chosen tau.
    else:
        from ltcli.stages.training import assemble, start_classifier, train

        head = method.head(options, run)
        solved = run.solver == "lbfgs"
        fresh = head.start == "fresh" or solved  # A solution has nothing of its start.
        if fresh:
            num_classes, dim = network.classifier.weight.shape
            # Drawn on the CPU: the same start on every device.
            classifier = networks.build_classifier(dim, num_classes, params.seed, head.form)
            network.classifier = classifier.to(device)
        start_classifier(network.classifier, head, fresh=fresh)
        backbone, shift_bn = None if run.bank else backbone_of(model.header), params.shift_bn
        ready = assemble(method, run, network, inputs, backbone, dtype, shift_bn=shift_bn)
        if solved:
            solving.solve(ready, method, inputs, context)
        else:
            mixing = Mixing(params.mixup, params.seed) if params.mixup > 0 else None
            kept = train(method, ready, mixing, context, shift_bn=shift_bn)
    return Result(
        {**passed_on, **network.state_dict(), **kept},
        info
        | {
            "classifier": network.classifier.form,
            "method": params.method,
            # A fresh classifier has nothing of the one before it.
            "balanced": (info["balanced"] and not fresh) or methods.balances(method, options, run),
            "recipe": recipe(
                _recipe_before(run.headers),
                "finetune",
                {**as_dict(params), "optimizer": run.solver, **_length(run, method)},
            ),
        },
    )


def _length(run: Run, method: Method[Any]) -> dict[str, int]:
    """Epochs of a run, for its recipe; nothing where it has none."""
    return {} if method.solve or run.solver == "lbfgs" else {"epochs": run.epochs}


def _recipe_before(headers: Mapping[str, Header]) -> list[Any]:
    """Recipe of the model, and how the other inputs of ``finetune`` were made."""
    steps: list[Any] = headers["model"].info["recipe"]
    for role in _STATISTICS:
        if role in headers:
            header = headers[role]
            parameters = header.parameters
            if role == "features":
                # Nothing else of them matters here, or it is a parameter of finetune, too.
                parameters = {name: parameters.get(name) for name in ("storage", "precision")}
            elif header.stage == "merge-covariances":
                parameters = {**parameters, "class_counts": header.info["class_counts"]}
            steps = recipe(steps, header.stage, parameters)
    return steps


def _solving(
    method: Method[Any],
    run: Run,
    inputs: Mapping[str, Artifact],
    network: Network,
    dtype: torch.dtype,
) -> SolvingRun:
    """Record that closed-form methods work from, on the CPU."""
    import torch

    from ltcli.engine.infer import features_of

    parts: dict[str, Any] = {}
    device, source = network.classifier.weight.device, inputs[run.source]
    for part, prefix in (("train", ""), ("val", "val_")):
        if run.bank:
            features = source.tensor(f"{part}.features").float()
        else:
            backbone = backbone_of(inputs["model"].header)
            samples = open_samples(source, part, device, run.params, backbone)
            features = features_of(network, samples, dtype)
        parts |= {f"{prefix}features": features, f"{prefix}labels": source.tensor(f"{part}.labels")}
    reads = method.reads(run.params.options, run)
    if "covariances" in reads:
        from ltcli.stages.training import statistics

        parts |= statistics(reads, inputs, torch.device("cpu"))
        parts["covariance_counts"] = inputs["covariances"].tensor("counts")
    return SolvingRun(
        **vars(run),
        classifier=network.classifier.cpu(),
        class_counts=torch.tensor(source.header.info["class_counts"]),
        **parts,
    )


STAGE = Stage(
    name="finetune",
    summary="Improve the classifier of a model by a long-tail method.",
    params=Params,
    inputs=(
        Input("model", "model", "pretrain", "trained model to start from"),
        Input("features", "features", "dump-features", "feature bank of that model"),
        Input("split", "split", "split", "images"),
        Input("covariances", "covariances", "covariances", "class means and covariances"),
        Input("confusion", "confusion", "confusion", "confusion graph"),
        Input("generator", "generator", "stg-train", "generator of features"),
    ),
    output="model",
    run=run,
    shares_work=True,
    check=check,
    needs=needs,
    has_methods=True,
    unread=unread,
    defaults=DEFAULTS,
    output_stem=lambda params, _inputs: f"finetune-{params.method}",
    examples=(
        "ltcli finetune --method crt -d artifacts/c10-100",
        "ltcli finetune --method balanced-softmax --data images --epochs 5 -d artifacts/c10-100",
    ),
)
