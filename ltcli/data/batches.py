"""Batches of network inputs, drawn from memory: small images, or embeddings.

Small images live on the device as uint8 and are augmented there. The random crop is a gather from a
strided view of the padded images, so that one indexing operation crops a whole batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F

from ltcli.compute.seeds import derive
from ltcli.compute.transfer import to_device

_BLOCK = 4096  # images that get their border at once
AUGMENT = "augment"
"""Random stream of the training batches; other batches of a run have streams of their own."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Attributes:
        padding: Pixels added on each side for the random crop of images in memory.
        pad_mode: constant (zeros, which are black) or reflect.
        flip: Whether to flip at random.
        least_area: Least part of an image that a random crop covers, 0..1, for images in files,
            which are cropped and resized.
        jitter: Strength of random brightness, contrast and saturation, for images in files.
        seed: Seed of all random streams.
    """

    padding: int = 0
    pad_mode: str = "constant"
    flip: bool = True
    least_area: float = 0.08
    jitter: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """The samples of a step.

    Attributes:
        step: Number within the epoch. Both count from 0.
        first: Position of the first row in the epoch's order.
        rows: int64 [B] on the device, positions in the training set.
        stream: Name of the random stream that augments them. A second batch of the same step has
            a stream of its own.
        host: The rows on the CPU, for a stream that no reading ahead serves.
        draws: int64 [B, 3] on the device, random numbers of the augmentation; None for those of
            stream, epoch and position.
    """

    epoch: int
    step: int
    first: int
    rows: torch.Tensor
    stream: str = AUGMENT
    host: torch.Tensor | None = None
    draws: torch.Tensor | None = None


class Samples(Protocol):
    """One part of a split, ready to be drawn on a device: ``size`` images or embeddings."""

    size: int
    device: torch.device

    def in_order(self, rows: slice, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield consecutive samples as they are, float [B, ...]; one empty batch of none."""

    def read_ahead(self, order: Callable[[int], torch.Tensor], batch_size: int) -> None:
        """Announce the batches of each epoch, for samples that take time to read.

        Args:
            order: Epoch to the rows that it draws, int64 on the CPU.
            batch_size: Rows of each batch but the last.
        """

    def drawn(self, batch: Batch) -> torch.Tensor:
        """Return the augmented samples of a batch, float [B, ...], on the device."""


class Normalisation:
    """Pixels to network inputs, made on a device.

    Args:
        mean: Mean of each colour, 0..1.
        std: Standard deviation of each colour, 0..1.
        device: Device of the inputs.
        size: Height and width of the inputs; None for those of the images.
        interpolation: bilinear or bicubic, for images of another size.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        size: Sequence[int] | None = None,
        interpolation: str = "bicubic",
    ) -> None:
        """Put the numbers on the device."""
        self._device, self._size, self._interpolation = device, size, interpolation
        self._mean = 255 * torch.tensor(mean, device=device)
        self._scale = 1 / (255 * torch.tensor(std, device=device))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return float [B, 3, H, W] in channels-last memory, of uint8 [B, 3, H, W]."""
        # The copy of pinned memory runs while the GPU computes; bytes take a quarter of floats on
        # the way.
        images = images.to(self._device, non_blocking=True)
        images = images.contiguous(memory_format=torch.channels_last).float()
        if self._size is not None:
            images = resized(images, self._size, self._interpolation)
        # A row at once: a CPU takes eight numbers at a time, and a pixel has three.
        rows, width = images.permute(0, 2, 3, 1).flatten(2), images.shape[3]
        # In place, as the float copy is ours; a product is faster than a quotient.
        rows.sub_(self._mean.repeat(width)).mul_(self._scale.repeat(width))
        return rows.view(*rows.shape[:2], width, 3).permute(0, 3, 1, 2)


def resized(images: torch.Tensor, size: Sequence[int], interpolation: str) -> torch.Tensor:
    """Return images float [B, 3, H, W], 0..255, resized with the antialias and rounding of PIL."""
    if images.shape[2:] == tuple(size):
        return images
    # Interpolation refuses an empty batch.
    if not len(images):
        return images.new_empty(0, 3, *size)
    # PIL goes along rows first and rounds to bytes before it goes along columns; a bicubic filter
    # overshoots at edges.
    for one in ((images.shape[2], size[1]), tuple(size)):
        images = F.interpolate(images, one, mode=interpolation, antialias=True)
        images = images.round_().clamp_(0, 255)
    return images


def _bordered(images: torch.Tensor, padding: int, mode: str) -> torch.Tensor:
    """Return images with a border on all sides, uint8 [N, H + 2 padding, W + 2 padding, 3]."""
    if padding == 0:
        return images.contiguous()
    size, height, width, colours = images.shape
    bordered = images.new_empty(size, height + 2 * padding, width + 2 * padding, colours)
    for some, place in zip(torch.split(images, _BLOCK), torch.split(bordered, _BLOCK), strict=True):
        # uint8 has no reflect kernel; bytes up to 255 are exact in float32.
        planes = some.permute(0, 3, 1, 2).float()
        place.copy_(F.pad(planes, (padding,) * 4, mode=mode).permute(0, 2, 3, 1))
    return bordered


class ImageBatches:
    """Images uint8 [N, H, W, 3] that stay on a device and are augmented there as they are drawn.

    See ``Normalisation`` for mean, std, size and interpolation.
    """

    def __init__(
        self,
        images: torch.Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        augmentation: Augmentation = Augmentation(),
        size: Sequence[int] | None = None,
        interpolation: str = "bicubic",
    ) -> None:
        """Pad once and move to the device."""
        self.size, self.device = len(images), device
        self._flip, self._seed = augmentation.flip, augmentation.seed
        padding, pad_mode = augmentation.padding, augmentation.pad_mode
        height, width = images.shape[1:3]
        # A reflected border must be narrower than the image.
        self._padding = min(padding, height - 1, width - 1) if pad_mode == "reflect" else padding
        padded = _bordered(images.to(device), self._padding, pad_mode)
        # A view: all crops of all images share the memory of the padded ones.
        self._windows = padded.unfold(1, height, 1).unfold(2, width, 1)
        self._normalise = Normalisation(mean, std, device, size, interpolation)
        # Stream to an epoch and the random numbers of its augmentation.
        self._draws: dict[str, tuple[int, torch.Tensor]] = {}

    def in_order(self, rows: slice, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield images as they are; see ``Samples``."""
        # At least one batch, since its shape tells the feature dimension of a part without images.
        for start in range(rows.start, max(rows.stop, rows.start + 1), batch_size):
            yield self.plain(slice(start, min(start + batch_size, rows.stop)))

    def read_ahead(self, order: Callable[[int], torch.Tensor], batch_size: int) -> None:
        """Do nothing: the images are in memory."""

    def drawn(self, batch: Batch) -> torch.Tensor:
        """Return augmented images; see ``Samples``."""
        draws = self.draws(batch) if batch.draws is None else batch.draws
        return self.augmented(batch.rows, draws)

    def draws(self, batch: Batch) -> torch.Tensor:
        """Return the random numbers of a batch's augmentation, int64 [B, 3], on the device."""
        last = batch.first + len(batch.rows)
        known, draws = self._draws.get(batch.stream, (-1, batch.rows))
        if known != batch.epoch or len(draws) < last:
            # Longer tables begin like shorter ones, so that an epoch may turn out longer.
            count = max(2 * last, self.size)
            made = augmentation_draws(
                count, seed=self._seed, epoch=batch.epoch, stream=batch.stream
            )
            draws = to_device(made, self.device)
            self._draws[batch.stream] = batch.epoch, draws
        return draws[batch.first : last]

    def plain(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """Return images as they are, normalised, float [B, 3, H, W] in channels-last memory."""
        return self._normalise(self._windows[rows, self._padding, self._padding])

    def augmented(self, rows: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Return randomly cropped and flipped images, normalised, float [B, 3, H, W].

        ``rows`` is int64 [B], and ``draws`` int64 [B, 3] from ``augmentation_draws``.
        """
        span = 2 * self._padding + 1
        images = self._windows[rows, draws[:, 0] % span, draws[:, 1] % span]
        if self._flip:
            flipped = (draws[:, 2] % 2).bool().view(-1, 1, 1, 1)
            images = torch.where(flipped, images.flip(-1), images)
        return self._normalise(images)


class FeatureBatches:
    """Embeddings float [N, D] that stay on a device; they are not augmented."""

    def __init__(self, features: torch.Tensor, device: torch.device) -> None:
        """Move them to the device."""
        self.size, self.device = len(features), device
        self._features = features.to(device)

    def in_order(self, rows: slice, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield embeddings, float [B, D]; see ``Samples``."""
        yield from torch.split(self._features[rows], batch_size)

    def read_ahead(self, order: Callable[[int], torch.Tensor], batch_size: int) -> None:
        """Do nothing: the embeddings are in memory."""

    def drawn(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings, float [B, D]; see ``Samples``."""
        return self._features[batch.rows]


def augmentation_draws(count: int, *, seed: int, epoch: int, stream: str = AUGMENT) -> torch.Tensor:
    """Return vertical offset, horizontal offset and flip of one epoch's images, int64 [count, 3].

    They are to be taken modulo their ranges, and depend on stream, seed, epoch and the position in
    the epoch's order alone, never on a worker, a batch size or a device.
    """
    generator = torch.Generator().manual_seed(derive(stream, seed, epoch))
    return torch.randint(2**31, (count, 3), generator=generator)
