"""CPU time of whole commands that do little, against `python -c "import torch"`.

Commands run on the digits of the quick start, after one epoch of pre-training. With the folder of a
checkout of an older commit, also runs the quick start of both, in turns.

    python benchmarks/startup.py [--rounds 3] [--old FOLDER]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ratios

HERE = Path(__file__).resolve().parents[1]


def command(*words: str | Path, of: Path = HERE) -> Callable[[], object]:
    """Return a function that runs a program with the source of a checkout."""
    # With bytecode, as an installed program has it.
    environment = {**os.environ, "PYTHONPATH": str(of), "PYTHONDONTWRITEBYTECODE": ""}
    # In the checkout: with -m, the current folder comes before PYTHONPATH.
    return lambda: subprocess.run(
        list(map(str, words)), check=True, capture_output=True, env=environment, cwd=of
    )


def ltcli(*words: str | Path) -> Callable[[], object]:
    """Return a function that runs a command line."""
    return command(sys.executable, "-m", "ltcli", *words)


def starts(folder: Path, rounds: int) -> None:
    """Measure stages that train nothing or little, and the help."""
    ltcli("split", "digits", "--imbalance-factor", "20", "-d", folder)()
    ltcli("pretrain", "--backbone", "resnet20", "--epochs", "1", "-d", folder)()
    ltcli("dump-features", "-d", folder)()
    ltcli("covariances", "-d", folder)()
    model = folder / "pretrain.safetensors"
    stages = {
        ("finetune", "--method", "ncm"): 1.35,
        ("confusion",): 1.35,
        ("evaluate", "--model", model): 1.35,
        ("covariances",): 1.35,
        ("finetune", "--method", "crt"): 1.6,
    }
    works = [ltcli(*words, "--force", "-d", folder) for words in stages]
    torch, *took = ratios.in_turns(
        rounds, command(sys.executable, "-c", "import torch"), *works, ltcli("--help")
    )
    print(f"import torch: {min(torch):.2f} s")
    for (words, most), times in zip(stages.items(), took, strict=False):
        name = " ".join(word for word in words if isinstance(word, str))
        ratios.check(f"{name} / import torch", times, torch, most=most)
    ratios.check("--help / import torch", took[-1], torch, most=0.1)


def quick_start(folder: Path, old: Path) -> None:
    """Measure the recipe of a new user, here and in an older checkout."""

    def anew(checkout: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            command("bash", checkout / "recipes/quickstart.sh", out, of=checkout)()

    ours, theirs = ratios.in_turns(2, partial(anew, HERE), partial(anew, old))
    ratios.check("quick start / that of the old checkout", ours, theirs, most=0.4)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--old", type=Path, help="checkout of an older commit")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        starts(Path(folder), args.rounds)
        if args.old:
            quick_start(Path(folder), args.old.resolve())


if __name__ == "__main__":
    ratios.run(main)
