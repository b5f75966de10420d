"""The run of one stage: check everything first, skip what is up to date, write one artifact.

Beside ``NAME.safetensors`` a run keeps a checkpoint ``NAME.resume.safetensors`` and a log
``NAME.resume.jsonl``. When it ends, the checkpoint goes and the log becomes the sidecar.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO, Generic

from ltcli import __version__
from ltcli.artifacts.header import SIDECAR, Header, opened, parse_header, verify
from ltcli.compute.environment import processes
from ltcli.compute.memory import memory_needed
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, LtcliError, ResourceError, cause
from ltcli.core.params import as_dict
from ltcli.core.text import printable
from ltcli.stages.stage import Checked, P, Stage, check_processes, check_together

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.store import Artifact
    from ltcli.stages.stage import Result

logger = logging.getLogger(__name__)

CHECKPOINT = ".resume.safetensors"
_LOG = ".resume.jsonl"
_NO_OUTPUT = "no output yet"
_REPLACES = "--force replaces it, --out writes elsewhere"
_OTHER_OUT = "choose another --out"


@dataclass(frozen=True)
class Job(Generic[P]):
    """One run of a stage, fully decided: files by role, device as the user named it.

    ``force`` redoes what is up to date, and replaces a file that is not ours.
    """

    stage: Stage[P]
    params: P
    inputs: Mapping[str, Path]
    out: Path
    device: str = "auto"
    force: bool = False


@dataclass(frozen=True)
class Plan:
    """Plan of a run; its inputs and headers are keyed by role.

    Attributes:
        parameters: The parameters as the header will hold them.
        inputs: SHA-256 of each input: with the parameters, the identity of the output.
        reason: Why the output must be made; None where it is up to date.
        digest: SHA-256 of the output where it is up to date.
        preview: Lines for people about the output.
    """

    parameters: dict[str, Any]
    inputs: Mapping[str, str]
    headers: Mapping[str, Header]
    reason: str | None
    digest: str | None
    preview: list[str]
    checked: Checked


@dataclass(frozen=True)
class Opened:
    """The input files of one command, opened and verified once for all of its runs.

    They stay open as long as ``stack`` does.
    """

    stack: ExitStack
    _files: dict[Path, tuple[Header, BinaryIO]] = field(default_factory=dict, init=False)
    _artifacts: dict[Path, Artifact] = field(default_factory=dict, init=False)

    def header(self, path: Path) -> Header:
        """Return the header of an input, or raise ArtifactError."""
        if path not in self._files:
            # One descriptor for the header now and the tensors later: nobody can put another
            # file between the two.
            file = self.stack.enter_context(opened(path))
            self._files[path] = parse_header(path, file), file
        return self._files[path][0]

    def artifact(self, path: Path) -> Artifact:
        """Return an input of which every byte was verified, or raise ArtifactError."""
        from ltcli.artifacts.store import Artifact

        if path not in self._artifacts:
            self._artifacts[path] = Artifact(*self._files[path])
        return self._artifacts[path]


def planned(job: Job[P], files: Opened) -> Plan:
    """Check all that can be known now of a run, and return its plan."""
    stage, headers = job.stage, {}
    inputs: dict[str, str] = {}
    spared: dict[str, tuple[str, ...]] = {}
    for entry in stage.inputs:
        if entry.name not in job.inputs:
            continue
        path = job.inputs[entry.name]
        header = files.header(path)
        if header.kind != entry.kind:
            rule = f"{entry.name} must be of kind {entry.kind}, got {header.kind}"
            raise ArtifactError(path, rule, f"name another file with --{entry.name}")
        headers[entry.name] = header
        inputs[entry.name], spared[entry.name] = header.digest, entry.may_differ
    check_together(stage.name, headers, spared)
    checked = (stage.check and stage.check(job.params, headers)) or Checked()
    inputs |= checked.inputs
    parameters = as_dict(job.params)
    check_name(job.out, job.inputs.values())
    reason, digest = _reason(job, parameters, inputs)
    if reason is not None:
        check_writable(job.out)
    preview = [] if stage.preview is None else stage.preview(job.params, headers)
    return Plan(parameters, inputs, headers, reason, digest, preview, checked)


def check_name(out: Path, inputs: Iterable[Path]) -> None:
    """Check that an output may have its name, and is none of the inputs."""
    # Names of temporary files are longer, and the limit of file systems is 255.
    length = len(os.fsencode(out.name))
    if length > 200:
        raise ResourceError(out, f"file name must be at most 200 bytes, got {length}", _OTHER_OUT)
    try:
        if out.is_dir():
            raise ResourceError(out, "must be a file, got a folder", _OTHER_OUT)
        # Real paths, as a link must not hide that a run replaces its input.
        if os.path.realpath(out) in set(map(os.path.realpath, inputs)):
            raise ResourceError(out, "the output must not be one of the inputs", _OTHER_OUT)
    except OSError as error:
        raise ResourceError(out, f"cannot be written: {cause(error)}", _OTHER_OUT) from None


def check_writable(out: Path) -> None:
    """Check that the folder of an output, or the first one above it that exists, is writable."""
    folder = out.parent
    try:
        while not folder.exists():  # Writing makes the missing folders.
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            rule = f"cannot be written: {folder} is not a writable folder"
            raise ResourceError(out, rule, _OTHER_OUT)
    except OSError as error:
        raise ResourceError(out, f"cannot be written: {cause(error)}", _OTHER_OUT) from None


def _reason(
    job: Job[P], parameters: Mapping[str, Any], inputs: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """Why the output must be made, or the digest of the one that is up to date."""
    if not job.out.exists():
        return _NO_OUTPUT, None
    if job.force:  # Before the old file is read: --force also replaces a damaged one.
        return "--force", None
    try:
        old = verify(job.out)  # Every byte: a damaged output must not pass for up to date.
    except ArtifactError as error:
        raise ArtifactError(error.where, error.message, _REPLACES) from None
    if (old.kind, old.stage) != (job.stage.output, job.stage.name):
        rule = f"was made by {old.stage}, not by {job.stage.name}"
        raise ArtifactError(job.out, rule, _REPLACES)
    for role in sorted(inputs.keys() | old.inputs.keys()):
        if inputs.get(role) != old.inputs.get(role):
            return f"{role} changed", None
    for name in sorted(parameters.keys() | old.parameters.keys()):
        before, after = old.parameters.get(name), parameters.get(name)
        if before != after:
            return printable(f"{name} changed from {before} to {after}"), None
    return None, old.digest


def run(job: Job[P], files: Opened) -> tuple[bool, str | None]:
    """Run a stage unless its output is up to date: whether it was not, and the output's digest.

    The digest is None in all processes but the first, whose file may show on their machines a
    little later. After an error the file at the output, if any, is still there, whole.
    """
    rank, size = processes()
    check_processes(job.stage.name, not job.stage.shares_work, "it")
    now = planned(job, files)
    with ExitStack() as stack:
        if now.reason is None:
            if rank == 0:
                ResumeFile(job.out, job.stage.name, now).remove_leftover()
            return False, now.digest if rank == 0 else None
        # Heavy imports start here: nothing above needs torch.
        from ltcli.artifacts.store import locked
        from ltcli.compute import parallel
        from ltcli.compute.device import resolve_device

        device = resolve_device(job.device)
        world = stack.enter_context(parallel.connected(rank, size, device))
        stale = False
        if rank == 0:
            # The first process alone locks, logs and writes.
            waited = stack.enter_context(locked(job.out, job.out.with_suffix(CHECKPOINT).name))
            # Another process may have made the output meanwhile.
            stale = waited or (now.reason == _NO_OUTPUT and job.out.exists())
        if world.agreed(stale):  # Else the work of the other process would be done again.
            now = planned(job, files)
        if not world.agreed(now.reason is not None):
            return False, now.digest if rank == 0 else None
        digest = _make(job, now, files) if rank == 0 else None
        if rank:
            _follow(job, now, files)
        world.agreed(True)  # Nobody returns before the output is there.
        return True, digest


def _make(job: Job[P], now: Plan, files: Opened) -> str:
    """Do the work, log it and save the result; return its digest."""
    from ltcli.artifacts.store import save
    from ltcli.compute.environment import describe, peak_memory

    name = job.stage.name
    logger.info("%s", "\n".join([f"{name}: starting ({now.reason})", *now.preview]))
    for line in now.checked.warnings:
        logger.warning("%s: %s", name, line)
    checkpoint = ResumeFile(job.out, name, now)
    # The sidecar belongs to the artifact beside it until another one replaces that.
    sidecar, unfinished = job.out.with_suffix(SIDECAR), job.out.with_suffix(_LOG)
    started = time.time()

    def log(record: Mapping[str, Any], mode: str = "a") -> None:
        try:
            with unfinished.open(mode) as file:
                file.write(json.dumps(record, sort_keys=True) + "\n")
        except OSError as error:
            raise ResourceError(unfinished, f"cannot be written: {cause(error)}") from None

    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        # The first signal saves and ends the run; a second one kills at once.
        signal.signal(number, signal.SIG_DFL)
        context.stop_signal = number
        if not context.resumable:  # Without a loop that saves, waiting would gain nothing.
            context.stop_here()

    # A new run must not inherit lines of an abandoned one.
    event, mode = ("resume", "a") if checkpoint.exists() else ("start", "w")
    log({"event": event, "time": started, **describe(job.device)}, mode)
    context = Context(name, job.device, checkpoint, log, now.checked.start)
    with _signals(ask_to_stop):
        result = _work(job, files, context)
        digest = save(
            job.out,
            job.stage.output,
            result.tensors,
            stage=name,
            parameters=now.parameters,
            inputs=now.inputs,
            info=result.info,
        )
    checkpoint.remove()  # Not before the save: a crash in it can still be resumed.
    seconds = round(time.time() - started, 3)
    log({"event": "end", "seconds": seconds, "digest": digest, **peak_memory()})
    try:
        unfinished.replace(sidecar)  # One rename: no sidecar is half old, half new.
    except OSError as error:
        raise ResourceError(sidecar, f"cannot be written: {cause(error)}") from None
    logger.info("%s: done in %.1f s", name, seconds)
    return digest


def _follow(job: Job[P], now: Plan, files: Opened) -> None:
    """Share the work of the first process, which alone saves and logs."""
    checkpoint = ResumeFile(job.out, job.stage.name, now, writes=False)
    start = now.checked.start
    context = Context(job.stage.name, job.device, checkpoint, lambda _record: None, start)
    # A signal goes to all processes of a run: the first one saves and ends, the others follow it.
    with _signals(lambda *_: None):
        _work(job, files, context)


def _work(job: Job[P], files: Opened, context: Context) -> Result:
    """Verify the inputs, of which only headers were read so far, and run the stage."""
    inputs = {role: files.artifact(path) for role, path in job.inputs.items()}
    smaller = "a smaller --batch-size, or " if hasattr(job.params, "batch_size") else ""
    with memory_needed(job.stage.name, f"use {smaller}fewer images"):
        return job.stage.run(job.params, inputs, context)


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let a function answer to SIGINT and SIGTERM."""
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handler)
    except ValueError:
        pass  # Outside the main thread Python takes no handlers: the caller handles signals.
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


class ResumeFile:
    """The checkpoint beside an unfinished output, valid for one identity only."""

    def __init__(self, out: Path, stage: str, now: Plan, *, writes: bool = True) -> None:
        """Remember the run that the checkpoint belongs to, and whether this process saves it."""
        self._path = out.with_suffix(CHECKPOINT)
        self._stage, self._parameters, self._inputs = stage, now.parameters, dict(now.inputs)
        self._writes = writes

    def exists(self) -> bool:
        """Whether there is a sound checkpoint of this very run; any other one is removed."""
        # No file is no reason for a warning.
        if not os.path.lexists(self._path):
            return False
        problem = "of another run"
        try:
            if self._fits(verify(self._path)):
                return True
        except LtcliError:
            problem = "damaged"
        logger.warning("%s: %s, starting afresh", self._path, problem)
        self.remove()
        return False

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

        if self._writes:
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
        """Delete the checkpoint."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(self._path, f"cannot be removed: {cause(error)}") from None
