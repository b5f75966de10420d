"""Images with a moved copy of their foreground pasted on top."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Ways to move a foreground: turn and scale, shift, flip.
KINDS = 3


def with_moved_foreground(images: Tensor, mask: Tensor, kinds: Tensor, draws: Tensor) -> Tensor:
    """Return images with a moved copy of their foreground on top of them.

    The foreground is turned by -45 to 45 degrees and scaled by 0.8 to 1.2 about the centre of the
    image, or shifted by up to a quarter of its sides, or flipped left to right.

    Source: Zhang, Wei, Zhou, Wu, "Bag of Tricks", AAAI 2021; how far to shift is a choice.

    Args:
        images: float [B, 3, H, W].
        mask: bool [B, H, W], the foreground.
        kinds: int64 [B], 0..2, way to move it.
        draws: float [B, 2], 0..1, random numbers for angle and scale, or for the shift.
    """
    angle = (2 * draws[:, 0] - 1) * (math.pi / 4)
    scale = 0.8 + 0.4 * draws[:, 1]
    shift = (draws - 0.5).T
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    # From places in the result to places in the image, in units of half its sides.
    cos, sin = angle.cos() / scale, angle.sin() / scale
    turned = torch.stack([cos, sin, zero, -sin, cos, zero], dim=1)
    shifted = torch.stack([one, zero, shift[0], zero, one, shift[1]], dim=1)
    flipped = torch.stack([-one, zero, zero, zero, one, zero], dim=1)
    ways = torch.stack([turned, shifted, flipped], dim=1)
    chosen = ways[torch.arange(len(kinds), device=kinds.device), kinds].view(-1, 2, 3)
    grid = F.affine_grid(chosen, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    covered = mask.unsqueeze(1).to(images.dtype)
    place = F.grid_sample(covered, grid, mode="nearest", align_corners=False)
    return torch.where(place > 0, moved, images)
