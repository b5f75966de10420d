"""The source of every network of timm (Wightman), with its own image size, colours and crop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ltcli.artifacts.backbone import Backbone
from ltcli.core.errors import ResourceError
from ltcli.models.source import Source

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ltcli.artifacts.header import Header
    from ltcli.models.network import Pooled


def _names() -> list[str]:
    import timm

    found: list[str] = timm.list_models()
    return [*found, "resnet10"]


def _create(name: str, **options: Any) -> nn.Module:
    """Return a network of timm, or raise KeyError for an unknown name."""
    import timm
    from timm.models import is_model, split_model_name_tag
    from timm.models.resnet import BasicBlock, ResNet

    if name == "resnet10":
        # OLTR and those who compare with it: timm has the blocks, but not this depth.
        made: nn.Module = ResNet(BasicBlock, (1, 1, 1, 1), **options)
        return made
    # create_model itself would also follow addresses of other hubs.
    if not is_model(split_model_name_tag(name)[0]):
        raise KeyError(name)
    try:
        made = timm.create_model(name, **options)
    except RuntimeError as error:
        # A tag behind the name that timm does not know.
        if "tag" not in str(error):
            raise
        raise KeyError(name) from None
    return made


def _resolve(name: str, _variant: str, split: Header) -> Backbone:
    import torch
    from timm.data import resolve_data_config

    # On "meta" tensors have shapes and no values: the largest network takes half a second.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model: Any = _create(name, num_classes=0).eval()
    config = resolve_data_config({}, model=model)
    with torch.no_grad():
        maps = model.forward_features(torch.empty(2, *config["input_size"], device="meta"))
        features = model.forward_head(maps, pre_logits=True)
        map_size = _map_size(model, maps)
    in_files = split.info["store"] == "files"
    return Backbone(
        "timm",
        name,
        feature_dim=features.shape[1],
        map_size=map_size,
        image_size=tuple(config["input_size"][1:]),
        stored_size=() if in_files else tuple(split.info["image_size"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_mode=config["crop_mode"],
        crop_share=config["crop_pct"],
    )


def _map_size(model: Any, maps: Any) -> tuple[int, ...]:
    """Return height and width of the last maps; nothing if the features are not their mean."""
    import torch

    if not isinstance(maps, torch.Tensor) or maps.dim() != 4:
        return ()
    # The network is on "meta", so the pooling is tried on numbers. Layers with weights between maps
    # and features make that fail, and the features are no mean then anyway.
    drawn = torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))
    try:
        pooled = model.forward_head(drawn, pre_logits=True)
    except (NotImplementedError, RuntimeError):
        return ()
    # Transformers on windows have their channels last.
    for axes, sides in (((2, 3), maps.shape[2:]), ((1, 2), maps.shape[1:3])):
        mean = drawn.mean(axes)
        if pooled.device == mean.device and pooled.shape == mean.shape:
            return tuple(sides) if torch.allclose(pooled, mean, atol=1e-5) else ()
    return ()


def _build(record: Backbone) -> Pooled:
    from ltcli.models.network import Pooled

    model = _create(record.name, num_classes=0)
    return Pooled(model, record.feature_dim, has_maps=bool(record.map_size))


def _head(name: str) -> set[str]:
    import torch

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        whole, body = _create(name), _create(name, num_classes=0)
    return set(whole.state_dict()) - set(body.state_dict())


def _published(name: str) -> str | None:
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(name) if name != "resnet10" else None
    if found is None or not found.has_weights:
        return None
    return f"timm.{found.architecture}.{found.tag}" if found.tag else f"timm.{found.architecture}"


def _fetch(record: Backbone) -> Mapping[str, torch.Tensor]:
    """Return published weights from timm's cache or its hub, or raise ResourceError."""
    from timm.models import get_pretrained_cfg

    try:
        state: dict[str, torch.Tensor] = _create(record.name, pretrained=True).state_dict()
    except Exception as error:  # of the network, the disk, or a damaged file in the cache
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        known = get_pretrained_cfg(record.name)
        place = f"https://huggingface.co/{known.hf_hub_id}" if known.hf_hub_id else known.url
        hint = f"fetch {place} where there is a network, and name the file with --weights"
        rule = f"weights of {record} cannot be fetched: {reason}"
        raise ResourceError("pretrain", rule, hint) from None
    return state


SOURCE = Source(
    names=_names, resolve=_resolve, build=_build, head=_head, published=_published, fetch=_fetch
)
