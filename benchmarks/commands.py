"""Times of whole commands, each in one run against what it should come close to.

startup: `ltcli --help` and the like, against a Python that does nothing.
io: writing and reading an artifact of 1 GB, against copying the file and reading it.
bank: fine-tuning on the feature bank, against the same with the images run through the backbone,
on the digits: both are commands, so starting Python is in both, and is taken off.

    python benchmarks/commands.py [--rounds 5] [--megabytes 1000]
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ltcli.artifacts.store import open_artifact, save

HEAVY = ("--epochs", "10", "--batch-size", "64")


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
    for words in (("--help",), ("finetune", "--help"), ("methods",)):
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


def bank(folder: Path, rounds: int) -> None:
    """Measure fine-tuning on a bank and on images, without the start of the programs."""
    common = ("-q", "-d", folder)
    for words in (
        ("split", "digits", "--imbalance-factor", "10", "--val-per-class", "10"),
        ("pretrain", "--epochs", "1"),
        ("dump-features",),
    ):
        ltcli(*words, *common)()
    start = seconds(python("-c", "import torch, ltcli.stages.finetune, ltcli.engine.fit"), rounds)
    for method in ("crt", "lws"):
        run: Sequence[str | Path] = ("finetune", "--method", method, *HEAVY, "--force", *common)
        on_bank = seconds(ltcli(*run), rounds) - start
        on_images = seconds(ltcli(*run, "--data", "images"), rounds) - start
        ratio = on_images / on_bank
        print(f"bank: {method} {on_bank:.2f} s, on images {on_images:.2f} s, ratio {ratio:.0f}")


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
        bank(Path(folder), min(3, args.rounds))


if __name__ == "__main__":
    main()
