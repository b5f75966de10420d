"""The source of two small networks: three or four convolutions, for images of any size.

Their features are the mean of the last feature maps over all positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltcli.artifacts.backbone import Backbone
from ltcli.models.source import Source

if TYPE_CHECKING:
    from torch import nn

    from ltcli.artifacts.header import Header

# Channels after each convolution, each of stride 2.
_CHANNELS = {"three": (16, 32, 64), "four": (16, 32, 64, 128)}


def _resolve(name: str, variant: str, split: Header) -> Backbone:
    """Return the record of a network; the KeyError of an unknown name becomes an error line."""
    channels = _CHANNELS[name]
    height, width = split.info["image_size"]
    scale = 2 ** len(channels)
    in_files = split.info["store"] == "files"
    return Backbone(
        source="convolutions",
        name=name,
        variant=variant,
        feature_dim=channels[-1],
        map_size=(-(-height // scale), -(-width // scale)),
        image_size=(height, width),
        stored_size=() if in_files else (height, width),
        mean=tuple(split.info["mean"]),
        std=tuple(split.info["std"]),
        interpolation="bilinear",
    )


def _build(record: Backbone) -> nn.Module:
    from torch import nn

    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            before = 3
            for after in _CHANNELS[record.name]:
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
                before = after
            self.layers = nn.Sequential(*layers)

        def maps(self, images: Any) -> Any:
            return self.layers(images)

        def forward(self, images: Any) -> Any:
            return self.maps(images).mean((2, 3))

    return Convolutions()


SOURCE = Source(names=lambda: tuple(_CHANNELS), resolve=_resolve, build=_build)
