"""The source of no backbone: samples that are features already are handed on as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.artifacts.backbone import Backbone
from ltcli.models.source import Source

if TYPE_CHECKING:
    from torch import nn

    from ltcli.artifacts.header import Header


def _resolve(name: str, _variant: str, split: Header) -> Backbone:
    return Backbone("embeddings", name, feature_dim=split.size("train.features", 1))


def _build(_record: Backbone) -> nn.Module:
    from torch import nn

    return nn.Identity()


# The one name cannot be given: ``pretrain`` takes it for a split of embeddings.
SOURCE = Source(names=lambda: ("embeddings",), resolve=_resolve, build=_build)
