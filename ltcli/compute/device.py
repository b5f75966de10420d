"""Which device and which precision a stage computes with."""

import os

import torch

from ltcli.compute.processes import local_processes, processes
from ltcli.compute.seeds import derive
from ltcli.core.errors import ResourceError


def resolve_device(name: str) -> torch.device:
    """Return the device that a user named, and make it the one that is meant where none is named.

    Args:
        name: ``auto`` (the first of cuda, mps, cpu that is there; of cuda and cpu for several
            processes), cpu, cuda, cuda:N or mps.

    Raises:
        ResourceError: The device is unknown or not there; there is no silent fallback.
    """
    size = local_processes()
    if size > 1 and (name == "mps" or name.startswith("cuda:")):
        rule = f"device must be auto, cuda or cpu for {size} processes on a machine, got {name}"
        raise ResourceError("--device", rule, "each has a GPU of its own")
    if name in ("auto", "cuda") and torch.cuda.is_available():
        # Each process that torchrun starts on a machine has a GPU of its own.
        local = os.environ.get("LOCAL_RANK")
        name = "cuda" if local is None else f"cuda:{local}"
    if name == "auto":
        alone = size == 1
        return torch.device("mps" if alone and torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    present = {
        "cpu": device.type == "cpu",
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device.type not in present:
        raise ResourceError(
            "--device", f"device must be auto, cpu, cuda, cuda:N or mps, got {name}"
        )
    if not present[device.type]:
        raise ResourceError("--device", f"device {name} is not available", "try --device auto")
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
        # Convolutions in float32 would have the ten bits of TF32.
        torch.backends.cudnn.allow_tf32 = False
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of convolutions and matrix products.

    Args:
        name: auto, fp32 or bf16; auto is bf16 where the device computes in it natively.
        device: Where the work is done.
    """
    if name != "auto":
        return torch.bfloat16 if name == "bf16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if fast else torch.float32


def seed_layers(device: torch.device, seed: int, epoch: int, step: int) -> None:
    """Seed what layers such as dropout draw from on a device, for one step of a run.

    Of several processes each draws other numbers, as each has other rows of the batch.
    ``torch.manual_seed`` would seed all kinds of devices, which takes as long as a small step.
    """
    rank = processes()[0]
    seed = derive("layers", seed, epoch, step, *([rank] if rank else []))
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the autocast context of a precision; it does nothing for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
