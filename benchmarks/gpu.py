"""Figures of a machine with a GPU, part by part, each as a JSON file; see gpu.sh.

    python benchmarks/gpu.py PART OUT [--root DIR] [--tiny]
    python benchmarks/gpu.py join OUT

A part without a CUDA device measures nothing and says so. Seconds and speeds are those that the
stages log. ``--tiny`` tries the parts on a few small images, on a CPU too.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bank import random_split

from ltcli.artifacts.store import open_artifact
from ltcli.cli.main import run

# CIFAR-10-LT of imbalance factor 100.
COUNTS = (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
NO_CUDA = {"not_measured": "no CUDA device"}

Figures = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """Where the parts run.

    Attributes:
        work: Folder of the artifacts.
        root: Folder of CIFAR-10; None for random images of its size.
        tiny: Whether the parts are only tried, on a few images.
    """

    work: Path
    root: Path | None
    tiny: bool

    @property
    def cuda(self) -> bool:
        """Whether there is a CUDA device."""
        return torch.cuda.is_available()

    def of(self, full: int, tiny: int) -> str:
        """Return a number of epochs as a word of a command."""
        return str(tiny if self.tiny else full)

    def ltcli(self, *words: str) -> None:
        """Run a command on the device."""
        device = "cuda" if self.cuda else "cpu"
        code = run([*words, "--device", device, "-q", "-d", str(self.work)])
        if code:
            sys.exit(code)

    def measured(self, name: str, *words: str) -> list[Figures]:
        """Run a command anew, and return the records of its log."""
        out = self.work / f"{name}.safetensors"
        self.ltcli(*words, "--force", "--out", str(out))
        return [json.loads(line) for line in out.with_suffix(".run.jsonl").open()]

    def prepare(self, *stages: str) -> None:
        """Make a split, and what the measured stages read; what is there stays."""
        split = self.work / "split.safetensors"
        if self.root is not None:
            words = ("cifar10", "--imbalance-factor", "100", "--protocol", "holdout")
            run(["split", *words, "--root", str(self.root), "-q", "-d", str(self.work)])
        elif not split.exists():
            counts = [max(8, count // 100) for count in COUNTS] if self.tiny else COUNTS
            random_split(split, counts, 20 if self.tiny else 100, 20 if self.tiny else 10_000)
        network = ("--backbone", "resnet20") if self.tiny else ()
        more = {"pretrain": ("--epochs", "1", *network)}
        for stage in stages:
            self.ltcli(stage, *more.get(stage, ()))


def seconds(records: list[Figures]) -> float:
    """Return the seconds of a whole stage."""
    return float(records[-1]["seconds"])


def steps_per_second(records: list[Figures], batch_size: int) -> float:
    """Return the median over the epochs, without the first of several, which warms up."""
    speeds = [r["samples_per_second"] / batch_size for r in records if r["event"] == "epoch"]
    return round(statistics.median(speeds[1:] or speeds), 2)


def tests(_machine: Machine) -> Figures:
    """The tests with the marker gpu."""
    words = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests")
    done = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    last = (done.stdout.splitlines() or [""])[-1]
    counts = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", last)
    }
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {"exit_code": done.returncode, **counts, "failures": failed}


def steps(machine: Machine) -> Figures:
    """Steps per second, eager and as a CUDA graph, on images and on a bank."""
    machine.prepare("pretrain", "dump-features")
    of_images = ("pretrain", "--epochs", machine.of(4, 1), "--batch-size", "128")
    of_bank = ("finetune", "--method", "crt", "--epochs", machine.of(40, 2), "--batch-size", "128")
    if machine.tiny:
        of_images = (*of_images, "--backbone", "resnet20")
    found: Figures = {}
    for name, words in (("images", of_images), ("bank", of_bank)):
        eager = steps_per_second(machine.measured("eager", *words), 128)
        found[name] = {"eager": eager, "cuda_graph": NO_CUDA}
        if machine.cuda:
            recorded = steps_per_second(machine.measured("graph", *words, "--cuda-graph"), 128)
            found[name] |= {"cuda_graph": recorded, "ratio": round(recorded / eager, 2)}
    return found


def pretrain(machine: Machine) -> Figures:
    """One full run of CIFAR-10-LT: its target is 60 seconds."""
    machine.prepare()
    words = ("pretrain", "--epochs", machine.of(200, 1))
    if machine.tiny:
        words = (*words, "--backbone", "resnet20")
    records = machine.measured("full", *words, *(("--cuda-graph",) if machine.cuda else ()))
    model = machine.work / "full.safetensors"
    machine.ltcli("evaluate", "--model", str(model))
    with open_artifact(machine.work / "evaluate-full.safetensors") as found:
        right = found.tensor("logits").argmax(1) == found.tensor("labels")
    return {
        "epochs": sum(record["event"] == "epoch" for record in records),
        "seconds": seconds(records),
        "target_seconds": 60,
        "cuda_graph": machine.cuda,
        "accuracy": round(float(right.double().mean()), 4),
    }


def features(machine: Machine) -> Figures:
    """Seconds of the features of all images."""
    machine.prepare("pretrain")
    return {"seconds": seconds(machine.measured("bank", "dump-features"))}


def metasaug(machine: Machine) -> Figures:
    """The exact MetaSAug step against the plain step, of 100 images each."""
    machine.prepare("pretrain")
    common = ("--data", "images", "--train", "all", "--batch-size", "100")
    common = (*common, "--epochs", machine.of(3, 1))
    found = {
        name: steps_per_second(machine.measured(name, "finetune", "--method", name, *common), 100)
        for name in ("metasaug", "class-balanced")
    }
    ratio = round(found["class-balanced"] / found["metasaug"], 2)
    return {"steps_per_second": found, "metasaug_over_plain_seconds": ratio}


def bank(machine: Machine) -> Figures:
    """Seconds of RISDA and STG on a feature bank, and of what they read."""
    machine.prepare("pretrain", "dump-features")
    epochs = ("--epochs", machine.of(10, 1))
    few = ("--head", "top-k", "--head-at", "5")
    stages = {
        "covariances": ("covariances",),
        "confusion": ("confusion",),
        "stg-train": ("stg-train", "--epochs", machine.of(50, 1), *few),
        "risda": ("finetune", "--method", "risda", *epochs, *few),
        "stg": ("finetune", "--method", "stg", *epochs),
    }
    return {name: seconds(machine.measured(name, *words)) for name, words in stages.items()}


PARTS: dict[str, Callable[[Machine], Figures]] = {
    "tests": tests,
    "steps": steps,
    "pretrain": pretrain,
    "features": features,
    "metasaug": metasaug,
    "bank": bank,
}


def join(out: Path) -> Figures:
    """Return all parts as one document, with the machine; a part without a file was cut off."""
    cut_off = {"not_measured": "failed, or not done within its time limit"}
    files = {name: out / f"{name}.json" for name in PARTS}
    parts = {
        name: json.loads(f.read_text()) if f.exists() else cut_off for name, f in files.items()
    }
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"gpu": name, **versions, "parts": parts}


def main() -> None:
    """Measure one part, or join them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "join"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--root", type=Path, help="folder of CIFAR-10; random images without it")
    parser.add_argument("--tiny", action="store_true", help="try the parts on a few images")
    args = parser.parse_args()
    if args.part == "join":
        found = join(args.out)
    else:
        machine = Machine(args.out / "work", args.root, args.tiny)
        found = NO_CUDA
        if machine.cuda or (args.tiny and args.part != "tests"):
            data = "random images" if args.root is None else "CIFAR-10-LT"
            found = {"data": data, "tiny": args.tiny, **PARTS[args.part](machine)}
    text = json.dumps(found, indent=2)
    (args.out / f"{'results' if args.part == 'join' else args.part}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
