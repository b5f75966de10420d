"""Device and precision of a stage."""

import os

import torch

from ltcli.compute.environment import local_processes, processes
from ltcli.compute.seeds import derive
from ltcli.core.errors import ResourceError


def resolve_device(name: str) -> torch.device:
    """Device that a user named, made the default of its kind: cpu, cuda, cuda:N, mps or auto.

    ``auto`` is the first available of cuda, mps, cpu; of cuda and cpu for several processes. An
    unknown or absent device is refused; nothing falls back silently.
    """
    size = local_processes()
    if size > 1 and (name == "mps" or name.startswith("cuda:")):
        rule = f"device must be auto, cuda or cpu for {size} processes on a machine, got {name}"
        raise ResourceError("--device", rule, "each has a GPU of its own")
    if name in ("auto", "cuda") and torch.cuda.is_available():
        # torchrun numbers the processes of a machine, and each has a GPU of its own.
        local = os.environ.get("LOCAL_RANK")
        name = "cuda" if local is None else f"cuda:{local}"
    if name == "auto":
        # A Mac has one GPU, so several processes there share the CPU.
        return torch.device("mps" if size == 1 and torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")  # refused below, like every other kind that torch knows
    present = {
        "cpu": device.type == "cpu",
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device.type not in present:
        rule = f"device must be auto, cpu, cuda, cuda:N or mps, got {name}"
        raise ResourceError("--device", rule)
    if not present[device.type]:
        raise ResourceError("--device", f"device {name} is not available", "try --device auto")
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
        # Of each run anew, so that none has the TF32 of the one before.
        _set_tf32(on=False)
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Dtype of convolutions and matrix products for auto, fp32, tf32 or bf16.

    ``tf32`` is float32 whose products have a mantissa of ten bits until the next
    ``resolve_device``; a device without it is refused with ResourceError.
    """
    if name == "tf32":
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            rule = f"precision must be auto, fp32 or bf16 on {device}, which has no TF32, got tf32"
            raise ResourceError("--precision", rule, "try --precision fp32")
        _set_tf32(on=True)
    if name != "auto":
        return torch.bfloat16 if name == "bf16" else torch.float32
    # Only where the hardware has it: emulated bfloat16 is slower than float32.
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if fast else torch.float32


def _set_tf32(*, on: bool) -> None:
    """Let convolutions and matrix products of float32 on GPUs use TF32, or not."""
    mode = "tf32" if on else "ieee"
    torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = mode


def seed_layers(device: torch.device, seed: int, epoch: int, step: int) -> None:
    """Seed the generator of layers such as dropout on a device, for one step of a run."""
    # Each process has other rows of the batch and must draw other numbers for them.
    rank = processes()[0]
    seed = derive("layers", seed, epoch, step, *([rank] if rank else []))
    # torch.manual_seed would seed every kind of device, which takes as long as a small step.
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast context of a precision; it does nothing for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
