"""Surroundings of one run: device, checkpoint, log, and the signal that asks to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ltcli.core.errors import StopError

if TYPE_CHECKING:
    import torch


class Checkpoint(Protocol):
    """Where a long stage keeps its state while it is unfinished."""

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the saved state and position, or None."""

    def save(self, state: Mapping[str, torch.Tensor], position: Mapping[str, Any]) -> None:
        """Replace the saved state."""


@dataclass
class Context:
    """The surroundings of one run.

    Attributes:
        name: Stage that errors name.
        device: Device as the user named it: auto, cpu, cuda, cuda:N or mps.
        checkpoint: Keeper of unfinished state.
        log: Writes one record to the sidecar, which is never part of the result.
        start: Finding of the stage's check that its run needs again.
        stop_signal: Number of the signal that asked to stop, 0 for none.
        resumable: Whether a signal waits until ``stop_here`` is called.
    """

    name: str
    device: str
    checkpoint: Checkpoint
    log: Callable[[Mapping[str, Any]], None]
    start: object = None
    stop_signal: int = 0
    resumable: bool = field(default=False, init=False)

    @contextmanager
    def saves_on_stop(self) -> Iterator[None]:
        """Let signals wait until ``stop_here`` is called, as in a loop that saves its state."""
        self.resumable = True
        try:
            yield
        finally:
            self.resumable = False

    def stop_here(self) -> None:
        """Raise StopError if a signal asked to stop; call it right after saving."""
        if self.stop_signal:
            raise StopError(self.name, self.stop_signal, "run the same command again to go on")
