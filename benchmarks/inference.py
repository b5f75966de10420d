"""Feature dump and augmentation against the plain way, each in one run on the same images.

dump: ResNet-32 over images of CIFAR's size, in eval mode: the same network in float32 and NCHW with
batches of 100, against channels-last, batch-norms folded, bf16 where there is.

augment: crop, flip and normalise: PIL transforms in a DataLoader with two workers, against batches
on the device.

Rounds alternate, so that a noisy machine slows both alike. Prints images per second and ratios.

    python benchmarks/inference.py [--rounds 5] [--images 6400]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from pretrain import BATCH, MEAN, STD, Photos
from torch.utils.data import DataLoader

from ltcli.compute.device import resolve_device, resolve_precision
from ltcli.data.batches import Augmentation, Batch, ImageBatches
from ltcli.engine.infer import features_of
from ltcli.models import small_images
from ltcli.models.network import build_network, place

PLAIN_BATCH = 100


def compare(
    name: str, plain: Callable[[], None], ours: Callable[[], None], images: int, rounds: int
) -> None:
    """Time two ways in turns and print their speeds."""
    took: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for times, function in zip(took, (plain, ours), strict=True):
            began = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            # The first round warms both up.
            if number:
                times.append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(*took, strict=True)]
    speeds = [images / statistics.median(times) for times in took]
    print(
        f"{name}: plain {speeds[0]:,.0f}, ltcli {speeds[1]:,.0f} images/s, ratio"
        f" {statistics.median(ratios):.2f} (rounds: {min(ratios):.2f} to {max(ratios):.2f})"
    )


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

    compare("dump", plain_dump, our_dump, args.images, args.rounds)

    labels = np.zeros(args.images, np.int64)
    loader = DataLoader(Photos(images, labels), BATCH, num_workers=2, persistent_workers=True)
    batches = ImageBatches(torch.from_numpy(images), MEAN, STD, device, Augmentation(padding=4))

    def plain_augment() -> None:
        for _ in loader:
            pass

    def our_augment() -> None:
        for first in range(0, args.images, BATCH):
            rows = torch.arange(first, min(first + BATCH, args.images), device=device)
            batches.drawn(Batch(0, first // BATCH, first, rows))

    compare("augment", plain_augment, our_augment, args.images, args.rounds)


if __name__ == "__main__":
    main()
