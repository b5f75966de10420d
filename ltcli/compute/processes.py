"""Processes that share a run, from the environment that ``torchrun`` sets."""

import os


def processes() -> tuple[int, int]:
    """Rank of this process, from 0, and number of processes."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def local_processes() -> int:
    """Number of processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
