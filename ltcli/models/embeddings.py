"""The source of no backbone: samples that are features already are handed on as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.artifacts.backbone import Backbone
from ltcli.models.source import Source

if TYPE_CHECKING:
    from torch import nn

    from ltcli.artifacts.header import Header


def backbone(feature_dim: int) -> Backbone:
    """Return the record of embeddings of D numbers."""
    return Backbone(
        source="embeddings",
        name="embeddings",
        variant="",
        feature_dim=feature_dim,
        map_size=(),
        stages=0,
        views=1,
        image_size=(),
        stored_size=(),
        mean=(),
        std=(),
        interpolation="bicubic",
        crop_mode="box",
        crop_share=1.0,
    )


def _resolve(_name: str, _variant: str, split: Header) -> Backbone:
    return backbone(split.size("train.features", 1))


def _build(_record: Backbone) -> nn.Module:
    from torch import nn

    return nn.Identity()


# No name can be given: ``pretrain`` takes this source for a split of embeddings.
SOURCE = Source(names=tuple, resolve=_resolve, build=_build)
