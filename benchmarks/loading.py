"""Random crops of image files, against what decoding alone allows and against ImageFolder.

JPEG files of 500 x 375 pixels, about the size of ImageNet's, in the page cache; all in one process.
Crops are batches of bytes, as a worker makes them; normalised: as floats, as a network takes them.
ImageFolder: torchvision with v2 transforms to normalised floats, in a DataLoader. Decoding alone is
by Pillow. Prints ratios, all at least their bounds.

    python benchmarks/loading.py [--rounds 5] [--images 500]
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import ratios
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ltcli.data.batches import Augmentation, Batch
from ltcli.data.decode import open_image
from ltcli.data.files import FileBatches, ImageFiles
from ltcli.models import small_images

SIDE, BATCH = 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), args.images)
        sizes = [path.stat().st_size for path in paths]
        transform = v2.Compose(
            [
                v2.RandomResizedCrop(SIDE),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )
        plain = DataLoader(ImageFolder(folder, transform), BATCH, shuffle=True)
        names = [str(path.relative_to(folder)) for path in paths]
        backbone = small_images.backbone("resnet18", image_size=(SIDE, SIDE), in_files=True)
        files = ImageFiles(Path(folder), names, sizes, backbone, Augmentation())
        batches = FileBatches(files, MEAN, STD, torch.device("cpu"), workers=0)
        parts = torch.split(torch.arange(args.images), BATCH)

        def decoded() -> None:
            for path in paths:
                open_image(path.read_bytes())

        def by_folder() -> None:
            for _ in plain:
                pass

        def crops() -> None:
            for rows in parts:
                files.images([(row, row) for row in rows.tolist()])

        def normalised() -> None:
            for number, rows in enumerate(parts):
                batches.drawn(Batch(0, number, number * BATCH, rows))

        alone, folders, cropped, ours = ratios.in_turns(
            args.rounds, decoded, by_folder, crops, normalised
        )
        speed = args.images / statistics.median(ours)
        note = f"{speed:,.0f} images/s of {statistics.mean(sizes) / 1e3:.0f} kB"
        ratios.check("files: decoding alone / crops", alone, cropped, least=0.8)
        ratios.check("files: decoding alone / normalised", alone, ours, least=0.65)
        ratios.check("files: ImageFolder / normalised", folders, ours, least=1.7, note=note)


if __name__ == "__main__":
    ratios.run(main)
