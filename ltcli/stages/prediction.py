"""From image files to the classes that a trained model takes them for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ltcli.artifacts.backbone import backbone_of
from ltcli.core.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header

# Decoded at once: 1,024 images of 64 x 64 are 12 MB.
_CHUNK = 1024
_REPAIR = "repair or remove it, or leave bad files out with --on-bad-image skip"


@dataclass(frozen=True)
class Prediction:
    """What a model says of one file.

    Attributes:
        file: The path.
        classes: Names and probabilities, the most probable first; empty for a bad file.
        bad: What is wrong with the file, as half a sentence; None for a good one.
    """

    file: Path
    classes: tuple[tuple[str, float], ...]
    bad: str | None = None


def find_images(places: Sequence[Path]) -> list[Path]:
    """Return files as they are named, and the images of folders, in all folders below, by name.

    Links are not followed within folders, and what has no image suffix is left out there.

    Raises:
        DataError: A place does not exist, or a folder has no images or cannot be read whole.
    """
    from ltcli.data.folder import list_images

    files: list[Path] = []
    for place in places:
        if not place.exists():
            raise DataError(place, "no such file or folder")
        if not place.is_dir():
            files.append(place)
            continue
        listing = list_images(place, "")
        if listing.bad:
            raise DataError(place, f"must be read whole: {listing.bad[0]}")
        if not listing.found:
            raise DataError(place, "has no images")
        files += [place / path for path in listing.found]
    return files


def predict(
    header: Header,
    files: Sequence[Path],
    *,
    top: int,
    on_bad_image: Literal["fail", "skip"],
    device: str,
    precision: str,
) -> Iterator[Prediction]:
    """Yield what a model says of each file, in order.

    Args:
        header: Of the model.
        files: Images in any format that ``split folder`` reads.
        top: How many classes, at most C.
        on_bad_image: ``fail`` raises at the first bad file, ``skip`` yields it without classes.
        device: As for every stage.
        precision: As for every stage.

    Raises:
        ArtifactError: The model cannot be loaded, or takes no images.
        DataError: A file is bad, and may not be.
    """
    import torch

    from ltcli.artifacts.store import open_artifact
    from ltcli.compute.device import resolve_device, resolve_precision
    from ltcli.data.batches import ImageBatches
    from ltcli.data.decode import as_stored, preparation
    from ltcli.engine.infer import features_of
    from ltcli.models.network import load_network

    where = resolve_device(device)
    dtype = resolve_precision(precision, where)
    backbone = backbone_of(header)
    if not backbone.image_size:
        rule = "must be a model of images, as predict reads image files, got one of embeddings"
        raise ArtifactError(header.path, rule, "ltcli export takes it elsewhere")
    prepare = preparation(as_stored(backbone))
    with open_artifact(header.path) as model:
        network = load_network(model, where)
    for start in range(0, len(files), _CHUNK):
        part = files[start : start + _CHUNK]
        decoded = [_decode(file, prepare, on_bad_image) for file in part]
        good = [image for image in decoded if not isinstance(image, str)]
        found: Iterator[tuple[tuple[str, float], ...]] = iter(())
        if good:
            pixels = torch.stack(good).permute(0, 2, 3, 1)
            images = ImageBatches(
                pixels,
                backbone.mean,
                backbone.std,
                where,
                size=backbone.image_size,
                interpolation=backbone.interpolation,
            )
            features = features_of(network, images, dtype)
            with torch.inference_mode():
                shares = network.classifier(features.to(where)).softmax(1).cpu()
            found = iter(_most_probable(shares, header.info["class_names"], top))
        for file, image in zip(part, decoded, strict=True):
            if isinstance(image, str):
                yield Prediction(file, (), image)
            else:
                yield Prediction(file, next(found))


def _decode(
    file: Path, prepare: Callable[[bytes], torch.Tensor], on_bad_image: str
) -> torch.Tensor | str:
    """Return an image, uint8 [3, H, W], or what is wrong with the file."""
    from ltcli.data.decode import BadImageError
    from ltcli.data.image_files import read_file

    try:
        return prepare(read_file(file))
    except BadImageError as error:
        if on_bad_image == "fail":
            raise DataError(file, str(error), _REPAIR) from None
        return str(error)


def _most_probable(
    shares: torch.Tensor, names: Sequence[str], top: int
) -> list[tuple[tuple[str, float], ...]]:
    """Return the classes of each row of float [B, C], the most probable first."""
    values, classes = shares.topk(min(top, shares.shape[1]))
    return [
        tuple((names[c], value) for c, value in zip(row, best, strict=True))
        for row, best in zip(classes.tolist(), values.tolist(), strict=True)
    ]
