"""Inference: features, maps and logits of many images, in small batches that fit the cache."""

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import nn

from ltcli.data.batches import Samples
from ltcli.engine.device import autocast
from ltcli.models.network import Network
from ltcli.models.resnet import ResNet

# Larger batches are slower in every layout on a CPU; a GPU wants more.
_BATCH = {"cpu": 128}


def backbone_maps(network: Network) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from images [B, 3, H, W] to the last feature maps [B, D, Y, X].

    It is that of the backbone in eval mode up to rounding, with batch-norms folded into the
    convolutions before them.
    """
    # Some versions of torch warn of their own deprecated parts, on import and on tracing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.fx.experimental.optimization import fuse

        fused: nn.Module = fuse(_Maps(network.backbone).eval())
    return fused.to(memory_format=torch.channels_last)


class _Maps(nn.Module):
    """The backbone without its pooling, as a module that can be traced."""

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone.maps(images)


def features_of(network: Network, samples: Samples, dtype: torch.dtype) -> torch.Tensor:
    """Return the features of samples as they are, float32 [N, D] on the CPU."""
    maps_of = backbone_maps(network)
    batches = samples.in_order(batch_size(samples.device))
    return applied(lambda x: maps_of(x).float().mean((2, 3)), batches, samples.device, dtype)


def batch_size(device: torch.device) -> int:
    """Return how many samples inference takes at once."""
    return _BATCH.get(device.type, 1024)


def applied(
    function: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Apply a function to batches without gradients and join what it returns on the CPU.

    Args:
        function: From a batch to a tensor [b, ...].
        batches: At least one.
        device: Where the function computes.
        dtype: Precision of the computation; results are returned as float32.
    """
    with torch.inference_mode(), autocast(device, dtype):
        return torch.cat([function(batch).float().cpu() for batch in batches])
