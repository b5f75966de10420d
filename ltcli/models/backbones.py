"""The table of backbone sources, and the one place where the name of a backbone is read.

A source is one file here and one line in BACKBONES. Nothing here loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.core.errors import ParamError, nearest
from ltcli.models import embeddings, small_images, timm_networks
from ltcli.models.source import Source

if TYPE_CHECKING:
    from torch import nn

    from ltcli.artifacts.backbone import Backbone
    from ltcli.artifacts.header import Header

BACKBONES: dict[str, Source] = {
    "small-images": small_images.SOURCE,
    "timm": timm_networks.SOURCE,
    "embeddings": embeddings.SOURCE,
}


def resolve(name: str, split: Header, method: str, variant: str) -> Backbone:
    """Return the record of the backbone that ``pretrain`` trains on a split.

    Args:
        name: ``resnet32``, or a source and a dot before the name, ``timm.resnet50``; ``auto`` is
            resnet32 for images and none for embeddings.
        split: Split that it is trained on.
        method: Method that errors name.
        variant: Change of the network that the method asks for; empty for none.

    Raises:
        ParamError: There is no such backbone, or not for this method or these samples.
    """
    if split.info["store"] != "features":
        source, rest = _find("resnet32" if name == "auto" else name)
    elif name == "auto":
        source, rest = "embeddings", "embeddings"
    else:
        rule = f"backbone must be auto for the embeddings of {split.path}, got {name}"
        raise ParamError("pretrain", rule)
    entry = BACKBONES[source]
    if variant and variant not in entry.variants:
        if source == "embeddings":
            rule = "method must be one without a backbone of its own for embeddings"
            raise ParamError("pretrain", f"{rule}, got {method}")
        able = [one for other in BACKBONES.values() if other.variants for one in other.names()]
        rule = f"backbone must be one of {', '.join(able)} for {method}, got {name}"
        raise ParamError("pretrain", rule, "the method changes the layers of the backbone")
    try:
        return entry.resolve(rest, variant, split)
    except KeyError:
        hint = nearest(name, [f"{source}.{one}" for one in entry.names()])
        raise ParamError("pretrain", f"no backbone '{name}'", hint) from None


def _find(name: str) -> tuple[str, str]:
    """Return the source of a backbone for images, and the name within the source."""
    plain = list(BACKBONES["small-images"].names())
    if name in plain:
        return "small-images", name
    source, dot, rest = name.partition(".")
    others = [key for key in BACKBONES if key not in ("small-images", "embeddings")]
    if dot and source in others:
        return source, rest
    hint = nearest(name, plain)
    if dot:
        # An unknown source, such as torchvision; another one may have the network.
        known = [f"{key}.{one}" for key in others for one in BACKBONES[key].names()]
        hint = nearest(f"{others[0]}.{rest}", known)
    forms = ", ".join([*plain, *(f"{other}.NAME" for other in others)])
    raise ParamError("pretrain", f"backbone must be one of {forms}, got {name}", hint)


def build_backbone(record: Backbone) -> nn.Module:
    """Return the network of a record with fresh weights, or raise KeyError for an unknown one."""
    return BACKBONES[record.source].build(record)
