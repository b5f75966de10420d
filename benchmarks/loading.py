"""Random crops of image files, against what decoding alone allows and against a plain DataLoader.

JPEG files of 500 x 375 pixels, about the size of ImageNet's, in the page cache. Plain: torchvision
with ImageFolder and v2 transforms to float tensors in a DataLoader. All have as many processes.
Rounds alternate, so that a noisy machine slows all alike. Prints images per second and ratios.

    python benchmarks/loading.py [--rounds 3] [--images 2000] [--workers 2]
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import ratios
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ltcli.data.batches import Augmentation, Batch
from ltcli.data.decode import open_image
from ltcli.data.files import FileBatches, ImageFiles
from ltcli.data.samplers import instance_balanced
from ltcli.models import small_images

# The floats of larger batches leave the heap: each page of them would cost a fault, here and there.
SIDE, BATCH = 224, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Decoded(Dataset[int]):
    """Files that are decoded, and of which nothing is kept."""

    def __init__(self, paths: list[Path]) -> None:
        """Keep the list."""
        self._paths = paths

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._paths)

    def __getitem__(self, row: int) -> int:
        """Decode a file and return its width."""
        return open_image(self._paths[row].read_bytes()).width


def photographs(root: Path, count: int) -> list[Path]:
    """Write smooth random images, which compress as photographs do, and return their paths."""
    rng = np.random.default_rng(0)
    (root / "only").mkdir()
    paths = [root / "only" / f"{number}.jpg" for number in range(count)]
    for path in paths:
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 12, (375, 500, 3))
        noisy = (np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)
    return paths


def exhaust(loader: Iterable[object]) -> None:
    """Have all batches."""
    for _ in loader:
        pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), args.images)
        sizes = [path.stat().st_size for path in paths]
        alone = DataLoader(Decoded(paths), BATCH, num_workers=args.workers)
        transform = v2.Compose(
            [
                v2.RandomResizedCrop(SIDE),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )
        images = ImageFolder(folder, transform)
        plain = DataLoader(images, BATCH, shuffle=True, num_workers=args.workers)
        names = [str(path.relative_to(folder)) for path in paths]
        backbone = small_images.backbone("resnet18", image_size=(SIDE, SIDE), in_files=True)
        files = ImageFiles(Path(folder), names, sizes, backbone, Augmentation())
        ours = FileBatches(files, MEAN, STD, torch.device("cpu"), args.workers)
        ours.read_ahead(lambda epoch: instance_balanced(len(paths), seed=0, epoch=epoch), BATCH)

        epochs = itertools.count()

        def drawn() -> None:
            epoch = next(epochs)
            order = instance_balanced(len(paths), seed=0, epoch=epoch)
            for number, rows in enumerate(torch.split(order, BATCH)):
                ours.drawn(Batch(epoch, number, number * BATCH, rows))

        decoded, folders, took = ratios.in_turns(
            args.rounds, partial(exhaust, alone), partial(exhaust, plain), drawn
        )
        speed = args.images / statistics.median(took)
        note = f"{speed:,.0f} images/s of {statistics.mean(sizes) / 1e3:.0f} kB"
        ratios.check("files: decoding alone / ltcli", decoded, took, least=0.8, note=note)
        ratios.check("files: ImageFolder / ltcli", folders, took, least=1.7)


if __name__ == "__main__":
    ratios.run(main)
