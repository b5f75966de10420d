"""Inference: features, feature maps and logits of many images, in batches that fit the cache."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress

import torch
from torch import nn

from ltcli.compute.device import autocast
from ltcli.compute.parallel import here
from ltcli.data.batches import Samples
from ltcli.models.network import Network
from ltcli.models.resnet import ResNet

# Larger batches are slower in every layout on a CPU. A GPU wants more, as far as its memory goes:
# 1,024 images of 64x64 pixels.
_LEAST, _MOST, _PIXELS = 128, 1024, 2**22
# Bytes of outputs that a GPU keeps until one copy moves them: each copy waits for all its work.
_KEPT = 2**28


def backbone_maps(network: Network) -> Callable[[torch.Tensor], torch.Tensor]:
    """Function from images [B, 3, H, W] to the last feature maps [B, D, Y, X], in eval mode.

    Batch-norms are folded into the convolutions before them, which changes nothing but rounding.
    """
    return _folded(_Maps(network.backbone))


def backbone_features(
    network: Network, *, folded: bool = True
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Function from images [B, 3, H, W] to features, float32 [B, D].

    Unless ``folded``, as for ``backbone_maps``, the backbone itself works, in its own mode.
    """
    backbone = network.backbone
    if isinstance(backbone, ResNet):
        maps_of = backbone_maps(network) if folded else backbone.maps
        # The mean over positions in float32: in bfloat16 it would keep three digits.
        return lambda images: maps_of(images).float().mean((2, 3))
    function = _folded(backbone) if folded else backbone
    return lambda images: function(images).float()


def _folded(module: nn.Module) -> nn.Module:
    """Copy in eval mode with batch-norms folded, or not folded if it cannot be traced."""
    # Some versions of torch warn about their own deprecated parts, on import and on tracing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.fx.experimental.optimization import fuse

        copied = copy.deepcopy(module).eval()
        # A network that cannot be traced is only slower without it.
        with suppress(RuntimeError, TypeError, ValueError):
            copied = fuse(copied, inplace=True)
    # The layout of the fastest convolutions, on CPUs as on GPUs.
    return copied.to(memory_format=torch.channels_last)


class _Maps(nn.Module):
    """Backbone without its pooling, as a module that can be traced."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.backbone.maps(images)  # type: ignore[operator]
        return maps


def features_of(network: Network, samples: Samples, dtype: torch.dtype) -> torch.Tensor:
    """Features of samples without augmentation, float32 [N, D] on the CPU."""
    world, size = here(), batch_size(samples)
    function = backbone_features(network)
    # Several processes take whole batches of one process, so that every number is the same.
    batches = samples.in_order(world.rows(samples.size, size), size)
    own = applied(function, batches, samples.device, dtype)
    return world.gathered(own, samples.size, size)


def batch_size(samples: Samples) -> int:
    """Number of samples in a batch of inference."""
    if samples.device.type == "cpu":
        return _LEAST
    # An empty batch tells the size of the images, wherever they are kept.
    none = next(samples.in_order(slice(0, 0), 1))
    return max(_LEAST, min(_MOST, _PIXELS // math.prod(none.shape[2:])))


def applied(
    function: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
    stored: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Outputs of a function of at least one batch, joined on the CPU in the dtype ``stored``.

    It computes without gradients, on the device and in the precision ``dtype``.
    """
    moved: list[torch.Tensor] = []
    waiting, size = list[torch.Tensor](), 0
    with torch.inference_mode(), autocast(device, dtype):
        for batch in batches:
            made = function(batch).float().to(stored)
            if device.type == "cpu":
                moved.append(made)
                continue
            waiting.append(made)
            size += made.nbytes
            if size > _KEPT:
                moved.append(torch.cat(waiting).cpu())
                waiting, size = [], 0
        if waiting:
            moved.append(torch.cat(waiting).cpu())
        return torch.cat(moved)
