"""Epochs of fine-tuning on the feature bank of a ResNet-32, against epochs on the images.

Wall seconds by the log of each run, three epochs each, on random images of CIFAR's size.

    python benchmarks/bank.py
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ratios
import torch
from startup import ltcli

from ltcli.artifacts.store import save
from ltcli.data.source_table import MAX_PIXELS

IMAGES = 12_800


def random_split(path: Path, counts: Sequence[int], val: int, test: int) -> None:
    """Save a split of random images of CIFAR's size, with these numbers of images in its parts."""
    rng = torch.Generator().manual_seed(0)
    labels = {
        "train": torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
        "val": torch.arange(val) % len(counts),
        "test": torch.arange(test) % len(counts),
    }
    tensors = {}
    for part, known in labels.items():
        pixels = torch.randint(256, (len(known), 32, 32, 3), generator=rng, dtype=torch.uint8)
        tensors |= {f"{part}.images": pixels, f"{part}.labels": known}
        tensors[f"{part}.index"] = torch.arange(len(known))
    info = {
        "class_names": [str(c) for c in range(len(counts))],
        "class_counts": list(counts),
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "source": "folder",
        "store": "images",
        "image_size": [32, 32],
        "max_pixels": MAX_PIXELS,
        "source_counts": [IMAGES // 10 + 2] * 10,
        "groups": {},
    }
    save(path, "split", tensors, stage="split", parameters={}, inputs={}, info=info)


def bank(folder: Path) -> None:
    """Measure epochs of fine-tuning on a bank and on images, of CIFAR's size, by their own log."""
    random_split(folder / "split.safetensors", [IMAGES // 10] * 10, 10, 10)
    for words in (("pretrain", "--epochs", "1"), ("dump-features",), ("covariances",)):
        ltcli(*words, "-q", "-d", folder)()
    ltcli("confusion", "-q", "-d", folder)()
    for method, options in (
        ("crt", ()),
        ("lws", ()),
        ("risda", ("--head", "top-k", "--head-at", "5")),
    ):
        took = []
        for data in ("images", "features"):
            out = folder / f"{method}-{data}.safetensors"
            words = ("--method", method, "--data", data, "--epochs", "3", "--out", out)
            ltcli("finetune", *words, *options, "-q", "-d", folder)()
            lines = out.with_suffix(".run.jsonl").read_text().splitlines()
            records = [json.loads(line) for line in lines]
            took.append([r["seconds"] for r in records if r["event"] == "epoch"])
        note = f"{min(took[1]):.3f} s an epoch on the bank"
        ratios.check(f"{method}: epoch on images / on the bank", *took, least=20, note=note)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        bank(Path(folder))


if __name__ == "__main__":
    ratios.run(main)
