"""evaluate: logits and labels of the test set. No other stage scores test images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ltcli.artifacts.backbone import backbone_of
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError
from ltcli.core.params import param
from ltcli.core.text import lacking
from ltcli.data.reading import Reading
from ltcli.stages.samples import check_alike, check_samples, files_of, open_samples
from ltcli.stages.stage import Input, Result, Stage

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Params(Reading):
    """Parameters of evaluate."""

    on: Literal["test", "val"] = param("test", "images to evaluate on")


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Refuse a split without such images, and images that the model does not take."""
    header = headers["split"]
    check_samples("evaluate", params.root, header)
    check_alike(header, headers["model"])
    if header.size(f"{params.on}.labels", 0) == 0:
        hint = "make the split with --val-per-class"
        raise ArtifactError(header.path, f"has no {params.on} images", hint)


def run(params: Params, inputs: Mapping[str, Artifact], context: Context) -> Result:
    """Run the network, and each snapshot of it, over the images."""
    import torch

    from ltcli.compute.device import resolve_device, resolve_precision
    from ltcli.engine.infer import features_of
    from ltcli.models.network import load_network
    from ltcli.stats.accuracy import accuracy, balanced_accuracy, outcomes

    split, model = inputs["split"], inputs["model"]
    info = model.header.info
    device = resolve_device(context.device)
    dtype = resolve_precision(params.precision, device)
    images = open_samples(split, params.on, device, params, backbone_of(model.header))
    labels = split.tensor(f"{params.on}.labels")

    def logits_of(features: torch.Tensor) -> torch.Tensor:
        # Moved before inference mode: parameters made in it could not be overwritten by the next
        # snapshot. On the CPU, so that logits do not depend on the device.
        classifier = network.classifier.cpu()
        with torch.inference_mode():
            logits: torch.Tensor = classifier(features)
        return logits

    network = load_network(model, device)
    features = features_of(network, images, dtype)
    logits = logits_of(features)
    tensors = {"logits": logits, "labels": labels}
    snapshots = model.load("snapshots.*") if "snapshots.epoch" in model.header.tensors else {}
    if snapshots:
        epochs = snapshots.pop("epoch")
        predicted = []
        # Snapshots of a classifier alone share the features of one pass.
        moving = any(name.startswith("backbone.") for name in snapshots)
        for i in range(len(epochs)):
            state = {name: tensor[i] for name, tensor in snapshots.items()}
            try:
                # Not strict, as a snapshot may hold the classifier alone.
                network.load_state_dict(state, strict=False)
            except RuntimeError:
                rule = "its snapshots do not fit its network"
                raise ArtifactError(model.header.path, rule) from None
            network.to(device)
            if moving:
                features = features_of(network, images, dtype)
            predicted.append(logits_of(features).argmax(1))
        tensors |= {"snapshots.epoch": epochs, "snapshots.predicted": torch.stack(predicted)}
    found = outcomes(logits, labels)
    shown = f"accuracy {100 * accuracy(found):.2f} %"
    shown += f", balanced {100 * balanced_accuracy(found):.2f} %"
    tested = labels.bincount(minlength=len(info["class_names"])).tolist()
    if none := lacking(info["class_names"], tested, f"{params.on} images and no part in it"):
        shown += f" ({none})"
    logger.info("evaluate: %s on %s: %s", model.header.path.stem, params.on, shown)
    kept = ("class_names", "class_counts", "method", "recipe", "backbone")
    return Result(
        tensors,
        {name: info[name] for name in kept}
        | {
            "split": split.header.digest,
            "model": model.header.digest,
            "on": params.on,
            # compare refuses predictions whose fingerprints differ.
            "images": _fingerprint(split, params.on),
            "stage": model.header.stage,
            "network_parameters": network.size(),
            "held_out": split.header.size("val.labels", 0),
        },
    )


def _fingerprint(split: Artifact, part: str) -> str:
    """SHA-256 of the samples of a part, equal for all splits with this test set."""
    digest = hashlib.sha256(split.tensor(f"{part}.labels").numpy().tobytes())
    store = split.header.info["store"]
    if store == "files":
        # Names and sizes: hashing the contents would read every file again.
        digest.update(repr(list(zip(*files_of(split, part), strict=True))).encode())
    else:
        digest.update(split.tensor(f"{part}.{store}").numpy().tobytes())
    return digest.hexdigest()


def _stem(params: Params, inputs: Mapping[str, Path]) -> str:
    suffix = "" if params.on == "test" else f"-on-{params.on}"
    return f"evaluate-{inputs['model'].stem}{suffix}"


STAGE = Stage(
    name="evaluate",
    summary="Store the logits of the test set, for each model of --dir.",
    params=Params,
    output="predictions",
    inputs=(
        Input("split", "split", "split", "images"),
        Input("model", "model", "pretrain", "model to evaluate; without it, every model in --dir"),
    ),
    run=run,
    shares_work=True,
    check=check,
    output_stem=_stem,
    for_each="model",
    examples=(
        "ltcli evaluate -d artifacts/c10-100",
        "ltcli evaluate --on val --model artifacts/c10-100/finetune-crt.safetensors"
        " -d artifacts/c10-100",
    ),
)
