"""Predictions of a trained model for image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ltcli.artifacts.backbone import backbone_of
from ltcli.core.errors import ArtifactError, DataError, NumericalError
from ltcli.core.params import param
from ltcli.data.source_table import MAX_PIXELS
from ltcli.data.walk import Left

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header

Classes = list[tuple[str, float]]
"""Names and probabilities, the most probable first."""

# Files decoded at once, to bound memory: 1,024 images of 64 x 64 are 12 MB.
_CHUNK = 1024
_REPAIR = "repair or remove it, or leave bad files out with --on-bad-image skip"


@dataclass(frozen=True, kw_only=True)
class Params:
    """Parameters of predict."""

    images: tuple[Path, ...] = param(help="image files, or folders of them", positional=True)
    model: Path = param(help="model file written by pretrain, finetune or adjust")
    top: int = param(1, "classes listed for each image, the most probable first", ge=1)
    on_bad_image: Literal["fail", "skip"] = param(
        "fail", "stop at a file that is no image, or skip it and say so"
    )
    max_pixels: int = param(
        MAX_PIXELS, "largest image in pixels; larger ones count as no image", ge=1
    )
    device: str = param("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: Literal["auto", "fp32", "tf32", "bf16"] = param(
        "auto", "precision of the backbone; auto is bf16 where the device has it; tf32 is for GPUs"
    )


def find_images(params: Params) -> tuple[list[Path], list[Left], list[Left]]:
    """Files to predict, by name in each folder; entries left out without loss; and bad ones.

    Files are the named ones, and the images in named folders and all folders below.
    """
    from ltcli.data import data_files

    files: list[Path] = []
    harmless: list[Left] = []
    bad: list[Left] = []
    for path in params.images:
        if not path.exists():
            if params.on_bad_image == "fail":
                raise DataError(path, "no such file or folder")
            bad.append(Left(str(path), "no such file or folder"))
        elif not path.is_dir():
            files.append(path)
        else:
            found = data_files.find_images(path, [""], once=False)
            # A prediction for a part of a folder would look complete.
            if found.bad and params.on_bad_image == "fail":
                raise DataError(path, f"must be read whole: {found.bad[0]}")
            names = sorted(found.files[""])
            if not names and not found.bad:
                raise DataError(path, "has no images")
            files += [path / name for name in names]
            harmless += [Left(str(path / left.path), left.reason) for left in found.harmless]
            bad += [Left(str(path / left.path), left.reason) for left in found.bad]
    return files, harmless, bad


def predict(
    header: Header, files: Sequence[Path], params: Params
) -> Iterator[tuple[Path, Classes | str]]:
    """Each file with its most probable classes, or with its defect where bad ones are skipped."""
    import torch

    from ltcli.artifacts.store import open_artifact
    from ltcli.compute.device import resolve_device, resolve_precision
    from ltcli.data.batches import ImageBatches
    from ltcli.data.decode import as_stored, preparation
    from ltcli.engine.infer import features_of
    from ltcli.models.network import load_network

    where = resolve_device(params.device)
    dtype = resolve_precision(params.precision, where)
    backbone = backbone_of(header)
    if not backbone.image_size:
        rule = "must be a model of images, as predict reads image files, got one of embeddings"
        raise ArtifactError(header.path, rule, "ltcli export takes it elsewhere")
    prepare = preparation(as_stored(backbone), params.max_pixels)
    with open_artifact(header.path) as model:
        network = load_network(model, where)
    for start in range(0, len(files), _CHUNK):
        part = files[start : start + _CHUNK]
        decoded = [_decode(file, prepare, params.on_bad_image) for file in part]
        good = [image for image in decoded if not isinstance(image, str)]
        found: list[Classes] = []
        if good:
            images = ImageBatches(
                torch.stack(good).permute(0, 2, 3, 1),
                backbone.mean,
                backbone.std,
                where,
                size=backbone.image_size,
                interpolation=backbone.interpolation,
            )
            features = features_of(network, images, dtype)
            with torch.inference_mode():
                probabilities = network.classifier(features.to(where)).softmax(1).cpu()
            if not bool(probabilities.isfinite().all()):
                rule = "probabilities must be finite, got NaN or infinity"
                raise NumericalError("predict", rule, "the model has diverged: train it again")
            names, top = header.info["class_names"], min(params.top, probabilities.shape[1])
            best, classes = probabilities.topk(top)
            for row, values in zip(classes.tolist(), best.tolist(), strict=True):
                found.append([(names[c], value) for c, value in zip(row, values, strict=True)])
        # Bad files keep their position in the output, so that it matches the list of files.
        rest = iter(found)
        for file, image in zip(part, decoded, strict=True):
            yield file, image if isinstance(image, str) else next(rest)


def _decode(
    file: Path, prepare: Callable[[bytes], torch.Tensor], on_bad_image: str
) -> torch.Tensor | str:
    """An image, uint8 [3, H, W], or the defect of the file as half a sentence."""
    from ltcli.data.formats import BadImageError
    from ltcli.data.image_files import read_file

    try:
        return prepare(read_file(file))
    except BadImageError as error:
        if on_bad_image == "fail":
            raise DataError(file, str(error), _REPAIR) from None
        return str(error)
