"""Times of whole commands, each in one run against what it should come close to.

startup: `ltcli --help` and the like, against a Python that does nothing.
io: writing and reading an artifact of 1 GB, against copying the file and reading it.
bank: an epoch of fine-tuning on the feature bank of a ResNet-32, against the same with the images
run through the backbone; the best of three.

    python benchmarks/commands.py [--rounds 5] [--megabytes 1000]
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ltcli.artifacts.store import open_artifact, save

IMAGES = 12_800


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the median time of a call."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def python(*words: str) -> Callable[[], object]:
    """Return a function that runs a fresh interpreter."""
    return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True)


def ltcli(*words: str | Path) -> Callable[[], object]:
    """Return a function that runs a command line."""
    return python("-m", "ltcli", *map(str, words))


def startup(rounds: int) -> None:
    """Measure help texts."""
    nothing = seconds(python("-c", "pass"), rounds)
    print(f"startup: python -c pass {nothing:.3f} s")
    for words in (("--help",), ("finetune", "--help"), ("predict", "--help")):
        took = seconds(ltcli(*words), rounds)
        print(f"startup: ltcli {' '.join(words)} {took:.3f} s, {took - nothing:+.3f} s")


def io(folder: Path, megabytes: int, rounds: int) -> None:
    """Measure an artifact of one large tensor, and plain files of the same bytes."""
    path, copy = folder / "large.safetensors", folder / "copy"
    rows = megabytes * 1_000_000 // 4096
    tensors = {"state.x": torch.randn(rows, 1024)}
    identity = {"stage": "bench", "parameters": {}, "inputs": {}, "info": {"position": {}}}
    written = seconds(lambda: save(path, "checkpoint", tensors, **identity), rounds)
    copied = seconds(lambda: shutil.copyfile(path, copy), rounds)

    def load() -> None:
        with open_artifact(path) as artifact:
            artifact.load("state.*")

    read = seconds(load, rounds)
    plain = seconds(path.read_bytes, rounds)
    print(f"io: write {written:.2f} s, copy {copied:.2f} s: {copied / written:.2f} of its speed")
    print(f"io: load {read:.2f} s, read {plain:.2f} s: {plain / read:.2f} of its speed")


def bank(folder: Path) -> None:
    """Measure epochs of fine-tuning on a bank and on images, of CIFAR's size, by their own log."""
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for part, count in (("train", IMAGES), ("val", 10), ("test", 10)):
        pixels = torch.randint(256, (count, 32, 32, 3), generator=rng, dtype=torch.uint8)
        tensors[f"{part}.images"] = pixels
        tensors[f"{part}.labels"] = torch.arange(count) % 10
        tensors[f"{part}.index"] = torch.arange(count)
    info = {
        "class_names": [str(c) for c in range(10)],
        "class_counts": [IMAGES // 10] * 10,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "source": "folder",
        "store": "images",
        "image_size": [32, 32],
    }
    split = folder / "split.safetensors"
    save(split, "split", tensors, stage="split", parameters={}, inputs={}, info=info)
    for words in (("pretrain", "--epochs", "1"), ("dump-features",), ("covariances",)):
        ltcli(*words, "-q", "-d", folder)()
    ltcli("confusion", "-q", "-d", folder)()
    for method, options in (
        ("crt", ()),
        ("lws", ()),
        ("risda", ("--head", "top-k", "--head-at", "5")),
    ):
        took = []
        for data in ("features", "images"):
            out = folder / f"{method}-{data}.safetensors"
            words = ("--method", method, "--data", data, "--epochs", "3", "--out", out)
            ltcli("finetune", *words, *options, "-q", "-d", folder)()
            lines = out.with_suffix(".run.jsonl").read_text().splitlines()
            records = [json.loads(line) for line in lines]
            took.append(min(r["seconds"] for r in records if r["event"] == "epoch"))
        print(
            f"bank: {method} {took[0]:.3f} s an epoch, on images {took[1]:.2f} s, ratio"
            f" {took[1] / took[0]:.0f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1000)
    args = parser.parse_args()
    startup(args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        io(Path(folder), args.megabytes, min(3, args.rounds))
    with tempfile.TemporaryDirectory() as folder:
        bank(Path(folder))


if __name__ == "__main__":
    main()
