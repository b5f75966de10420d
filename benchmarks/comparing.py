"""CPU time and peak memory of `ltcli compare`, in one run.

Against the plain way: files loaded whole, one expression for each score, resamples in a loop. Peaks
are those of twice as many models against those of the first half. With the folder of a checkout of
an older commit, also compares both on the same logits; its bound holds for the size in the example.
Files are random logits behind the header of a small model: 1 GB in a temporary folder, or 4 GB.

    python benchmarks/comparing.py [--rounds 3] [--images 25000] [--classes 500]
    python benchmarks/comparing.py --images 50000 --classes 1000 --old FOLDER
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import ratios
from startup import HERE

MODELS = 10
PEAK = 900  # MB
PEAK_OF = """
import atexit, resource, runpy
atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
runpy.run_module("ltcli", run_name="__main__")
"""
PLAIN = 0.8
OLD, ISSUED = 0.35, (50_000, 1000)


def make(pattern: str, images: int, classes: int) -> None:
    """Write predictions of random models beside those of a real one, by the ltcli on the path."""
    import torch

    from ltcli.artifacts.store import open_artifact, save

    with open_artifact(Path(pattern)) as artifact:
        header = artifact.header
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (images,), generator=rng)
    info = dict(header.info, class_names=[str(c) for c in range(classes)])
    info["class_counts"] = [max(5, 1280 - 2 * c) for c in range(classes)]
    for number in range(MODELS):
        logits = torch.randn(images, classes, generator=rng)
        logits[torch.arange(images), labels] += 2 + 0.1 * number
        split, (stage, options) = header.info["recipe"]
        info["recipe"] = [split, [stage, {**options, "lr": 0.1 + number}]]
        path = Path(pattern).with_name(f"m{number}.safetensors")
        content = {"logits": logits, "labels": labels}
        own = {**info, "model": f"{number:064x}"}
        save(path, "predictions", content, stage="evaluate", parameters={}, inputs={}, info=own)


def plain(files: list[str]) -> None:
    """Print the accuracies after the work that the table needs, written without care."""
    import numpy as np
    from safetensors.torch import load_file

    models = [load_file(file) for file in files]
    labels = models[0]["labels"]
    found, right = [], []
    for model in models:
        logits = model["logits"]
        assert logits.isfinite().all()
        correct = logits.argmax(1) == labels
        log_p = logits.double().log_softmax(1)
        likelihood = -log_p.gather(1, labels[:, None]).mean()
        bins = (log_p.exp().amax(1) * 15).long()
        calibration = [(bins == b).double().mean() for b in range(16)]
        by_class = [correct[labels == c].double().mean() for c in range(logits.shape[1])]
        right.append(correct.double().numpy())
        found.append((float(correct.double().mean()), likelihood, calibration, by_class))
    values, rng = np.stack(right), np.random.default_rng(0)
    means = [values[:, rng.integers(len(labels), size=len(labels))].mean(1) for _ in range(2000)]
    np.quantile(means, [0.025, 0.975], axis=0)
    print(json.dumps([accuracy for accuracy, *_ in found]))


def python(checkout: Path, *words: str | Path) -> str:
    """Return what Python prints with the source of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    line = [sys.executable, *map(str, words)]
    # In the checkout: with -m, the current folder comes before PYTHONPATH.
    return subprocess.run(
        line, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout
    ).stdout


def peak(*words: str | Path) -> float:
    """Return the peak memory of a command line in MB, before torch is unloaded at the exit."""
    return int(python(HERE, "-c", PEAK_OF, *words).splitlines()[-1]) * 1024 / 1e6


def prepare(folder: Path, checkout: Path, images: int, classes: int) -> list[Path]:
    """Return the files of the models, made by a checkout."""
    for words in (
        ("split", "digits", "--imbalance-factor", "20"),
        ("pretrain", "--backbone", "resnet20", "--epochs", "1"),
        ("evaluate", "--model", folder / "pretrain.safetensors"),
    ):
        python(checkout, "-m", "ltcli", *words, "-q", "-d", folder)
    (pattern,) = folder.glob("evaluate*.safetensors")
    python(checkout, __file__, "make", pattern, str(images), str(classes))
    return [pattern.with_name(f"m{number}.safetensors") for number in range(MODELS)]


def measure(folder: Path, rounds: int, size: tuple[int, int], old: Path | None) -> None:
    """Print time and peaks of the comparison of files that are written to a folder."""
    files = prepare(folder / "new", HERE, *size)
    compare = ("-m", "ltcli", "compare", "--json")
    printed: dict[str, str] = {}

    def work(name: str, checkout: Path, *words: str | Path) -> Callable[[], None]:
        return lambda: printed.update({name: python(checkout, *words)})

    works = [work("ltcli", HERE, *compare, *files)]
    works.append(work("plain", HERE, __file__, "plain", *files))
    if old:
        others = prepare(folder / "old", old, *size)
        works.append(work("old", old, *compare, *others))
    ours, theirs, *before = ratios.in_turns(rounds, *works)
    found = [row["accuracy"] for row in json.loads(printed["ltcli"])["rows"]]
    assert found == json.loads(printed["plain"])
    note = f"{statistics.median(ours):.1f} s for {MODELS} models"
    ratios.check("compare / the plain way", ours, theirs, most=PLAIN, note=note)
    for times in before:
        assert printed["ltcli"] == printed["old"]
        most = OLD if size == ISSUED else None
        ratios.check("compare / that of the old checkout", ours, times, most=most)
    for score in ("accuracy", "balanced"):
        counts = (MODELS // 2, MODELS)
        half, whole = (peak("compare", "--score", score, *files[:count]) for count in counts)
        name = f"peak by {score}"
        ratios.check(f"{name}: {MODELS} models / {MODELS // 2}", [whole], [half], most=1.1)
        ratios.check(f"{name}: {MODELS} models / {PEAK} MB", [whole], [PEAK], most=1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--classes", type=int, default=500)
    parser.add_argument("--old", type=Path, help="checkout of an older commit")
    args = parser.parse_args()
    old = args.old.resolve() if args.old else None
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args.rounds, (args.images, args.classes), old)


if __name__ == "__main__":
    # The parts that need torch run in processes of their own, whose memory is theirs alone.
    if sys.argv[1:2] == ["make"]:
        make(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["plain"]:
        plain(sys.argv[2:])
    else:
        ratios.run(main)
