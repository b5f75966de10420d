"""Random crop, flip and jitter of one decoded image, from the image's own random stream.

The numbers are those that torchvision's v2 transforms draw from the global stream with this seed.
Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, for the crop.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ltcli.data.batches import Augmentation

# Of width to height. As torchvision, of float32, for the same draws to the last bit.
_RATIOS = (3 / 4, 4 / 3)
_LEAST_LOG, _MOST_LOG = torch.tensor(_RATIOS).log().tolist()
_TRIES = 10


def augmented(
    pixels: torch.Tensor,
    seed: int,
    augmentation: Augmentation,
    size: Sequence[int],
    interpolation: str,
) -> torch.Tensor:
    """Return a random part of an image, uint8 [3, *size], in channels-last memory.

    Args:
        pixels: uint8 [H, W, 3], the whole image.
        seed: Seed of the image's stream.
        augmentation: Least area of the part, whether to flip it, and strength of its jitter.
        size: Height and width of the result.
        interpolation: bilinear or bicubic, both antialiased.
    """
    draws = torch.Generator().manual_seed(seed)
    height, width, _ = pixels.shape
    rows, columns = random_box(height, width, augmentation.least_area, draws)
    # As a batch of one, the bytes of a part count as channels last: interpolation takes and leaves
    # them as they lie. It would copy those of a single image before and after.
    part = pixels[rows, columns].unsqueeze(0).permute(0, 3, 1, 2)
    image = F.interpolate(part, tuple(size), mode=interpolation, antialias=True)[0]
    if augmentation.flip and torch.rand(1, generator=draws).item() < 0.5:
        image = image.flip(-1)
    return _jittered(image, augmentation.jitter, draws) if augmentation.jitter else image


def random_box(
    height: int, width: int, least_area: float, draws: torch.Generator
) -> tuple[slice, slice]:
    """Return rows and columns of a part that has at least this share, 0..1, of an image's area."""
    for _ in range(_TRIES):
        area = height * width * _uniform(least_area, 1.0, draws).item()
        ratio = _uniform(_LEAST_LOG, _MOST_LOG, draws).exp().item()
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top = int(torch.randint(height - rows + 1, (1,), generator=draws))
            left = int(torch.randint(width - columns + 1, (1,), generator=draws))
            return slice(top, top + rows), slice(left, left + columns)
    # The image is so narrow that hardly a part of it fits: the centre, as long as is allowed.
    rows, columns = min(height, round(width / _RATIOS[0])), min(width, round(height * _RATIOS[1]))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def _jittered(image: torch.Tensor, strength: float, draws: torch.Generator) -> torch.Tensor:
    """Return an image with other brightness, contrast and saturation, changed in random order."""
    from torchvision.transforms.v2 import functional as change

    # torchvision has hue for a fourth, which is never changed here.
    order = torch.randperm(4, generator=draws).tolist()
    least, most = max(0.0, 1 - strength), 1 + strength
    factors = [_uniform(least, most, draws).item() for _ in range(3)]
    changes = (change.adjust_brightness, change.adjust_contrast, change.adjust_saturation)
    for kind in order:
        if kind < len(changes):
            image = changes[kind](image, factors[kind])
    return image


def _uniform(least: float, most: float, draws: torch.Generator) -> torch.Tensor:
    return torch.empty(1).uniform_(least, most, generator=draws)
