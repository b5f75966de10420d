"""The source of ResNets for images of 8 to 64 pixels, which are trained from scratch.

resnet20/32/44/56/110 have 6n + 2 layers, widths 16, 32 and 64, and D = 64; resnet10/18/34 have
widths 64 to 512 and D = 512. All have a 3x3 stem of stride 1 and no max-pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ltcli.artifacts.backbone import Backbone
from ltcli.models.source import Source
from ltcli.stats.pixel_statistics import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header
    from ltcli.models.resnet import ResNet

_NARROW, _WIDE = (16, 32, 64), (64, 128, 256, 512)
# Widths and blocks of each stage.
_SHAPES = {
    **{f"resnet{6 * n + 2}": (_NARROW, (n,) * 3) for n in (3, 5, 7, 9, 18)},
    "resnet10": (_WIDE, (1, 1, 1, 1)),
    "resnet18": (_WIDE, (2, 2, 2, 2)),
    "resnet34": (_WIDE, (3, 4, 6, 3)),
}
_EXPERTS = {f"ride{count}": count for count in range(2, 10)}
# Fraction of the shorter side that the centre of an image file has: 224 of 256 pixels.
_CENTRE = 0.875


def backbone(
    name: str,
    variant: str = "",
    *,
    image_size: Sequence[int] = (32, 32),
    in_files: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Backbone:
    """Return the record of a network, or raise KeyError for an unknown name.

    Args:
        name: One of the names above.
        variant: Empty, or a change from ``ltcli.models.resnet``: bbn, sla, or ride with the number
            of experts behind it.
        image_size: Height and width of the images.
        in_files: Whether the split keeps the images in files.
        mean: Mean of each colour, 0..1.
        std: Standard deviation of each colour, 0..1.
    """
    widths, _ = _SHAPES[name]
    # Experts have three quarters of the width; the other variants put features side by side.
    parts = {"": 4, "bbn": 8, "sla": 16} | {ride: 3 * count for ride, count in _EXPERTS.items()}
    # Every stage but the first halves the sides, rounding up.
    scale = 2 ** (len(widths) - 1)
    return Backbone(
        "small-images",
        name,
        feature_dim=parts[variant] * widths[-1] // 4,
        variant=variant,
        map_size=tuple(-(-side // scale) for side in image_size),
        # Experts and turned images have no maps of one image before the last stages.
        stages=len(widths) if variant in ("", "bbn") else 0,
        views=4 if variant == "sla" else 1,
        image_size=tuple(image_size),
        stored_size=() if in_files else tuple(image_size),
        mean=tuple(mean),
        std=tuple(std),
        crop_share=_CENTRE if in_files else 1.0,
    )


def _resolve(name: str, variant: str, split: Header) -> Backbone:
    known = {key: split.info[key] for key in ("image_size", "mean", "std")}
    return backbone(name, variant, in_files=split.info["store"] == "files", **known)


def _build(record: Backbone) -> ResNet:
    from ltcli.models.resnet import Experts, ResNet, Rotations, TwoBranches

    widths, blocks = _SHAPES[record.name]
    known = {key: getattr(record, key) for key in ("image_size", "mean", "std")}
    # All else follows from these, so another value is forged.
    if record != backbone(record.name, record.variant, in_files=not record.stored_size, **known):
        raise KeyError(record.name)
    shape: dict[str, Any] = {"widths": widths, "blocks": blocks, "projection": widths == _WIDE}
    if record.variant in _EXPERTS:
        return Experts(**shape, experts=_EXPERTS[record.variant])
    return {"": ResNet, "bbn": TwoBranches, "sla": Rotations}[record.variant](**shape)


SOURCE = Source(
    names=lambda: tuple(_SHAPES), resolve=_resolve, build=_build, variants=("bbn", "sla", *_EXPERTS)
)
