"""CPU time of loading and saving an artifact of one large tensor, against plain files of its bytes.

load: against reading the whole file, which the page cache holds. SHA-256 alone takes as long as
that. The memory of large tensors is in huge pages, which take far less time to get than small ones,
where the kernel has them: /sys/kernel/mm/transparent_hugepage/enabled says `madvise` or `always`.
With `always`, the plain reading has them too, and the ratio is lower. In a virtual machine that
gives free memory back to its host, getting them back may take three times as long as the load.
save: against copying the file and bringing the copy to the disk, as saving does too. The copy
stays inside the kernel. SHA-256 alone takes almost twice as long.
Needs 2 GB in the temporary folder, and of memory.

    python benchmarks/artifacts.py [--rounds 9] [--megabytes 512] [--folder DIR]
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import ratios
import torch

from ltcli.artifacts.store import open_artifact, save


def measure(folder: Path, megabytes: int, rounds: int) -> None:
    """Measure an artifact of one float tensor, and print the ratios."""
    path, saved, copied = (folder / name for name in ("a.safetensors", "b.safetensors", "copy"))
    tensors = {"state.x": torch.randn(megabytes * 2**20 // 4096, 1024)}

    def store(out: Path) -> None:
        info = {"position": {}}
        save(out, "checkpoint", tensors, stage="bench", parameters={}, inputs={}, info=info)

    def load() -> None:
        with open_artifact(path) as artifact:
            artifact.load("state.*")

    def copy() -> None:
        shutil.copyfile(path, copied)
        with copied.open("r+b") as file:
            os.fsync(file.fileno())

    store(path)
    for name, ours, plain, least in (
        ("read / load", load, path.read_bytes, 0.55),
        ("copy / save", lambda: store(saved), copy, 0.45),
    ):
        for clock in (ratios.cpu_seconds, time.perf_counter):
            mine, other = ratios.in_turns(rounds, ours, plain, clock=clock)
            note = f"{statistics.median(other):.2f} and {statistics.median(mine):.2f} s"
            if clock is ratios.cpu_seconds:
                ratios.check(name, other, mine, least=least, note=note)
            else:
                ratios.check(f"{name}, by the clock", other, mine, note=note)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--folder", help="where to write for the time of the run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        measure(Path(folder), args.megabytes, args.rounds)


if __name__ == "__main__":
    ratios.run(main)
