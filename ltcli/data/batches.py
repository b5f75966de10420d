"""Batches of small images that live on the device as uint8 and are augmented there.

The random crop is a gather from a strided view of the padded images, so that one indexing
operation does what PIL does image by image.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ltcli.artifacts.store import Artifact
from ltcli.core.seeds import derive


class ImageBatches:
    """Images of one part of a split, ready to be drawn.

    Args:
        images: uint8 [N, H, W, 3].
        mean: Per channel, in 0..1.
        std: Per channel, in 0..1.
        device: Where the images stay and the batches are made.
        padding: Pixels added on each side for the random crop.
        pad_mode: constant (zeros, which are black) or reflect.
        flip: Whether to flip at random.
    """

    def __init__(
        self,
        images: torch.Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        *,
        padding: int = 4,
        pad_mode: str = "constant",
        flip: bool = True,
    ) -> None:
        """Pad once and move to the device."""
        self.size = len(images)
        self.device = device
        self._flip = flip
        height, width = images.shape[1:3]
        self._padding = min(padding, height - 1, width - 1) if pad_mode == "reflect" else padding
        planes = images.to(device).permute(0, 3, 1, 2)
        # uint8 has no reflect kernel; bytes up to 255 are exact in float32.
        padded = F.pad(planes.float(), (self._padding,) * 4, mode=pad_mode).to(torch.uint8)
        padded = padded.permute(0, 2, 3, 1).contiguous()
        self._windows = padded.unfold(1, height, 1).unfold(2, width, 1)
        self._mean = 255 * torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._scale = 1 / (255 * torch.tensor(std, device=device).view(1, 3, 1, 1))

    @classmethod
    def of_split(
        cls,
        split: Artifact,
        part: str,
        device: torch.device,
        *,
        padding: int,
        pad_mode: str = "constant",
        flip: bool = True,
    ) -> "ImageBatches":
        """Return the images of one part (train, val, test) of a split artifact."""
        info = split.header.info
        images = split.tensor(f"{part}.images")
        return cls(
            images, info["mean"], info["std"], device, padding=padding, pad_mode=pad_mode, flip=flip
        )

    def plain(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """Return images as they are, normalised, float [B, 3, H, W] in channels-last memory."""
        return self._normalise(self._windows[rows, self._padding, self._padding])

    def augmented(self, rows: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Return randomly cropped and flipped images, normalised.

        Args:
            rows: int64 [B] on the device, positions of the images.
            draws: int64 [B, 3] on the device, from ``augmentation_draws``.
        """
        span = 2 * self._padding + 1
        images = self._windows[rows, draws[:, 0] % span, draws[:, 1] % span]
        if self._flip:
            flipped = (draws[:, 2] % 2).bool().view(-1, 1, 1, 1)
            images = torch.where(flipped, images.flip(-1), images)
        return self._normalise(images)

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        images = images.contiguous(memory_format=torch.channels_last).float()
        return images.sub_(self._mean).mul_(self._scale)


def augmentation_draws(count: int, *, seed: int, epoch: int) -> torch.Tensor:
    """Return the random numbers of one epoch's crops and flips.

    They depend on seed, epoch and the position in the epoch's order alone, never on a worker, a
    batch size or a device.

    Returns:
        int64 [count, 3], vertical offset, horizontal offset and flip, to be taken modulo their
        ranges.
    """
    generator = torch.Generator().manual_seed(derive("augment", seed, epoch))
    return torch.randint(2**31, (count, 3), generator=generator)
