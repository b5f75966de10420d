"""Throughput of pretrain against the plain loop of paper code, in one run on the same images.

plain: a DataLoader with PIL transforms (pad, crop, flip, normalise), float32, NCHW.
ltcli: images as uint8 on the device, batched augmentation, channels-last, bf16 where there is.

Both train ResNet-32 on the same device with batches of 128 random images of CIFAR's size. Prints
images per second, their ratio, and augmentation's share of a step.

    python benchmarks/pretrain.py [--rounds 4] [--steps 12]
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import ratios
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ltcli.compute.device import resolve_device, resolve_precision
from ltcli.data.batches import Augmentation, Batch, ImageBatches
from ltcli.engine.steps import plain_step, weighted_mean
from ltcli.models import small_images
from ltcli.models.network import build_network, place

BATCH = 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Photos(Dataset):
    """Arrays turned into PIL images and transformed one by one, as torchvision's CIFAR does."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Keep images uint8 [N, H, W, 3] and labels int64 [N]."""
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        """Return N."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return an augmented image, float [3, H, W], and its label."""
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def plain_loop(
    images: np.ndarray, labels: np.ndarray, device: torch.device
) -> Callable[[int], None]:
    """Return a function that does so many steps of the plain loop."""
    network = build_network(small_images.backbone("resnet32"), 10, 0).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    # No workers: their CPU time would not be counted before they end.
    loader = DataLoader(Photos(images, labels), BATCH, shuffle=True)

    def forever() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    batches = forever()

    def run(steps: int) -> None:
        for _ in range(steps):
            x, y = (tensor.to(device) for tensor in next(batches))
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()

    return run


def our_loop(
    images: np.ndarray, labels: np.ndarray, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Return functions that do so many steps, and so many augmentations alone."""
    network = place(build_network(small_images.backbone("resnet32"), 10, 0), device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    batches = ImageBatches(torch.from_numpy(images), MEAN, STD, device, Augmentation(padding=4))
    inputs = batches.drawn
    on_device = torch.from_numpy(labels).to(device)
    step = plain_step(
        network,
        optimizer,
        lambda logits, labels, _batch: F.cross_entropy(logits, labels, reduction="none"),
        weighted_mean(0.0, "weighted-mean", torch.bincount(on_device, minlength=10)),
        inputs,
        on_device,
        dtype=dtype,
    )

    def numbered(count: int) -> Iterator[Batch]:
        rows = torch.randperm(len(images), device=device)
        for number in range(count):
            first = number * BATCH % (len(images) - BATCH)
            yield Batch(0, number, first, rows[first : first + BATCH])

    def run(steps: int) -> None:
        for batch in numbered(steps):
            step(batch)

    def augment(steps: int) -> None:
        for batch in numbered(steps):
            inputs(batch)

    return run, augment


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12_800, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 12_800)
    device = resolve_device("auto")
    dtype = resolve_precision("auto", device)
    plain = plain_loop(images, labels, device)
    ours, augment = our_loop(images, labels, device, dtype)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {device}, ltcli in {dtype}"
    )
    slow, fast, part = ratios.in_turns(
        args.rounds,
        partial(plain, args.steps),
        partial(ours, args.steps),
        partial(augment, args.steps),
        clock=ratios.wall_on_gpu if device.type == "cuda" else ratios.cpu_seconds,
    )
    speed = BATCH * args.steps / statistics.median(fast)
    ratios.check("step: plain / ltcli", slow, fast, least=1.3, note=f"{speed:,.0f} images/s")
    ratios.check("augmentation / step", part, fast, most=0.03)


if __name__ == "__main__":
    ratios.run(main)
