"""Samples of one part of a split, wherever they are kept."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ltcli.artifacts.backbone import Backbone, backbone_of
from ltcli.artifacts.header import read_records
from ltcli.compute.environment import local_processes, usable_cores
from ltcli.core.errors import ArtifactError, DataError, ParamError
from ltcli.data.reading import Reading

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.data.batches import Augmentation, Samples
    from ltcli.data.files import ImageFiles

# More workers than this do not make a GPU faster, and each takes memory.
_MOST_WORKERS = 16
# Files whose headers are read to tell how large images are.
_LOOKED_AT = 64


def check_samples(stage: str, root: str | None, split: Header) -> None:
    """Check that the images of a split of files can be found.

    Raises:
        ParamError: Neither ``root`` nor the log of the split names their folder.
        DataError: The folder does not exist.
    """
    if split.info["store"] != "files":
        return
    folder = _root(root, split)
    if folder is None:
        raise ParamError(stage, f"root must be given for {split.path}", "its images are in files")
    if not folder.is_dir():  # A wrong folder is found before any work.
        raise DataError(folder, "no such folder", "name the folder of the images with --root")


def check_alike(split: Header, model: Header) -> None:
    """Raise ArtifactError where a model takes other images or embeddings than a split holds."""
    backbone, found = backbone_of(model), _shape(split)
    size = list(backbone.image_size)
    if not size:
        wanted = f"embeddings of {backbone.feature_dim} numbers"
    elif backbone.crop_mode == "box":
        wanted = f"images of {size[0]}x{size[1]} pixels"
    elif split.info["store"] != "features":
        return  # the network resizes images of any size
    else:
        wanted = "images"
    if wanted != found:
        rule = f"must hold {wanted}, as the model takes, got {found}"
        raise ArtifactError(split.path, rule, "make the split as that of the model")


def _shape(split: Header) -> str:
    if split.info["store"] == "features":
        return f"embeddings of {split.size('train.features', 1)} numbers"
    height, width = split.info["image_size"]
    return f"images of {height}x{width} pixels"


def check_padding(stage: str, padding: int, split: Header) -> None:
    """Raise ParamError where the border of stored images is as wide as the images."""
    if split.info["store"] == "images" and padding >= (side := min(split.info["image_size"])):
        rule = f"padding must be at most {side - 1} for {_shape(split)}, got {padding}"
        raise ParamError(stage, rule, "a crop would lie beside the image")


def size_warning(split: Header, backbone: Backbone, root: str | None) -> str | None:
    """Return a line that warns of images smaller than a network's input; None where none is."""
    # These networks take images in the size of the split.
    if backbone.crop_mode == "box":
        return None
    wanted, size = list(backbone.image_size), split.info["image_size"]
    found = f"are {size[0]}x{size[1]} pixels"
    if split.info["store"] == "files":
        side = _shorter_side(split, root)
        if side is None:
            return None
        size, found = [side, side], f"have {side} pixels on their shorter side (median)"
    if min(size) >= min(wanted):
        return None
    names = f"smaller than the {wanted[0]}x{wanted[1]} of {backbone}"
    return f"warning: images of {split.path} {found}, {names}: they are enlarged"


def _shorter_side(split: Header, root: str | None) -> int | None:
    """Return the median of the shorter sides of some training images; None if none is readable."""
    from ltcli.artifacts.store import open_artifact
    from ltcli.data.decode import side_of

    folder = _root(root, split)
    if folder is None:
        return None
    with open_artifact(split.path) as artifact:
        names, _ = files_of(artifact, "train")
    # Spread over the list, as files of one class stand together.
    step = max(1, len(names) // _LOOKED_AT)
    sides = [side_of(folder / name) for name in names[::step][:_LOOKED_AT]]
    # The median, as a few large photos say nothing about the rest.
    known = sorted(side for side in sides if side is not None)
    return known[len(known) // 2] if known else None


def open_samples(
    split: Artifact,
    part: str,
    device: torch.device,
    params: Reading,
    backbone: Backbone,
    augmentation: Augmentation | None = None,
) -> Samples:
    """Return the samples of one part of a split: train, val or test.

    Args:
        split: Artifact of the samples.
        part: Part of it.
        device: Device of the batches.
        params: Parameters of the stage, with ``root`` and ``workers``.
        backbone: Record that says how images are prepared.
        augmentation: Random changes of the samples that are drawn; None where none are drawn.
    """
    from ltcli.data.batches import Augmentation, FeatureBatches, ImageBatches

    info = split.header.info
    if info["store"] == "features":
        # Embeddings have no colours.
        return FeatureBatches(split.tensor(f"{part}.features"), device)
    mean, std = backbone.mean, backbone.std
    augmentation = augmentation or Augmentation()
    if info["store"] == "images":
        images = split.tensor(f"{part}.images")
        size = backbone.image_size, backbone.interpolation
        return ImageBatches(images, mean, std, device, augmentation, *size)
    from ltcli.compute.parallel import here
    from ltcli.data.files import FileBatches

    files = image_files(split, part, params.root, backbone, augmentation)
    return FileBatches(files, mean, std, device, _workers(params.workers), here())


def image_files(
    split: Artifact, part: str, root: str | None, backbone: Backbone, augmentation: Augmentation
) -> ImageFiles:
    """Return the images of one part of a split of files; ``check_samples`` comes before."""
    from ltcli.data.files import ImageFiles

    folder = _root(root, split.header)
    assert folder is not None
    names, sizes = files_of(split, part)
    most = split.header.info["max_pixels"]
    return ImageFiles(folder, names, sizes, backbone, augmentation, most)


def files_of(split: Artifact, part: str) -> tuple[list[str], list[int]]:
    """Return the paths of the images of one part, and the size of each file in bytes."""
    # The tensors hold the files of train, val and test in this order.
    before = {"train": (), "val": ("train",)}.get(part, ("train", "val"))
    first = sum(split.header.size(f"{other}.labels", 0) for other in before)
    rows = slice(first, first + split.header.size(f"{part}.labels", 0))
    # No path holds a NUL, so it separates them safely.
    names = bytes(split.tensor("files").numpy()).decode().split("\0")
    return names[rows], split.tensor("sizes")[rows].tolist()


def _root(given: str | None, split: Header) -> Path | None:
    """Return the folder of the images: as given, or where ``split`` found them."""
    if given is not None:  # Data sets move, so a given folder wins over the recorded one.
        return Path(given)
    with suppress(ArtifactError):
        for record in read_records(split):
            # People edit logs, so the type is not certain.
            if record.get("event") == "root" and isinstance(record.get("root"), str):
                return Path(record["root"])
    return None


def _workers(given: int | None) -> int:
    # Several processes of one machine share its cores.
    default = min(max(1, usable_cores() // local_processes()), _MOST_WORKERS)
    return default if given is None else given
