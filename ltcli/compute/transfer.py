"""Copies from the CPU to a device that do not wait for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy of a small CPU tensor on a device."""
    if device.type != "cuda":
        return tensor.to(device)
    # From pageable memory the copy would wait for all work queued on the device.
    return tensor.pin_memory().to(device, non_blocking=True)
