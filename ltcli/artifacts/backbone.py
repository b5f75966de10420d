"""The backbone record of a header: the network that makes the features, and how its images look.

``pretrain`` makes the record once; every later stage rebuilds the network and prepares images from
it alone. Nothing reads a backbone's name to find out more about it.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ltcli.artifacts.header import Header
from ltcli.core.errors import ArtifactError

# Larger numbers in a header are forged: they would only fill the memory.
_MOST_SIDE, _MOST_FEATURES, _MOST = 2**14, 2**20, 1e6


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


def _text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 200


def _count(least: int, most: int) -> Callable[[Any], bool]:
    # Not isinstance: True is an int.
    return lambda value: type(value) is int and least <= value <= most


def _number(value: Any) -> bool:
    # Bounds refuse NaN and infinity too, and JSON's whole numbers that no float holds.
    return type(value) in (int, float) and -_MOST < value < _MOST


def _list(size: int, sound: Callable[[Any], bool]) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, list) and len(value) in (0, size) and all(map(sound, value))
    )


def _one_of(*words: str) -> tuple[Callable[[object], bool], str]:
    return lambda value: value in words, " or ".join([", ".join(words[:-1]), words[-1]])


_SIDES = _list(2, _count(1, _MOST_SIDE)), "a height and a width, or nothing"
_THREE = "three numbers, or nothing"
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "source": (_text, "a text"),
    "name": (_text, "a text"),
    "variant": (_text, "a text"),
    "feature_dim": (_count(1, _MOST_FEATURES), "a width"),
    "map_size": _SIDES,
    "stages": (_count(0, 100), "a count"),
    "views": (_count(1, 100), "a count"),
    "image_size": _SIDES,
    "stored_size": _SIDES,
    "mean": (_list(3, _number), _THREE),
    "std": (_list(3, lambda value: _number(value) and value > 0), f"{_THREE}, above 0"),
    "interpolation": _one_of("bilinear", "bicubic"),
    "crop_mode": _one_of("box", "center", "squash", "border"),
    "crop_share": (lambda value: _number(value) and 0 < value <= 1, "in 0 ... 1"),
}


def backbone_of(header: Header) -> Backbone:
    """Return the backbone record of a model, a feature bank or predictions.

    Raises:
        ArtifactError: The header holds no sound record.
    """
    found = header.info["backbone"]
    names = [field.name for field in dataclasses.fields(Backbone)]
    # No defaults: they would hide a record of another version.
    if not isinstance(found, dict) or sorted(found) != sorted(names):
        raise ArtifactError(header.path, f"backbone must be a mapping of {', '.join(names)}")
    for name, (sound, rule) in _RULES.items():
        if not sound(found[name]):
            rule = f"{name} of the backbone must be {rule}, got {found[name]!r:.80}"
            raise ArtifactError(header.path, rule)
    if bool(found["image_size"]) != bool(found["mean"] and found["std"]):
        rule = "image_size, mean and std of the backbone must be given together"
        raise ArtifactError(header.path, rule)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Backbone(**values)


def require_maps(model: Header) -> tuple[int, ...]:
    """Return height and width of a model's last feature maps, or raise ArtifactError without."""
    backbone = backbone_of(model)
    if not backbone.map_size:
        hint = "its features must be the mean of feature maps, as those of a ResNet"
        raise ArtifactError(model.path, f"backbone {backbone} has no feature maps", hint)
    return backbone.map_size
