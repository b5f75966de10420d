"""What a run was made with, for the sidecar: versions, processor, memory."""

import os
import platform
import resource
import sys
from importlib import metadata
from typing import Any


def describe(device: str) -> dict[str, Any]:
    """Return versions and machine facts.

    Args:
        device: The device as the user named it.
    """
    import torch

    facts = {
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
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def peak_memory() -> dict[str, float]:
    """Return the peak memory of this process and of its GPU, in MB of 10^6 bytes."""
    import torch

    # Linux counts in 1,024 bytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"peak_memory_mb": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    if torch.cuda.is_available():
        peak["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return peak
