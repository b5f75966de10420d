"""Images that stay in their files: decoded and augmented by workers, ahead of their use.

An image depends on its file, the seed, the epoch and the position in the epoch's order alone, so it
is the same for any number of workers.
"""

import logging
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from ltcli.artifacts.backbone import Backbone
from ltcli.compute.parallel import World
from ltcli.compute.seeds import derive
from ltcli.core.errors import DataError, ResourceError
from ltcli.data.batches import AUGMENT, Augmentation, Batch, Normalisation
from ltcli.data.decode import open_pixels, preparation
from ltcli.data.formats import BadImageError
from ltcli.data.image_files import read_file
from ltcli.data.random_crops import augmented
from ltcli.data.source_table import MAX_PIXELS

logger = logging.getLogger(__name__)

_REPAIR = "repair it, or leave it out with split --verify --on-bad-image skip"
_DIED = "if memory ran out, lower --workers; the same command again goes on"
_SHARED = "give a container more (docker run --shm-size 2g), or decode in one process: --workers 0"
# Seconds that one batch may take, on the slowest disk.
_LONGEST = 300.0
# Seconds between two lines about a long pass.
_REPORT = 10.0

Item = tuple[int, int | None]
"""A row and the seed of its augmentation, None for the image as it is."""


@dataclass(frozen=True)
class BadFile:
    """A file that gave no image: its path, and why, as half a sentence."""

    path: Path
    reason: str


class ImageFiles(Dataset[torch.Tensor | BadFile]):
    """The files of one part of a split.

    Args:
        root: Folder that the paths start from.
        paths: Path of each image.
        sizes: Bytes of each file when the split was made.
        backbone: Size and preparation of the images.
        augmentation: Random crop, jitter and flip of the items that have a seed.
        max_pixels: Larger images are bad.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        sizes: Sequence[int],
        backbone: Backbone,
        augmentation: Augmentation,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Keep the list; nothing is opened yet."""
        self._root, self._paths, self._sizes = root, paths, sizes
        self._image_size = backbone.image_size
        self._prepare, self._max_pixels = preparation(backbone, max_pixels), max_pixels
        self._augmentation, self.seed = augmentation, augmentation.seed
        # Networks for small images have always had torchvision's own choice here.
        boxed = backbone.crop_mode == "box"
        self._interpolation = "bilinear" if boxed else backbone.interpolation

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._paths)

    def none(self) -> torch.Tensor:
        """Return no images, uint8 [0, 3, H, W]."""
        return torch.empty(0, 3, *self._image_size, dtype=torch.uint8)

    def images(self, items: Iterable[Item]) -> torch.Tensor:
        """Return some images, uint8 [B, 3, H, W], or raise DataError for a bad file."""
        return _whole(_joined([self[item] for item in items], self.none()))

    def __getitem__(self, item: Item) -> torch.Tensor | BadFile:
        """Return an image, uint8 [3, H, W], or the fault of its file."""
        row, seed = item
        path = self._root / self._paths[row]
        try:
            content = read_file(path)
            # Other bytes than at the time of the split are another data set.
            if len(content) != self._sizes[row]:
                rule = f"must have {self._sizes[row]} bytes as in the split, got {len(content)}"
                return BadFile(path, rule)
            if seed is None:
                return self._prepare(content)
            pixels = open_pixels(content, self._max_pixels)
        except BadImageError as error:
            return BadFile(path, str(error))
        return augmented(pixels, seed, self._augmentation, self._image_size, self._interpolation)


class FileBatches:
    """Images in files, normalised on a device; see ``Samples``.

    Args:
        files: Files of the images.
        mean: Mean of each colour, 0..1.
        std: Standard deviation of each colour, 0..1.
        device: Device of the batches.
        workers: Processes that decode; 0 for this one.
        world: Processes that draw together: each decodes its rows of a batch, and gets all of it;
            None for this process alone.
    """

    def __init__(
        self,
        files: ImageFiles,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        workers: int,
        world: World | None = None,
    ) -> None:
        """Start nothing yet."""
        self.size, self.device = len(files), device
        self._files, self._workers, self._world = files, workers, world or World()
        self._normalise = Normalisation(mean, std, device)
        self._order: Callable[[int], torch.Tensor] | None = None
        self._batch_size = 0
        self._epoch, self._planned = -1, torch.empty(0, dtype=torch.int64)
        self._at, self._images = -1, torch.empty(0)
        self._coming: Generator[torch.Tensor, None, None] | None = None

    def in_order(self, rows: slice, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield consecutive images as they are, float [B, 3, H, W], and log how far it is."""
        wanted = torch.arange(self.size)[rows]
        if not len(wanted):
            yield self._normalise(self._files.none())
            return
        began = said = time.monotonic()
        done = 0
        parts = torch.split(wanted, batch_size)
        for images in self._load([(row, None) for row in part.tolist()] for part in parts):
            yield self._normalise(images)
            done += len(images)
            now = time.monotonic()
            if now - said > _REPORT:
                said, speed = now, done / (now - began)
                logger.info("%d of %d images, %.0f images/s", done, len(wanted), speed)

    def read_ahead(self, order: Callable[[int], torch.Tensor], batch_size: int) -> None:
        """Announce the batches of each epoch, which workers then make before they are drawn."""
        import torchvision.transforms.v2  # noqa: F401  - else each worker takes seconds for it

        self._order, self._batch_size, self._epoch = order, batch_size, -1

    def drawn(self, batch: Batch) -> torch.Tensor:
        """Return augmented images, normalised, float [B, 3, H, W]; see ``Samples``."""
        first, count = batch.first, len(batch.rows)
        # Only batches of the order are read ahead, and they alone have this stream.
        if self._order is None or batch.stream != AUGMENT:
            rows = batch.rows.cpu() if batch.host is None else batch.host
            items = self._items(rows, batch.epoch, first, batch.stream)
            return self._all(self._files.images(items), count)
        self._plan(batch.epoch)
        if self._at != first:
            if self._coming is None or self._at + self._batch_size != first:
                self._coming = self._from(first)
            self._at, self._images = first, next(self._coming)
            # Workers left to the garbage collector take five seconds to end. Nobody draws a single
            # row at the end.
            if len(self._planned) - first - self._batch_size <= 1:
                self._coming.close()
                self._coming = None
        return self._all(self._images, count)

    def _all(self, own: torch.Tensor, count: int) -> torch.Tensor:
        """Return a batch, normalised, of which this process has its own rows."""
        return self._normalise(self._world.gathered(own.to(self.device, non_blocking=True), count))

    def _items(self, rows: torch.Tensor, epoch: int, first: int, stream: str) -> list[Item]:
        """Return the rows of a batch that this process reads, each with its seed."""
        own = self._world.rows(len(rows))
        return [
            (row, derive(stream, self._files.seed, epoch, position))
            for position, row in enumerate(rows[own].tolist(), first + own.start)
        ]

    def _plan(self, epoch: int) -> None:
        """Take over the order of an epoch."""
        if epoch != self._epoch and self._order is not None:
            self._epoch, self._planned, self._at = epoch, self._order(epoch), -self._batch_size - 1

    def _from(self, first: int) -> Generator[torch.Tensor, None, None]:
        """Return the images of the batches from a position of the epoch on."""
        if self._coming is not None:
            self._coming.close()
        size = self._batch_size
        return self._load(
            self._items(self._planned[start : start + size], self._epoch, start, AUGMENT)
            for start in range(first, len(self._planned), size)
        )

    def _load(self, batches: Iterable[list[Item]]) -> Generator[torch.Tensor, None, None]:
        """Yield the images of each batch, uint8 [B, 3, H, W]."""
        loader = DataLoader(
            self._files,
            batch_sampler=batches,
            num_workers=self._workers,
            collate_fn=partial(_joined, none=self._files.none(), shared=self._workers > 0),
            timeout=_LONGEST if self._workers else 0,
            # Pinned memory lets the copy to the device overlap with computing.
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_signals,
            # Without one of its own, a loader draws from the global generator.
            generator=torch.Generator(),
        )
        try:
            yield from map(_whole, loader)
        except RuntimeError as error:
            fault = _fault_of_worker(" ".join(str(error).split()))
            if fault is None:
                raise
            # Its frames would keep the loader, and with it the other workers, to the very end.
            error.__traceback__ = None
            raise fault from None


def _fault_of_worker(text: str) -> ResourceError | None:
    """Return what the loader's error says of a process that decodes images, or None."""
    if "shared memory" in text or "Bus error" in text:
        rule = "shared memory is full: processes that decode images pass them on through it"
        return ResourceError("/dev/shm", rule, _SHARED)
    if "DataLoader timed out" in text:
        rule = f"a process that decodes images took over {_LONGEST:.0f} s for a batch"
        return ResourceError("loading", rule, _DIED)
    if "DataLoader worker" in text:
        return ResourceError("loading", f"a process that decodes images died: {text}", _DIED)
    return None


def _joined(
    images: Sequence[torch.Tensor | BadFile], none: torch.Tensor, *, shared: bool = False
) -> torch.Tensor | BadFile:
    """Return images as one tensor, uint8 [B, 3, H, W], or the first bad file among them.

    In ``shared`` memory if a worker returns them: left to the loader, a lack of it would leave the
    worker alive and its parent waiting.
    """
    good = []
    for image in images:
        # Returned, as an error with more than a text does not survive the way from a worker.
        if isinstance(image, BadFile):
            return image
        good.append(image)
    if not good:
        return none
    # Channels last, as the decoder makes them and the network wants them in memory.
    joined = torch.stack([image.permute(1, 2, 0) for image in good]).permute(0, 3, 1, 2)
    if shared:
        joined.share_memory_()  # type: ignore[no-untyped-call]
    return joined


def _whole(images: torch.Tensor | BadFile) -> torch.Tensor:
    """Return images, or raise DataError for a bad file among them."""
    if isinstance(images, BadFile):
        raise DataError(images.path, images.reason, _REPAIR)
    return images


def _leave_signals(_worker: int) -> None:
    """Let the parent alone answer to an interrupt from the keyboard: it saves its state first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
