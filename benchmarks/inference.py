"""Feature dump and augmentation against the plain way, each in one run on the same images.

dump: ResNet-32 over images of CIFAR's size, in eval mode: the same network in float32 and NCHW with
batches of 100, against channels-last, batch-norms folded, bf16 where there is.

augment: crop, flip and normalise: PIL transforms in a DataLoader, against batches on the device.

Prints images per second and their ratios.

    python benchmarks/inference.py [--rounds 5] [--images 6400]
"""

import argparse
import statistics

import numpy as np
import ratios
import torch
from pretrain import BATCH, MEAN, STD, Photos
from torch.utils.data import DataLoader

from ltcli.compute.device import resolve_device, resolve_precision
from ltcli.data.batches import Augmentation, Batch, ImageBatches
from ltcli.engine.infer import features_of
from ltcli.models import small_images
from ltcli.models.network import build_network, place

PLAIN_BATCH = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=6400)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.images, 32, 32, 3), dtype=np.uint8)
    device = resolve_device("auto")
    dtype = resolve_precision("auto", device)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}, {dtype}")

    network = build_network(small_images.backbone("resnet32"), 10, 0).eval()
    on_device = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(device)

    def plain_dump() -> None:
        backbone = network.backbone.to(device).to(memory_format=torch.contiguous_format)
        with torch.no_grad():
            for batch in on_device.split(PLAIN_BATCH):
                backbone(batch).cpu()

    def our_dump() -> None:
        batches = ImageBatches(torch.from_numpy(images), MEAN, STD, device)
        features_of(place(network, device), batches, dtype)

    clock = ratios.wall_on_gpu if device.type == "cuda" else ratios.cpu_seconds
    plain, ours = ratios.in_turns(args.rounds, plain_dump, our_dump, clock=clock)
    speed = args.images / statistics.median(ours)
    ratios.check("dump: plain / ltcli", plain, ours, least=1.5, note=f"{speed:,.0f} images/s")

    labels = np.zeros(args.images, np.int64)
    loader = DataLoader(Photos(images, labels), BATCH)
    batches = ImageBatches(torch.from_numpy(images), MEAN, STD, device, Augmentation(padding=4))

    def plain_augment() -> None:
        for _ in loader:
            pass

    def our_augment() -> None:
        for first in range(0, args.images, BATCH):
            rows = torch.arange(first, min(first + BATCH, args.images), device=device)
            batches.drawn(Batch(0, first // BATCH, first, rows))

    plain, ours = ratios.in_turns(args.rounds, plain_augment, our_augment, clock=clock)
    speed = args.images / statistics.median(ours)
    ratios.check("augment: plain / ltcli", plain, ours, least=8, note=f"{speed:,.0f} images/s")


if __name__ == "__main__":
    ratios.run(main)
