"""Environment of a run for the sidecar: versions, processor, memory."""

import os
import platform
import resource
import sys
from importlib import metadata
from typing import Any

from ltcli.core.errors import ParamError
from ltcli.core.text import clipped


def describe(device: str) -> dict[str, Any]:
    """Versions, machine and command of this process, and the device as the user named it."""
    import torch

    described = {
        "device": device,
        "host": platform.node(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {
            name: metadata.version(name) for name in ("torch", "torchvision", "timm", "safetensors")
        },
        "command": sys.argv[1:],
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def processes() -> tuple[int, int]:
    """Rank of this process, from 0, and number of processes; or a ParamError."""
    size = _given("WORLD_SIZE", 1, 1)
    return _given("RANK", 0, 0, size - 1), size


def local_processes() -> int:
    """Number of processes of this run on this machine."""
    return _given("LOCAL_WORLD_SIZE", 1, 1)


def _given(name: str, default: int, least: int, most: int = 2**31) -> int:
    """Number that torchrun gives by a variable of the environment."""
    text = os.environ.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most):
        limit = f"of at least {least}" if most == 2**31 else f"in {least} ... {most}"
        rule = f"{name} must be a whole number {limit}"
        hint = "torchrun sets it: remove it from the environment for a single process"
        raise ParamError("environment", f"{rule}, got {clipped(text)}", hint)
    return int(text)


def usable_cores() -> int:
    """Number of cores that this process may use."""
    # Containers and schedulers pin processes to fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    # On Linux platform.processor() is empty or only the architecture.
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def peak_memory() -> dict[str, float]:
    """Peak memory of this process and of its GPU, in MB of 10^6 bytes."""
    import torch

    # ru_maxrss has units of 1,024 bytes on Linux and of bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"peak_memory_mb": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    if torch.cuda.is_available():
        peak["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return peak
