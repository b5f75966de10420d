"""dump-features: features and labels of all images, as a bank for later stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.artifacts.backbone import backbone_of, require_maps
from ltcli.core.context import Context
from ltcli.core.errors import NumericalError, ParamError
from ltcli.core.params import param
from ltcli.data.reading import Reading
from ltcli.stages.samples import check_alike, check_padding, check_samples, open_samples
from ltcli.stages.stage import (
    Input,
    Result,
    Stage,
    check_kept,
    check_together,
    refuse_augmentation,
    refuse_given,
)

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact


@dataclass(frozen=True, kw_only=True)
class Params(Reading):
    """Parameters of dump-features."""

    maps: bool = param(False, "also store the last feature maps of the training images")
    views: int = param(0, "number of augmented views of each training image to store too", ge=0)
    padding: int = param(4, "border in pixels for the random crops of the views", ge=0)
    flip: bool = param(True, "flip the views horizontally at random")
    from_epoch: int | None = param(
        None, "use the weights that pretrain --snapshots kept after this epoch", ge=1
    )
    storage: Literal["fp32", "bf16"] = param("fp32", "data type of the stored features")
    other_split: bool = param(
        False, "allow another split than the model's, with the same classes", identity=False
    )
    seed: int = param(0, "seed of the views", ge=0, lt=2**32)


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Refuse images and an epoch that the model does not have, and options without effect."""
    if not params.other_split:
        check_together("dump-features", headers, {})
    check_kept("dump-features", params.from_epoch, headers["model"])
    check_samples("dump-features", params.root, headers["split"])
    check_alike(headers["split"], headers["model"])
    store = headers["split"].info["store"]
    if params.views and store == "features":
        raise ParamError("dump-features", "views must be 0 for embeddings, which do not vary")
    if not params.views:
        refuse_given("dump-features", params, ("padding", "flip", "seed"), "without --views")
    refuse_augmentation("dump-features", params, store)
    check_padding("dump-features", params.padding, headers["split"])
    if params.maps:
        require_maps(headers["model"])


def run(params: Params, inputs: Mapping[str, Artifact], context: Context) -> Result:
    """Run the backbone once over every image."""
    import torch

    from ltcli.compute.device import resolve_device, resolve_precision
    from ltcli.data.batches import Augmentation, Batch, Samples
    from ltcli.engine import infer
    from ltcli.models.network import load_network

    split, model = inputs["split"], inputs["model"]
    info = split.header.info
    device = resolve_device(context.device)
    dtype = resolve_precision(params.precision, device)
    # Parameters count epochs from 1, snapshots from 0.
    epoch = None if params.from_epoch is None else params.from_epoch - 1
    network, backbone = load_network(model, device, epoch), backbone_of(model.header)
    stored = torch.bfloat16 if params.storage == "bf16" else torch.float32
    classifier = network.classifier.cpu()

    def samples(part: str, padding: int = 0) -> Samples:
        # Normalised as in training, also if the images come from another split.
        varied = Augmentation(padding=padding, flip=params.flip, seed=params.seed)
        return open_samples(split, part, device, params, backbone, varied)

    tensors: dict[str, torch.Tensor] = {}
    for part in ("train", "val", "test"):
        features = infer.features_of(network, samples(part), dtype)
        _check_finite(features, part)
        tensors[f"{part}.features"] = features.to(stored)
        # Logits of the training images, [N, C], would be most of the file if classes are many.
        if part != "train":
            with torch.inference_mode():
                # From the stored features, so that both agree in bfloat16 too.
                tensors[f"{part}.logits"] = classifier(tensors[f"{part}.features"].float())
        tensors[f"{part}.labels"] = split.tensor(f"{part}.labels")
    if "train.groups" in split.header.tensors:
        tensors["train.groups"] = split.tensor("train.groups")
    if params.maps:
        images = samples("train")
        batches = images.in_order(slice(0, images.size), infer.batch_size(images))
        maps_of = infer.backbone_maps(network)
        tensors["train.maps"] = infer.applied(maps_of, batches, device, dtype, stored)
    if params.views:
        images, function = samples("train", params.padding), infer.backbone_features(network)
        rows, size = torch.arange(images.size), infer.batch_size(images)
        # Every view has this order, so that workers can decode files before they are needed.
        images.read_ahead(lambda _epoch: rows, size)

        def view(number: int) -> torch.Tensor:
            batches = (
                images.drawn(Batch(number, i, i * size, part))
                for i, part in enumerate(torch.split(rows.to(device), size))
            )
            return infer.applied(function, batches, device, dtype, stored)

        tensors["train.views"] = torch.stack([view(number) for number in range(params.views)])
    return Result(
        tensors,
        {
            "class_names": info["class_names"],
            "class_counts": info["class_counts"],
            "split": split.header.digest,
            "model": model.header.digest,
            "backbone": model.header.info["backbone"],
        }
        # Without an entry the features come from the last epoch.
        | ({} if params.from_epoch is None else {"epoch": params.from_epoch}),
    )


def _check_finite(features: torch.Tensor, part: str) -> None:
    # A bank with NaN would only show in the stages that train on it.
    bad = (~features.isfinite()).any(1).nonzero()
    if len(bad):
        rule = f"{part} features must be finite, got NaN or infinity for image {int(bad[0])}"
        raise NumericalError("dump-features", rule, "the model has diverged: train it again")


STAGE = Stage(
    name="dump-features",
    summary="Keep the features and labels of every image.",
    params=Params,
    inputs=(
        Input("split", "split", "split", "images", may_differ=("split",)),
        Input("model", "model", "pretrain", "backbone and classifier"),
    ),
    output="features",
    run=run,
    shares_work=True,
    check=check,
    examples=(
        "ltcli dump-features -d artifacts/c10-100",
        "ltcli dump-features --maps --storage bf16 -d artifacts/c10-100",
        "ltcli dump-features --split artifacts/c10/split.safetensors --other-split"
        " --out artifacts/c10-100/oracle.safetensors -d artifacts/c10-100",
    ),
)
