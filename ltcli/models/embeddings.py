"""The source for embeddings: features that the split holds pass through unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.artifacts.backbone import Backbone
from ltcli.models.source import Source

if TYPE_CHECKING:
    from torch import nn


def backbone(feature_dim: int) -> Backbone:
    """Return the record of embeddings of D numbers."""
    return Backbone("embeddings", "embeddings", feature_dim)


def _build(record: Backbone) -> nn.Module:
    from torch import nn

    if record != backbone(record.feature_dim):
        raise KeyError(record.name)

    return nn.Identity()


# It has no names to choose from: ``pretrain`` takes this source for a split of embeddings.
SOURCE = Source(
    names=tuple,
    resolve=lambda _name, _variant, split: backbone(split.size("train.features", 1)),
    build=_build,
)
