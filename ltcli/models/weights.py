"""Weights from elsewhere, read from a file without executing anything, and put into a network."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from ltcli.artifacts.header import opened
from ltcli.artifacts.schema import fault_by_ending
from ltcli.core.errors import ArtifactError
from ltcli.core.text import clipped
from ltcli.models.network import Network, Pooled

_DEPTH = 4
_WRAPPERS = ("state_dict", "model", "model_state")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name, on the CPU.

    The file is a .safetensors file, or ``torch.save`` wrote it from a state dict or from a dict
    with one as ``state_dict``, ``model`` or ``model_state``. Nothing else is unpickled.

    Raises:
        ArtifactError: It is missing, damaged, or holds more or other things than tensors.
    """
    with opened(path) as file:
        content = file.read()
    if path.suffix == ".safetensors":
        try:
            found = load_safetensors(content)
        except SafetensorError as error:
            raise ArtifactError(path, f"cannot be read: {error}") from None
    else:
        found = _state_of(path, _unpickled(path, content))
    for name, tensor in found.items():
        if fault := _fault(tensor):
            raise ArtifactError(path, f"{clipped(name)} must be a tensor of numbers, got {fault}")
    return found


def _fault(tensor: torch.Tensor) -> str | None:
    """Return why a tensor holds no plain numbers of its own; None where it does."""
    if tensor.is_meta:
        return "one without numbers"
    if tensor.is_quantized or tensor.is_complex() or tensor.layout != torch.strided:
        return f"a {'sparse' if tensor.layout != torch.strided else _shown(tensor.dtype)} one"
    return None


def _unpickled(path: Path, content: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns of old formats, which users of a published file cannot change.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # a damaged or hostile file can raise anything
        hint = "anything else in it could run code and is not loaded: save its state dict alone"
        raise ArtifactError(path, "must be a sound file of tensors alone", hint) from None


def _state_of(path: Path, found: Any) -> dict[str, torch.Tensor]:
    # Trainers wrap the state dict, sometimes more than once; a forged file, without end.
    for _ in range(_DEPTH):
        if not isinstance(found, dict):
            break
        inner = (found[key] for key in _WRAPPERS if isinstance(found.get(key), dict))
        found = next(inner, found)
    if not isinstance(found, dict) or not found:
        raise ArtifactError(path, "holds no state dict")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            rule = f"must hold tensors by name, got {clipped(str(name))} that is none"
            raise ArtifactError(path, rule)
    return found


def put_in(
    network: Network, tensors: Mapping[str, torch.Tensor], where: object, head: Collection[str] = ()
) -> tuple[int, int]:
    """Load weights of another network with the same backbone; return two counts of tensors.

    The counts are those that the backbone and the classifier took. The classifier takes some where
    the other network has one linear layer behind the features, for as many classes. A model of
    ltcli gives its backbone alone. ``head`` names the tensors behind the features.

    Raises:
        ArtifactError: A tensor is missing, is not one of the backbone, or has another shape.
    """
    # Parallel training puts a wrapper around the network.
    named = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if any(name.startswith("backbone.") for name in named):
        start = "backbone."
        named = {n.removeprefix(start): t for n, t in named.items() if n.startswith(start)}
    target = network.backbone
    if isinstance(target, Pooled):
        named = {name.removeprefix("body."): tensor for name, tensor in named.items()}
        target = target.body
    last = {name.rpartition(".")[2]: named.pop(name, None) for name in head}
    if len({name.rpartition(".")[0] for name in head}) > 1:
        # Layers in between, or a second classifier: the last layer alone has other logits.
        last = {}
    # Before loading, as torch's own message lists every tensor at once.
    _check_shapes(target, named, where)
    try:
        apart = target.load_state_dict(named, strict=False)
    except RuntimeError as error:
        raise ArtifactError(where, f"does not fit: {str(error).splitlines()[-1].strip()}") from None
    for name in apart.missing_keys:
        raise ArtifactError(where, f"lacks {name} of the backbone")
    for name in apart.unexpected_keys:
        raise ArtifactError(where, f"has {name}, which the backbone has not")
    return len(named), _put_in_classifier(network, last)


def _check_shapes(
    target: torch.nn.Module, named: Mapping[str, torch.Tensor], where: object
) -> None:
    own = target.state_dict()
    for name, tensor in named.items():
        if name in own and own[name].shape != tensor.shape:
            rule = f"{name} must be of shape {list(own[name].shape)}, got {list(tensor.shape)}"
            raise ArtifactError(where, rule)
        # Weights stored as bytes or counts would be other numbers than those that were trained.
        if name in own and tensor.is_floating_point() != own[name].is_floating_point():
            rule = f"{name} must be of type {_shown(own[name].dtype)}, got {_shown(tensor.dtype)}"
            raise ArtifactError(where, rule)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(where, f"{name} must be finite, got NaN or infinity")
        if fault := fault_by_ending(name, tensor):
            raise ArtifactError(where, f"{name} must {fault}")


def _shown(dtype: torch.dtype) -> str:
    """Return the name of a type of numbers."""
    return str(dtype).removeprefix("torch.")


def _put_in_classifier(network: Network, last: Mapping[str, torch.Tensor | None]) -> int:
    """Load a linear layer where it fits, with a bias of 0 if it has none; return the tensors."""
    classifier, weight, bias = network.classifier, last.get("weight"), last.get("bias")
    if weight is None or weight.shape != classifier.weight.shape or classifier.form != "linear":
        return 0
    with torch.no_grad():
        classifier.weight.copy_(weight)
        classifier.bias.zero_()
        if bias is not None:
            classifier.bias.copy_(bias)
    return 1 if bias is None else 2
