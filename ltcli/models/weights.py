"""Weights from elsewhere, in a file or from torchvision's registry, put into a network."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torchvision import models

from ltcli.artifacts.header import opened
from ltcli.core.errors import ArtifactError, ParamError, ResourceError, nearest
from ltcli.models.borrowed import Borrowed
from ltcli.models.names import BORROWED
from ltcli.models.network import Network
from ltcli.stats.pixel_statistics import IMAGENET_MEAN, IMAGENET_STD

_WRAPPERS = ("state_dict", "model", "model_state")
# Second classifiers of GoogLeNet and Inception, which help training alone.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name, on the CPU.

    Args:
        path: A .safetensors file, or what ``torch.save`` made of a state dict or of a dict that has
            one as ``state_dict``, ``model`` or ``model_state``. Nothing else is unpickled.

    Raises:
        ArtifactError: It is missing, damaged, or holds more or other things than tensors.
    """
    with opened(path) as file:
        content = file.read()
    if path.suffix == ".safetensors":
        try:
            return load_safetensors(content)
        except SafetensorError as error:
            raise ArtifactError(path, f"cannot be read: {error}") from None
    return _state_of(path, _unpickled(path, content))


def _unpickled(path: Path, content: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever a damaged or hostile file makes of the reader
        hint = "anything else in it could run code and is not loaded: save its state dict alone"
        raise ArtifactError(path, "must be a sound file of tensors alone", hint) from None


def _state_of(path: Path, found: Any) -> dict[str, torch.Tensor]:
    while isinstance(found, dict):
        inner = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), dict)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, dict) or not found:
        raise ArtifactError(path, "holds no state dict")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ArtifactError(path, f"must hold tensors by name, got {name} that is none")
    return found


def registered(backbone: str, name: str) -> Any:
    """Return torchvision's entry of published weights of a backbone.

    Args:
        backbone: Its name.
        name: ``default`` or the name of an entry, such as IMAGENET1K_V2.

    Raises:
        ParamError: There is no such entry.
    """
    try:
        entries = models.get_model_weights(backbone.removeprefix(BORROWED))
    except ValueError:
        rule = f"weights of {backbone} must be a file, got {name}"
        hint = "torchvision publishes none; a file's name has a dot or a slash"
        raise ParamError("pretrain", rule, hint) from None
    if name == "default":
        return entries["DEFAULT"]
    known = [entry.name for entry in entries]
    if name not in known:
        rule = f"weights of {backbone} must be a file, default or of torchvision, got {name}"
        raise ParamError("pretrain", rule, nearest(name, known))
    return entries[name]


def published_pixels(backbone: str, name: str | None) -> dict[str, list[float]]:
    """Return mean and standard deviation of each colour that published weights were made with.

    Args:
        backbone: Its name.
        name: As for ``registered``; None for a file of weights, which are taken to be like the
            default ones.

    Returns:
        ``mean`` and ``std``, 0..1: those of the entry, if it has its own, else ImageNet's.
    """
    try:
        known = registered(backbone, name or "default").transforms.keywords
    except ParamError:
        known = {}
    mean, std = known.get("mean", IMAGENET_MEAN), known.get("std", IMAGENET_STD)
    return {"mean": list(mean), "std": list(std)}


def fetch(entry: Any) -> dict[str, torch.Tensor]:
    """Return published weights, from torchvision's cache or its server.

    Raises:
        ResourceError: They cannot be had.
    """
    hint = f"fetch {entry.url} where there is a network, and name the file with --weights"
    try:
        state: dict[str, torch.Tensor] = entry.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except Exception as error:  # of the network, the disk, or a damaged file in the cache
        reason = str(error).splitlines()[0]
        raise ResourceError("pretrain", f"{entry} cannot be fetched: {reason}", hint) from None
    return state


def put_in(network: Network, tensors: Mapping[str, torch.Tensor], where: object) -> tuple[int, int]:
    """Give a network the weights of another one with the same backbone.

    The classifier gets its own where it is linear and of as many classes; otherwise it stays as it
    is. Of a model of ltcli, the backbone alone is taken.

    Args:
        network: Changed in place.
        tensors: By name, as ``read_weights`` returns them.
        where: What an error names.

    Returns:
        How many tensors the backbone and the classifier took.

    Raises:
        ArtifactError: A tensor is missing, is not one of the backbone, or has another shape.
    """
    named = {_renamed(name): tensor for name, tensor in tensors.items()}
    if any(name.startswith("backbone.") for name in named):
        start = "backbone."
        named = {n.removeprefix(start): t for n, t in named.items() if n.startswith(start)}
    named = {n.removeprefix("body."): t for n, t in named.items() if not n.startswith(_AUXILIARY)}
    backbone = network.backbone
    target: torch.nn.Module = backbone
    of_head = {}
    if isinstance(backbone, Borrowed):
        target = backbone.body
        of_head = {part: named.pop(f"{backbone.head}.{part}", None) for part in ("weight", "bias")}
    _check_shapes(target, named, where)
    try:
        apart = target.load_state_dict(named, strict=False)
    except RuntimeError as error:
        raise ArtifactError(where, f"does not fit: {str(error).splitlines()[-1].strip()}") from None
    for name in apart.missing_keys:
        raise ArtifactError(where, f"lacks {name} of the backbone")
    for name in apart.unexpected_keys:
        raise ArtifactError(where, f"has {name}, which the backbone has not")
    return len(named), _put_in_classifier(network, of_head)


def _renamed(name: str) -> str:
    """Return a name without the wrapper of parallel training, and DenseNet's as it is today."""
    name = name.removeprefix("module.")
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name)


def _check_shapes(
    target: torch.nn.Module, named: Mapping[str, torch.Tensor], where: object
) -> None:
    own = target.state_dict()
    for name, tensor in named.items():
        if name in own and own[name].shape != tensor.shape:
            rule = f"{name} must be of shape {list(own[name].shape)}, got {list(tensor.shape)}"
            raise ArtifactError(where, rule)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(where, f"{name} must be finite, got NaN or infinity")


def _put_in_classifier(network: Network, of_head: Mapping[str, torch.Tensor | None]) -> int:
    """Take a linear layer's weights where they fit; without a bias it is 0."""
    classifier, weight, bias = network.classifier, of_head.get("weight"), of_head.get("bias")
    if weight is None or weight.shape != classifier.weight.shape or classifier.form != "linear":
        return 0
    with torch.no_grad():
        classifier.weight.copy_(weight)
        classifier.bias.zero_()
        if bias is not None:
            classifier.bias.copy_(bias)
    return 1 if bias is None else 2
