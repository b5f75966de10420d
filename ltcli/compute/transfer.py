"""Copies from the CPU to a device that do not wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small tensor from the CPU to the device without waiting for the device."""
    if device.type != "cuda":
        return tensor.to(device)
    # From ordinary memory the copy would wait for all work that the device still has to do.
    return tensor.pin_memory().to(device, non_blocking=True)
