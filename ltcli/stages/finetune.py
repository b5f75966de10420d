"""finetune: a better classifier for a trained backbone, from a feature bank or from images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli import methods
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import as_dict, param
from ltcli.methods.method import Trained
from ltcli.stages.stage import Input, Result, Stage, recipe

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.engine.fit import Batch
    from ltcli.engine.state import Snapshots
    from ltcli.engine.steps import Inputs
    from ltcli.methods.method import Method
    from ltcli.models.network import Network


@dataclass(frozen=True)
class Params:
    """Parameters of finetune."""

    method: str = param(help="what to do; see ltcli methods")
    data: Literal["features", "images"] = param(
        "features", "train on the feature bank (seconds), or on augmented images"
    )
    train: Literal["classifier", "all"] = param("classifier", "what moves; all needs --data images")
    epochs: int = param(10, "length; an epoch draws as many samples as there are", ge=1)
    batch_size: int = param(128, "samples per step", ge=2)
    lr: float = param(0.1, "rate at the start; it falls to 0 along a cosine", gt=0)
    momentum: float = param(0.9, "of SGD", ge=0, lt=1)
    weight_decay: float = param(5e-4, "L2 coefficient", ge=0)
    padding: int = param(4, "pixels of border for the random crop of images", ge=0)
    snapshots: int = param(0, "also keep the weights after each of the last so many epochs", ge=0)
    precision: Literal["auto", "fp32", "bf16"] = param("auto", "bf16 where the device has it")
    seed: int = param(0, "fresh weights, order, augmentation", ge=0, lt=2**32)


def check(params: Any, headers: Mapping[str, Header]) -> None:
    """Check what can be known before any work."""
    method = methods.find(params.method, "finetune")
    model = headers["model"]
    if model.info["balanced"] and params.method == "logit-adjustment":
        rule = f"{model.path} corrects for the class prior already, by {model.info['method']}"
        hint = "start from a model that was trained with cross-entropy"
        raise ArtifactError("finetune", rule, hint)
    if params.train == "all" and (params.data != "images" or "weight" not in method.trainable):
        rule = "train must be classifier"
        hint = "--train all needs --data images and a method that trains the classifier"
        raise ParamError("finetune", f"{rule}, got all", hint)


def run(params: Any, inputs: Mapping[str, Artifact], context: Context) -> Result:
    """Solve for a classifier, or train one; the last epoch is the result."""
    import torch

    from ltcli.engine.device import resolve_device, resolve_precision
    from ltcli.models.network import load_network

    model = inputs["model"]
    info = model.header.info
    device = resolve_device(context.device)
    dtype = resolve_precision(params.precision, device)
    method = methods.find(params.method, "finetune")
    network = load_network(model, device)
    class_counts = torch.tensor(info["class_counts"])
    whole = params.train == "all"
    snapshots: dict[str, torch.Tensor] = {}
    if method.solve is not None:
        trained = _trained(params, inputs, network, class_counts, device, dtype)
        classifier, chosen = method.solve(methods.options(method, params), trained)
        context.log({"event": "solved", **chosen})
        network.classifier = classifier
    else:
        kept = _train(params, inputs, network, method, class_counts, device, dtype, context)
        snapshots = kept.stacked("" if whole else "classifier.")
    state = {f"classifier.{name}": t for name, t in network.classifier.state_dict().items()}
    backbone = network.backbone.state_dict() if whole else model.load("backbone.*")
    state |= {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    return Result(
        state | snapshots,
        info
        | {
            "classifier": network.classifier.form,
            "method": params.method,
            "balanced": info["balanced"] or method.balances,
            "recipe": recipe(info["recipe"], "finetune", as_dict(params)),
        },
    )


def _trained(
    params: Any,
    inputs: Mapping[str, Artifact],
    network: Network,
    class_counts: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> Trained:
    """Return what closed-form methods work from, on the CPU."""
    from ltcli.data.batches import ImageBatches
    from ltcli.engine.infer import features_of

    parts = {}
    for part in ("train", "val"):
        if params.data == "features":
            bank = inputs["features"]
            features = bank.tensor(f"{part}.features").float()
            labels = bank.tensor(f"{part}.labels")
        else:
            split = inputs["split"]
            images = ImageBatches.of_split(split, part, device, padding=0)
            features = features_of(network, images, dtype)
            labels = split.tensor(f"{part}.labels")
        parts[part] = (features, labels)
    return Trained(network.classifier.cpu(), class_counts, *parts["train"], *parts["val"])


def _train(
    params: Any,
    inputs: Mapping[str, Artifact],
    network: Network,
    method: Method,
    class_counts: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
    context: Context,
) -> Snapshots:
    """Train the classifier of a network in place, or the whole network."""
    import torch

    from ltcli.data.samplers import class_aware, instance_balanced
    from ltcli.engine.fit import fit
    from ltcli.engine.state import Snapshots, TrainingState
    from ltcli.engine.steps import plain_step
    from ltcli.models.network import build_classifier
    from ltcli.stages.progress import report

    feature_dim, num_classes = network.backbone.feature_dim, len(class_counts)
    if method.start == "fresh":
        fresh = build_classifier(feature_dim, num_classes, params.seed)
        network.classifier = fresh.to(device)
    network.classifier.train_only(*method.trainable)
    whole = params.train == "all"
    moving: torch.nn.Module = network.train() if whole else network.classifier
    if params.data == "images":
        frozen = None if whole else network
        inputs_of, labels = _image_inputs(params, inputs["split"], frozen, device, dtype)
    else:
        inputs_of, labels = _bank_inputs(inputs["features"], device)
    # Decay would pull factors to zero, not to one.
    groups = [
        {"params": [p], "weight_decay": 0.0 if n.endswith("scales") else params.weight_decay}
        for n, p in moving.named_parameters()
        if p.requires_grad
    ]
    optimizer = torch.optim.SGD(groups, lr=params.lr, momentum=params.momentum)
    loss = methods.make_loss(method, params, class_counts.to(device))
    step = plain_step(
        moving,
        optimizer,
        loss,
        inputs_of,
        labels,
        # A last layer alone is small, and its logits decide: it is trained in float32.
        dtype=dtype if whole else torch.float32,
    )
    count, on_cpu = len(labels), labels.cpu()

    def order(epoch: int) -> torch.Tensor:
        if method.sampler == "instance-balanced":
            return instance_balanced(count, seed=params.seed, epoch=epoch)
        return class_aware(on_cpu, num_classes, seed=params.seed, epoch=epoch, length=count)

    snapshots = Snapshots(moving, params.epochs - params.snapshots)
    training = fit(
        step,
        order,
        lambda epoch: params.lr * 0.5 * (1 + math.cos(math.pi * epoch / params.epochs)),
        TrainingState(moving, optimizer, snapshots),
        epochs=params.epochs,
        batch_size=params.batch_size,
        context=context,
    )
    for epoch in report(training, params.epochs, context, device, dtype):
        snapshots.take(epoch.epoch)
    return snapshots


def _bank_inputs(bank: Artifact, device: torch.device) -> tuple[Inputs, torch.Tensor]:
    """Return what makes a step's inputs from a feature bank, and the labels."""
    features = bank.tensor("train.features", device).float()

    def rows(batch: Batch) -> torch.Tensor:
        return features[batch.rows]

    return rows, bank.tensor("train.labels", device)


def _image_inputs(
    params: Any,
    split: Artifact,
    frozen: Network | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Inputs, torch.Tensor]:
    """Return what makes a step's inputs from images, and the labels.

    Args:
        params: The stage's parameters.
        split: The images.
        frozen: A network whose features are the inputs; None for the images themselves.
        device: Where to compute.
        dtype: Precision of the frozen backbone.
    """
    import torch

    from ltcli.data.batches import ImageBatches
    from ltcli.engine.device import autocast
    from ltcli.engine.infer import backbone_maps
    from ltcli.engine.steps import augmented

    images = ImageBatches.of_split(split, "train", device, padding=params.padding)
    labels = split.tensor("train.labels", device)
    plain = augmented(images, images.size, seed=params.seed)
    if frozen is None:
        return plain, labels
    maps_of = backbone_maps(frozen)

    def features(batch: Batch) -> torch.Tensor:
        with torch.no_grad(), autocast(device, dtype):
            return maps_of(plain(batch)).float().mean((2, 3))

    return features, labels


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
    ),
    output="model",
    run=run,
    check=check,
    has_methods=True,
    output_stem=lambda params, _inputs: f"finetune-{params.method}",
    examples=(
        "ltcli finetune --method crt -d artifacts/c10-100",
        "ltcli finetune --method balanced-softmax --data images --epochs 5 -d artifacts/c10-100",
    ),
)
