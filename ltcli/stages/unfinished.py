"""What a run keeps beside its output until it ends, and what the next run makes of it.

``NAME.resume.safetensors`` is a checkpoint, ``NAME.resume.jsonl`` a log. A run that ends removes
the checkpoint and makes the log the sidecar; where it was killed before, the next run does so.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcli import __version__
from ltcli.artifacts.header import SIDECAR, Header, read_header, read_records, verify
from ltcli.core.errors import ArtifactError, LtcliError, ResourceError, cause
from ltcli.core.text import printable

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_CHECKPOINT, _LOG = ".resume.safetensors", ".resume.jsonl"


def changed(
    old: Header, parameters: Mapping[str, Any], inputs: Mapping[str, str]
) -> tuple[str | None, bool]:
    """The first difference of a run from the one that made a file, and whether of a parameter."""
    for role in sorted(inputs.keys() | old.inputs.keys()):
        if inputs.get(role) != old.inputs.get(role):
            return f"{role} changed", False
    for name in sorted(parameters.keys() | old.parameters.keys()):
        before, after = old.parameters.get(name), parameters.get(name)
        if before != after:
            return printable(f"{name} changed from {before} to {after}"), True
    return None, False


class Unfinished:
    """The checkpoint and the log beside an unfinished output, valid for one identity only."""

    def __init__(
        self, out: Path, stage: str, parameters: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> None:
        """Remember the run that they belong to."""
        self.checkpoint, self._log = out.with_suffix(_CHECKPOINT), out.with_suffix(_LOG)
        self._out, self._stage = out, stage
        self._parameters, self._inputs = dict(parameters), dict(inputs)
        self._found: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None

    def require_own(self) -> None:
        """Raise ArtifactError where a checkpoint of another run would be lost."""
        if not os.path.lexists(self.checkpoint):
            return
        try:
            old = read_header(self.checkpoint)
        except ArtifactError:
            return  # Nobody can go on from it.
        if (difference := self._difference(old)) is not None:
            rule = f"is of an unfinished run, and this is another: {difference}"
            hint = "--force deletes it, --out writes elsewhere"
            raise ArtifactError(self.checkpoint, rule, hint)

    def _difference(self, old: Header) -> str | None:
        if (old.kind, old.stage) != ("checkpoint", self._stage):
            return f"it is the {old.kind} of {old.stage}"
        if old.writer != __version__:
            return f"ltcli changed from {old.writer} to {__version__}"
        return changed(old, self._parameters, self._inputs)[0]

    def exists(self) -> bool:
        """Whether there is a sound checkpoint of this very run; any other one is removed.

        It is read now, and kept until ``load`` hands it out.
        """
        from ltcli.artifacts.store import open_artifact

        # No file is no reason for a warning.
        if self._found is None and os.path.lexists(self.checkpoint):
            problem = "of another run"
            try:
                with open_artifact(self.checkpoint) as artifact:
                    if self._difference(artifact.header) is None:
                        state = artifact.load("state.*")
                        self._found = state, artifact.header.info["position"]
            except LtcliError:
                problem = "damaged"
            if self._found is None:
                logger.warning("%s: %s, starting afresh", self.checkpoint, problem)
                self._remove()
        return self._found is not None

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the saved state and position, or None."""
        self.exists()
        found, self._found = self._found, None
        return found

    def save(self, state: Mapping[str, torch.Tensor], position: Mapping[str, Any]) -> None:
        """Replace the saved state."""
        from ltcli.artifacts.store import save

        save(
            self.checkpoint,
            "checkpoint",
            {f"state.{name}": tensor for name, tensor in state.items()},
            stage=self._stage,
            parameters=self._parameters,
            inputs=self._inputs,
            info={"position": dict(position)},
        )

    def log(self, record: Mapping[str, Any], mode: str = "a") -> None:
        """Write one record to the log."""
        try:
            with self._log.open(mode) as file:
                file.write(json.dumps(record, sort_keys=True) + "\n")
        except OSError as error:
            raise ResourceError(self._log, f"cannot be written: {cause(error)}") from None

    def end(self) -> None:
        """Remove the checkpoint, and make the log the sidecar of the output, which is in place."""
        self._remove()
        sidecar = self._out.with_suffix(SIDECAR)
        try:
            self._log.replace(sidecar)  # One rename: no sidecar is half old, half new.
        except OSError as error:
            raise ResourceError(sidecar, f"cannot be written: {cause(error)}") from None

    def end_of_killed(self) -> None:
        """Do what is left of ``end`` for an output that is up to date.

        A checkpoint of another run stays, with its log.
        """
        names = self._out.name, self.checkpoint.name
        starts = tuple(f".{name}." for name in names)
        found = {path.name for path in self._out.parent.iterdir()}
        kept = {self._log.name, self.checkpoint.name} & found
        if not kept and not any(n.startswith(starts) and n.endswith(".tmp") for n in found):
            return
        from ltcli.artifacts.store import locked

        # Whoever has the lock is at work here; where nothing can be written, nothing is mended.
        with suppress(LtcliError, OSError), locked(self._out, names[1], wait=False):
            with suppress(ArtifactError):
                read_records(read_header(self._out), _LOG)
                self._log.replace(self._out.with_suffix(SIDECAR))
            with suppress(ArtifactError):
                if self._difference(verify(self.checkpoint)) is None:
                    self._remove()
            if not os.path.lexists(self.checkpoint):
                self._log.unlink(missing_ok=True)  # Nobody can go on from a log alone.

    def _remove(self) -> None:
        try:
            self.checkpoint.unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(self.checkpoint, f"cannot be removed: {cause(error)}") from None


@dataclass(frozen=True)
class Saved:
    """The checkpoint as processes see it that share the work of the one that writes it."""

    of: Unfinished

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the saved state and position, or None."""
        return self.of.load()

    def save(self, state: Mapping[str, torch.Tensor], position: Mapping[str, Any]) -> None:
        """Leave the writing to the first process."""
