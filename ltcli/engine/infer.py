"""Inference: features, maps and logits of many images, in small batches that fit the cache."""

import warnings
from collections.abc import Callable

import torch
from torch import nn

from ltcli.data.batches import ImageBatches
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


def features_of(network: Network, images: ImageBatches, dtype: torch.dtype) -> torch.Tensor:
    """Return the features of unaugmented images, float32 [N, D] on the CPU."""
    maps_of = backbone_maps(network)
    return in_batches(
        lambda rows: maps_of(images.plain(rows)).float().mean((2, 3)),
        images.size,
        images.device,
        dtype,
    )


def in_batches(
    function: Callable[[slice], torch.Tensor], count: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Apply a function to consecutive rows without gradients and join what it returns on the CPU.

    Args:
        function: From a slice of rows to a tensor [b, ...].
        count: Number of rows.
        device: Where the function computes.
        dtype: Precision of the computation; results are returned as float32.
    """
    size = _BATCH.get(device.type, 1024)
    results = []
    with torch.inference_mode(), autocast(device, dtype):
        for start in range(0, max(count, 1), size):
            results.append(function(slice(start, min(start + size, count))).float().cpu())
    return torch.cat(results)
