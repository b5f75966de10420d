"""CPU time of the running update of moments, and of one pass over a large bank, in one run.

update: a batch of 64 into the running moments of 100 classes of 512 features, against the released
estimator's way: [B, C, D] tensors masked by label, and all [C, D, D] updated whether or not a class
is in the batch. Both end in the same moments.

pass: class moments of a bank as large as ImageNet-LT, 115,846 x 2048, labels in random order, read
from an artifact class by class, against one product x'x per class of the same features, sorted, in
memory. ``factor`` is the whole estimate; of ``full`` each matrix is dropped when it is made, as all
would take 16.8 GB. The product is given in float64, in which moments are summed, and in float32.
Peaks are of memory beyond what was there before. Writes 1 GB to a temporary folder; needs Linux.

    OMP_NUM_THREADS=2 python benchmarks/moments.py [--rounds 20] [--samples 115846] [--folder DIR]
"""

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import ratios
import torch
from isda import IMAGENET_LT, long_tail
from torch import Tensor

from ltcli.artifacts.store import Artifact, open_artifact, save
from ltcli.models import embeddings
from ltcli.stats.covariance_forms import estimate
from ltcli.stats.moments import class_moments
from ltcli.stats.running_moments import start, update

B, C, D = 64, 100, 512
# Most times the products in float64 that a pass may take.
BOUNDS = {"factor": 1.5, "full": 1.5, "diagonal": 0.5}
Moments = tuple[Tensor, Tensor, Tensor]


def released(state: Moments, features: Tensor, labels: Tensor) -> Moments:
    """Return counts [C], means [C, D] and covariances [C, D, D] after a batch, all at once."""
    counts, means, covariances = state
    mask = torch.nn.functional.one_hot(labels, C).to(features.dtype).unsqueeze(2)
    mask = mask.expand(B, C, D)
    rows = features.unsqueeze(1).expand(B, C, D) * mask
    amount = mask.sum(0)
    average = rows.sum(0) / amount.clamp(min=1)
    apart = rows - average.expand(B, C, D) * mask
    spread = torch.bmm(apart.permute(1, 2, 0), apart.permute(1, 0, 2))
    spread = spread / amount.clamp(min=1).unsqueeze(2)
    share = amount[:, 0] / (amount[:, 0] + counts).clamp(min=1)
    shift = means - average
    between = torch.bmm(shift.unsqueeze(2), shift.unsqueeze(1))
    wide, narrow = share.view(C, 1, 1), share.view(C, 1)
    covariances = covariances * (1 - wide) + spread * wide + between * wide * (1 - wide)
    return counts + amount[:, 0], means * (1 - narrow) + average * narrow, covariances


def updates(rounds: int) -> None:
    """Measure the running update."""
    torch.manual_seed(0)
    # The first half is there to come to the state of a long run.
    batches = [(torch.randn(B, D), torch.randint(C, (B,))) for _ in range(2 * rounds)]
    ours = start(C, D)
    theirs: Moments = (torch.zeros(C), torch.zeros(C, D), torch.zeros(C, D, D))
    seconds: list[list[float]] = [[], []]
    for batch in batches:
        before = ratios.cpu_seconds()
        ours = update(ours, *batch)
        between = ratios.cpu_seconds()
        theirs = released(theirs, *batch)
        seconds[0].append(between - before)
        seconds[1].append(ratios.cpu_seconds() - between)
    torch.testing.assert_close(ours.stacked(), theirs[2], rtol=1e-4, atol=1e-4)
    mine, other = (times[rounds:] for times in seconds)
    note = f"{statistics.median(mine) * 1e3:.2f} ms"
    ratios.check("update: released / ltcli", other, mine, least=15, note=note)


def bank(path: Path, samples: int) -> None:
    """Write a bank of random features whose labels are shuffled."""
    most, least, classes, _ = IMAGENET_LT
    counts = long_tail(most, least, classes, samples)
    labels = torch.arange(classes).repeat_interleave(counts)
    labels = labels[torch.randperm(len(labels))]
    few = {"features": torch.zeros(0, 2048), "labels": torch.zeros(0, dtype=torch.int64)}
    parts = {"train": {"features": torch.randn(len(labels), 2048), "labels": labels}}
    parts |= {"val": few, "test": few}
    tensors = {f"{part}.{k}": v for part, those in parts.items() for k, v in those.items()}
    names = [str(c) for c in range(classes)]
    info = {"class_names": names, "class_counts": counts.tolist()}
    info |= {"split": "", "model": "", "backbone": dataclasses.asdict(embeddings.backbone(2048))}
    for part in ("val", "test"):
        tensors[f"{part}.logits"] = torch.zeros(0, classes)
    save(path, "features", tensors, stage="made", parameters={}, inputs={}, info=info)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return CPU seconds and the megabytes by which the peak of memory rose."""
    Path("/proc/self/clear_refs").write_text("5")
    before, began = _peak(), ratios.cpu_seconds()
    work()
    return ratios.cpu_seconds() - began, _peak() - before


def _peak() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmHWM"))
    return float(line.split()[1]) * 1024 / 1e6


def passes(artifact: Artifact) -> None:
    """Measure the pass over a bank, then the products alone."""
    labels, classes = artifact.tensor("train.labels"), len(artifact.header.info["class_names"])
    rows = artifact.rows("train.features")

    def full() -> None:
        for _ in class_moments(rows, labels, classes, "full"):
            pass

    ours = {
        "factor": timed(lambda: estimate(rows, labels, classes, "factor", ddof=1)),
        "full": timed(full),
        "diagonal": timed(lambda: estimate(rows, labels, classes, "diagonal", ddof=1)),
    }
    features = artifact.tensor("train.features")[labels.argsort()]
    sizes = artifact.header.info["class_counts"]
    products = {}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):

        def product(dtype: torch.dtype = dtype) -> None:
            for part in features.split(sizes):
                own = part.to(dtype)
                torch.mm(own.T, own)

        products[name] = timed(product)[0]
    for form, (seconds, megabytes) in ours.items():
        for name, of in products.items():
            note = f"{seconds:.1f} s, {megabytes:.0f} MB"
            most = BOUNDS[form] if name == "float64" else None
            ratios.check(
                f"pass, {form} / products in {name}", [seconds], [of], most=most, note=note
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--samples", type=int, default=IMAGENET_LT[3], help="0: no pass")
    parser.add_argument("--folder", help="where to write the bank for the time of the run")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    updates(args.rounds)
    if not args.samples:
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "bank.safetensors"
        bank(path, args.samples)
        with open_artifact(path) as artifact:
            passes(artifact)


if __name__ == "__main__":
    ratios.run(main)
