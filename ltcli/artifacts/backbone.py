"""The backbone record of a header: the network that makes the features, and how its images look.

``pretrain`` makes the record once; every later stage rebuilds the network and prepares images from
it alone. Nothing reads a backbone's name to find out more about it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltcli.artifacts.rules import Record, Rule, count, is_number, listed, number, one_of
from ltcli.core.errors import ArtifactError

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header

# Larger numbers in a header are forged: they would only fill the memory.
_MOST_SIDE, _MOST_FEATURES = 2**13, 2**20


@dataclass(frozen=True)
class Backbone:
    """One backbone, fully decided.

    Attributes:
        source: Key of ``ltcli.models.backbones.BACKBONES``.
        name: Name of the network within its source.
        feature_dim: D, the width of the features.
        variant: Change that a method makes to the network, such as ``bbn``; empty for none.
        map_size: Height and width of the last feature maps; empty if the features are not their
            mean.
        stages: Number of last stages that the network can be split before.
        views: Views of an image that one feature vector is made of.
        image_size: Height and width of the network's input; empty for embeddings.
        stored_size: Height and width of the images in the split; empty if they are in files.
        mean: Mean of each colour, 0..1, that is subtracted.
        std: Standard deviation of each colour, 0..1, that the rest is divided by.
        interpolation: ``bilinear`` or ``bicubic``, for every change of size.
        crop_mode: Way from a file to an image of ``image_size``. ``box`` cuts and resizes in one
            step, and stored images must have the size already; ``center``, ``squash`` and
            ``border`` are timm's, and stored images of other sizes are resized.
        crop_share: Fraction of the shorter side that the centre crop of a file keeps.
    """

    source: str
    name: str
    feature_dim: int
    variant: str = ""
    map_size: tuple[int, ...] = ()
    stages: int = 0
    views: int = 1
    image_size: tuple[int, ...] = ()
    stored_size: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    interpolation: str = "bicubic"
    crop_mode: str = "box"
    crop_share: float = 1.0

    @property
    def label(self) -> str:
        """Name as ``pretrain --backbone`` takes it, without the variant."""
        # Two sources have no prefix: small-image networks, and embeddings, which are auto.
        plain = self.source in ("small-images", "embeddings")
        return self.name if plain else f"{self.source}.{self.name}"

    def __str__(self) -> str:
        """Return the name for people, with the variant."""
        return f"{self.label}-{self.variant}" if self.variant else self.label


SIDES = listed(count(1, _MOST_SIDE), "a height and a width, or nothing", length=2, empty=True)
_THREE, _STD = "three numbers, or nothing", Rule(lambda value: is_number(value) and value > 0, "")
_NAME = Rule(
    lambda value: isinstance(value, str) and value.isprintable() and len(value) <= 200, "a text"
)
BACKBONE = Record(
    {
        "source": _NAME,
        "name": _NAME,
        "feature_dim": dataclasses.replace(count(1, _MOST_FEATURES), words="a width"),
        "variant": _NAME,
        "map_size": SIDES,
        "stages": dataclasses.replace(count(0, 100), words="a count"),
        "views": dataclasses.replace(count(1, 100), words="a count"),
        "image_size": SIDES,
        "stored_size": SIDES,
        "mean": listed(number(), _THREE, length=3, empty=True),
        "std": listed(_STD, f"{_THREE}, above 0", length=3, empty=True),
        "interpolation": one_of("bilinear", "bicubic"),
        "crop_mode": one_of("box", "center", "squash", "border"),
        "crop_share": Rule(lambda value: is_number(value, 0, 1) and value > 0, "in 0 ... 1"),
    },
    lambda found: (
        None
        if bool(found["image_size"]) == bool(found["mean"] and found["std"])
        else "image_size, mean and std of the backbone must be given together"
    ),
)


def backbone_of(header: Header) -> Backbone:
    """Return the backbone record of a model, a feature bank or predictions.

    Raises:
        ArtifactError: The header holds no sound record.
    """
    found = header.info["backbone"]
    if fault := BACKBONE.fault("backbone", found):
        raise ArtifactError(header.path, fault)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Backbone(**values)


def require_maps(model: Header) -> tuple[int, ...]:
    """Return height and width of a model's last feature maps, or raise ArtifactError without."""
    backbone = backbone_of(model)
    if not backbone.map_size:
        hint = "its features must be the mean of feature maps, as those of a ResNet"
        raise ArtifactError(model.path, f"backbone {backbone} has no feature maps", hint)
    return backbone.map_size
