"""Several ways to do one thing, timed in turns, and their ratios against bounds.

Turns alternate, so that a noisy machine slows all alike. On a CPU the time is that of the CPU, in
this process and in those that it starts: with one thread it holds on a machine that others use too.
A benchmark whose ratio misses its bound ends with exit code 3, after the last line.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence

MISSED = 3
_missed: list[str] = []


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the processes that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def wall_on_gpu() -> float:
    """Return the time of the clock, once the GPU has done what it was given."""
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def in_turns(
    rounds: int, *works: Callable[[], object], clock: Callable[[], float] = cpu_seconds
) -> list[list[float]]:
    """Return the seconds of each work in each round; a round before the first warms all up."""
    took: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for times, work in zip(took, works, strict=True):
            began = clock()
            work()
            if number:
                times.append(clock() - began)
    return took


def check(
    name: str,
    over: Sequence[float],
    under: Sequence[float],
    *,
    least: float | None = None,
    most: float | None = None,
    note: str = "",
) -> None:
    """Print one figure divided by another, the median over the rounds, and what its bound is."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    middle = statistics.median(ratios)
    line = f"{name}: {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    if least is not None:
        line += f", at least {least:g}"
    if most is not None:
        line += f", at most {most:g}"
    if (least is not None and middle < least) or (most is not None and middle > most):
        _missed.append(name)
        line += ", MISSED"
    print(line + (f"; {note}" if note else ""), flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a benchmark, and end with code 3 where a ratio missed its bound."""
    main()
    sys.exit(MISSED if _missed else 0)
