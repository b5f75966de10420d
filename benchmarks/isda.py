"""Time and memory of the ISDA-type quadratic term against the released per-sample form.

naive: [B, C, D] differences times the [D, D] of each sample, and [B, C, C] of which the diagonal is
used, as in the released code; its diagonal form has [B, C, D] tensors and variances.
ltcli: one row for each class of the batch, from full matrices, factors or variances.

Each does a forward pass and a backward pass to the class vectors, for 64 samples of 64 classes
spread over a long tail of ImageNet-LT's size. Every measurement is in a process of its own; rounds
alternate, so that a noisy machine slows all alike. Prints wall and CPU seconds, the peak of memory
beyond the inputs, and the ratios to the naive form of the same covariances; CPU seconds of one
thread hold on a machine that others use too. Needs Linux, for the peak.

``--limits`` instead measures factors at the sizes of real data sets, with batches as an
instance-balanced sampler draws them, D = 2048: 1000 classes of 1280 down to 5 of 115,846 images
(ImageNet-LT), and 8142 classes of 1000 down to 2 of 437,513 (iNaturalist 2018).

    python benchmarks/isda.py [--rounds 3] [--dims 512,2048]
    OMP_NUM_THREADS=2 python benchmarks/isda.py --limits
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import ratios
import torch
from torch import Tensor

from ltcli.stats.quadratic import Covariances, Diagonal, Factor, Full, by_sample

B = 64
# Largest class, smallest class, classes, images.
IMAGENET_LT = (1280, 5, 1000, 115_846)
INATURALIST = (1000, 2, 8142, 437_513)
NAIVE = {"full": "naive full", "factor": "naive full", "diagonal": "naive diagonal"}
# Least times faster than the naive form, CPU seconds.
BOUNDS = {"full": 3, "factor": 10, "diagonal": 35}


def long_tail(most: int, least: int, classes: int, total: int) -> Tensor:
    """Return class counts, int64 [C], that fall from most to least and sum to about total."""
    places = torch.arange(classes, dtype=torch.float64) / (classes - 1)
    low, high = 0.01, 10.0
    for _ in range(60):
        bend = (low + high) / 2
        counts = most * (least / most) ** places.pow(bend)
        low, high = (low, bend) if counts.sum() > total else (bend, high)
    return counts.round().long()


def factors(counts: Tensor, dim: int, classes: list[int]) -> Factor:
    """Return random factors of min(n_c, D) rows for some classes, and none for the others."""
    sizes = torch.zeros_like(counts)
    sizes[classes] = counts[classes].clamp(max=dim)
    rows = torch.randn(int(sizes.sum()), dim)
    rows /= counts.double().sqrt().float().repeat_interleave(sizes).unsqueeze(1)
    return Factor(rows, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).tolist())


def naive_full(weight: Tensor, matrices: Tensor) -> Tensor:
    """Return float [B, C] for matrices float [B, D, D] of the samples."""
    differences = weight.expand(B, *weight.shape) - weight[_labels(len(weight))].unsqueeze(1)
    products = torch.bmm(torch.bmm(differences, matrices), differences.transpose(1, 2))
    return products.mul(torch.eye(len(weight))).sum(2)


def naive_diagonal(weight: Tensor, variances: Tensor) -> Tensor:
    """Return float [B, C] for variances float [B, D] of the samples."""
    differences = weight.expand(B, *weight.shape) - weight[_labels(len(weight))].unsqueeze(1)
    return differences.square().mul(variances.unsqueeze(1)).sum(2)


def _labels(classes: int) -> Tensor:
    return torch.arange(B) * classes // B


def cases(form: str, counts: Tensor, dim: int) -> Callable[[Tensor], Tensor]:
    """Return what is measured: from class vectors, float [C, D], to the term, float [B, C]."""
    labels = _labels(len(counts))
    factor = factors(counts, dim, labels.tolist())
    if form == "factor":
        return lambda weight: by_sample(weight, factor, labels)
    roots = [factor.factor(c) for c in labels.tolist()]
    if form.endswith("diagonal"):
        variances = torch.stack([root.square().sum(0) for root in roots])
        if form == "naive diagonal":
            return lambda weight: naive_diagonal(weight, variances)
        of_all = torch.zeros(len(counts), dim).index_copy(0, labels, variances)
        return lambda weight: by_sample(weight, Diagonal(of_all), labels)
    matrices = [root.T @ root for root in roots]
    if form == "naive full":
        # The released code copies the matrix of each sample in every step.
        return lambda weight: naive_full(weight, torch.stack(matrices))
    # Absent classes share a matrix, or those of 1000 classes would take 16.8 GB.
    known = [matrices[0]] * len(counts)
    for c, matrix in zip(labels.tolist(), matrices, strict=True):
        known[c] = matrix
    return lambda weight: by_sample(weight, Full(known), labels)


def limit(profile: tuple[int, int, int, int], dim: int) -> Callable[[Tensor], Tensor]:
    """Return the term with factors of all classes, for an instance-balanced batch."""
    counts = long_tail(*profile)
    factor: Covariances = factors(counts, dim, list(range(len(counts))))
    draws = torch.multinomial(counts.double(), B, True)
    return lambda weight: by_sample(weight, factor, draws)


def measure(
    form: str, profile: tuple[int, int, int, int], dim: int
) -> tuple[float, float, float, float]:
    """Return wall and CPU seconds, megabytes beyond the inputs, and the gradient's norm."""
    torch.manual_seed(0)
    term = limit(profile, dim) if form == "limit" else cases(form, long_tail(*profile), dim)
    weight = (torch.randn(profile[2], dim) / dim**0.5).requires_grad_()
    torch.ones(8, 8, requires_grad=True).sum().backward()  # starts what a first backward starts
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    began, worked = time.perf_counter(), time.process_time()
    torch.autograd.backward(term(weight).sum())
    took, worked = time.perf_counter() - began, time.process_time() - worked
    # The gradient depends on every entry of the term and of its derivative.
    assert weight.grad is not None
    return took, worked, _peak() - before, weight.grad.double().norm().item()


def _peak() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmHWM"))
    return float(line.split()[1]) * 1024 / 1e6


def apart(*args: object) -> tuple[float, float, float, float]:
    """Measure in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *args).result()


def table(dim: int, rounds: int) -> None:
    """Measure all forms at one feature dimension and print them."""
    forms = ("naive full", "full", "factor", "naive diagonal", "diagonal")
    runs = {form: [] for form in forms}
    for _ in range(rounds):
        for form in forms:
            runs[form].append(apart(form, IMAGENET_LT, dim))
    print(f"({B}, {IMAGENET_LT[2]}, {dim}), {torch.get_num_threads()} threads")
    for form in forms:
        wall, cpu, megabytes, check = zip(*runs[form], strict=True)
        cost = f"{statistics.median(wall):.4f} s, {max(megabytes):.0f} MB"
        if form not in NAIVE:
            print(f"{form}: {cost}", flush=True)
            continue
        _, naive, most, norm = zip(*runs[NAIVE[form]], strict=True)
        cost += f", {statistics.median(most) / max(megabytes):.1f} x smaller"
        cost += f", gradient off by {abs(check[0] / norm[0] - 1):.0e}"
        ratios.check(f"{NAIVE[form]} / {form}", naive, cpu, least=BOUNDS[form], note=cost)


def limits(rounds: int) -> None:
    """Measure factors at the sizes of two data sets and print them."""
    for name, profile in (("ImageNet-LT", IMAGENET_LT), ("iNaturalist 2018", INATURALIST)):
        runs = [apart("limit", profile, 2048) for _ in range(rounds)]
        seconds = statistics.median(run[0] for run in runs)
        cpu = statistics.median(run[1] for run in runs)
        megabytes = max(run[2] for run in runs)
        where = f"({B}, {profile[2]}, 2048) as {name}"
        threads = torch.get_num_threads()
        cost = f"{seconds:.2f} s, {cpu:.2f} s CPU, {megabytes:.0f} MB"
        print(f"{where}, {threads} threads: {cost}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dims", default="512,2048")
    parser.add_argument("--limits", action="store_true", help="factors at the sizes of data sets")
    args = parser.parse_args()
    print(f"torch {torch.__version__}")
    if args.limits:
        limits(args.rounds)
        return
    for dim in map(int, args.dims.split(",")):
        table(dim, args.rounds)


if __name__ == "__main__":
    ratios.run(main)
