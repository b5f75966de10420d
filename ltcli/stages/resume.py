"""The checkpoint of an unfinished stage, beside its output."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcli import __version__
from ltcli.artifacts.header import Header, verify
from ltcli.core.errors import LtcliError, ResourceError, cause

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def checkpoint_of(out: Path) -> Path:
    """Return where the checkpoint of an output lies."""
    return out.with_suffix(".resume.safetensors")


class ResumeFile:
    """The checkpoint beside an unfinished output, valid for one identity only."""

    def __init__(
        self, out: Path, stage: str, parameters: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> None:
        """Remember which run the checkpoint belongs to."""
        self._path = checkpoint_of(out)
        self._stage = stage
        self._parameters = dict(parameters)
        self._inputs = dict(inputs)

    def exists(self) -> bool:
        """Whether there is a sound checkpoint of this very run; any other one is removed."""
        # Looked for first: it may be written, whole, by another process at any time.
        if not os.path.lexists(self._path):
            return False
        try:
            header = verify(self._path)
        except LtcliError:
            logger.warning("%s: damaged, starting afresh", self._path)
            self.remove()
            return False
        if not self._fits(header):
            logger.warning("%s: of another run, starting afresh", self._path)
            self.remove()
            return False
        return True

    def _fits(self, header: Header) -> bool:
        return (
            (header.kind, header.stage, header.writer) == ("checkpoint", self._stage, __version__)
            and header.parameters == self._parameters
            and header.inputs == self._inputs
        )

    def remove_leftover(self) -> None:
        """Delete a checkpoint of this run, which was killed between its result and its end."""
        with suppress(LtcliError):
            if self._fits(verify(self._path)):
                self.remove()

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the saved state and position, or None."""
        from ltcli.artifacts.store import open_artifact

        if not self.exists():
            return None
        with open_artifact(self._path) as artifact:
            return artifact.load("state.*"), artifact.header.info["position"]

    def save(self, state: Mapping[str, torch.Tensor], position: Mapping[str, Any]) -> None:
        """Replace the saved state."""
        from ltcli.artifacts.store import save

        save(
            self._path,
            "checkpoint",
            {f"state.{name}": tensor for name, tensor in state.items()},
            stage=self._stage,
            parameters=self._parameters,
            inputs=self._inputs,
            info={"position": dict(position)},
        )

    def remove(self) -> None:
        """Delete the checkpoint.

        Raises:
            ResourceError: It cannot be deleted.
        """
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(self._path, f"cannot be removed: {cause(error)}") from None


class Unsaved:
    """The checkpoint for a process beside the first: it goes on from there, and saves nothing."""

    def __init__(self, file: ResumeFile) -> None:
        """Remember whose checkpoint it is."""
        self._file = file

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return what the first process saved, or None."""
        return self._file.load()

    def save(self, state: Mapping[str, torch.Tensor], position: Mapping[str, Any]) -> None:
        """Leave it to the first process."""
