"""Inference: features, maps and logits of many images, in small batches that fit the cache."""

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
# 1024 images of 64x64 pixels.
_LEAST, _MOST, _PIXELS = 128, 1024, 2**22


def backbone_maps(network: Network) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from images [B, 3, H, W] to the last feature maps [B, D, Y, X].

    It is that of the backbone in eval mode up to rounding, with batch-norms folded into the
    convolutions before them.
    """
    return _folded(_Maps(network.backbone))


def backbone_features(
    network: Network, *, folded: bool = True
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from images [B, 3, H, W] to features, float32 [B, D].

    The mean over the maps of our own backbones is taken in float32.

    Args:
        network: Whose backbone it is.
        folded: As for ``backbone_maps``; otherwise the backbone works as it is, in its own mode.
    """
    backbone = network.backbone
    if isinstance(backbone, ResNet):
        maps_of = backbone_maps(network) if folded else backbone.maps
        return lambda images: maps_of(images).float().mean((2, 3))
    function = _folded(backbone) if folded else backbone
    return lambda images: function(images).float()


def _folded(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode with batch-norms folded; as it is if it cannot be traced."""
    # Some versions of torch warn of their own deprecated parts, on import and on tracing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.fx.experimental.optimization import fuse

        copied = copy.deepcopy(module).eval()
        with suppress(RuntimeError, TypeError, ValueError):
            copied = fuse(copied, inplace=True)
    return copied.to(memory_format=torch.channels_last)


class _Maps(nn.Module):
    """The backbone without its pooling, as a module that can be traced."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.backbone.maps(images)  # type: ignore[operator]
        return maps


def features_of(network: Network, samples: Samples, dtype: torch.dtype) -> torch.Tensor:
    """Return the features of samples as they are, float32 [N, D] on the CPU.

    Several processes compute their shares of them, in the batches that one would have made.
    """
    world, size = here(), batch_size(samples)
    function = backbone_features(network)
    batches = samples.in_order(world.rows(samples.size, size), size)
    own = applied(function, batches, samples.device, dtype)
    return world.gathered(own, samples.size, size)


def batch_size(samples: Samples) -> int:
    """Return how many samples inference takes at once."""
    if samples.device.type == "cpu":
        return _LEAST
    none = next(samples.in_order(slice(0, 0), 1))
    return max(_LEAST, min(_MOST, _PIXELS // math.prod(none.shape[2:])))


def applied(
    function: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
    stored: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Apply a function to batches without gradients and join what it returns on the CPU.

    Args:
        function: From a batch to a tensor [b, ...].
        batches: At least one.
        device: Where the function computes.
        dtype: Precision of the computation.
        stored: Of the result.
    """
    with torch.inference_mode(), autocast(device, dtype):
        return torch.cat([function(batch).float().to(stored).cpu() for batch in batches])
