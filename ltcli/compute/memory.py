"""Memory that runs out, of the machine or of a GPU, as an error with a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from ltcli.core.errors import ResourceError


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
