"""Memory that is kept from step to step, and memory that runs out as an error with a remedy."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ltcli.core.errors import ResourceError

# Parameters of mallopt in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let this process use the memory of freed tensors again; nothing where malloc is another.

    By default glibc gives large blocks back to the system at once. The activations of every batch
    are then new pages, which the kernel clears: half of the time of a large network on a CPU.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that the memory of the machine or of the GPU ran out."""
    import torch

    # On the CPU torch raises a plain RuntimeError, known by its words alone.
    said = ("not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


@contextmanager
def memory_needed(where: str, hint: str) -> Iterator[None]:
    """Turn memory that runs out into a ``ResourceError``, whose hint says how to need less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise ResourceError(where, "out of memory", hint) from None
