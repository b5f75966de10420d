"""The run of one stage: check everything first, skip what is up to date, write one artifact."""

from __future__ import annotations

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

from ltcli.artifacts.header import Header, opened, parse_header, read_records, verify
from ltcli.compute.environment import processes
from ltcli.compute.memory import memory_needed
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ResourceError, StopError, cause
from ltcli.core.params import as_dict
from ltcli.stages.stage import Checked, P, Stage, check_processes, check_together
from ltcli.stages.unfinished import Saved, Unfinished, changed

if TYPE_CHECKING:
    from ltcli.artifacts.store import Artifact
    from ltcli.stages.stage import Result

logger = logging.getLogger(__name__)

_NO_OUTPUT = "no output yet"
_REPLACES = "--force replaces it, --out writes elsewhere"
# Seconds of training in an artifact that another recipe may replace without being asked.
_CHEAP = 60.0
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
        unfinished: What an earlier try of this run may have left.
    """

    parameters: dict[str, Any]
    inputs: Mapping[str, str]
    headers: Mapping[str, Header]
    reason: str | None
    digest: str | None
    preview: list[str]
    checked: Checked
    unfinished: Unfinished


@dataclass(frozen=True)
class Opened:
    """The input files of one command, opened once, and verified once, for all of its runs.

    They stay open as long as ``stack`` does.
    """

    stack: ExitStack
    _files: dict[Path, tuple[Header, BinaryIO]] = field(default_factory=dict, init=False)
    _artifacts: dict[Path, Artifact] = field(default_factory=dict, init=False)
    _sound: set[Path] = field(default_factory=set, init=False)

    def header(self, path: Path) -> Header:
        """Return the header of an input, or raise ArtifactError."""
        if path not in self._files:
            # One descriptor for the header now and the tensors later: nobody can put another
            # file between the two.
            file = self.stack.enter_context(opened(path))
            self._files[path] = parse_header(path, file), file
        return self._files[path][0]

    def check(self, path: Path) -> None:
        """Compare every byte of an input with its digest, without a result to come from it."""
        if path not in self._sound:
            verify(path)
            self._sound.add(path)

    def artifact(self, path: Path) -> Artifact:
        """Return an input whose header was read."""
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
    unfinished = Unfinished(job.out, stage.name, parameters, inputs)
    if reason is not None:
        check_writable(job.out)
        if not job.force:
            unfinished.require_own()
    preview = [] if stage.preview is None else stage.preview(job.params, headers)
    return Plan(parameters, inputs, headers, reason, digest, preview, checked, unfinished)


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
    reason, by_recipe = changed(old, parameters, inputs)
    if reason is None:
        return None, old.digest
    if by_recipe and (seconds := _trained(old)) > _CHEAP:
        rule = f"has {seconds:.0f} s of training by another recipe: {reason}"
        raise ArtifactError(job.out, rule, _REPLACES)
    return reason, None


def _trained(header: Header) -> float:
    """Seconds of the epochs that made an artifact, as far as its log is there."""
    with suppress(ArtifactError):
        epochs = [record for record in read_records(header) if record.get("event") == "epoch"]
        seconds = [record.get("seconds") for record in epochs]
        return float(sum(s for s in seconds if isinstance(s, int | float)))
    return 0.0


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
                now.unfinished.end_of_killed()
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
            waited = stack.enter_context(locked(job.out, now.unfinished.checkpoint.name))
            # Another process may have made the output meanwhile.
            stale = waited or (now.reason == _NO_OUTPUT and job.out.exists())
        if world.agreed(stale):  # Else the work of the other process would be done again.
            now = planned(job, files)
        if not world.agreed(now.reason is not None):
            return False, now.digest if rank == 0 else None
        smaller = "a smaller --batch-size, or " if hasattr(job.params, "batch_size") else ""
        with memory_needed(job.stage.name, f"use {smaller}fewer images"):
            digest, stopped = _make(job, now, files) if rank == 0 else _follow(job, now, files)
        world.agreed(True)  # Nobody returns before the output is there.
        if stopped:
            raise StopError(job.stage.name, stopped, f"{job.out} is complete")
        return True, digest


def _make(job: Job[P], now: Plan, files: Opened) -> tuple[str, int]:
    """Do the work, log it and save the result; its digest, and the signal that came meanwhile."""
    from ltcli.artifacts.store import save
    from ltcli.compute.environment import describe, peak_memory

    name = job.stage.name
    logger.info("%s", "\n".join([f"{name}: starting ({now.reason})", *now.preview]))
    for line in now.checked.warnings:
        logger.warning("%s: %s", name, line)
    unfinished, started = now.unfinished, time.time()

    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        # The first signal saves and ends the run; a second one kills at once.
        signal.signal(number, signal.SIG_DFL)
        context.stop_signal = number
        # Without a loop that saves, waiting would gain nothing; a result is soon written.
        if not context.resumable and result is None:
            context.stop_here()

    def end(digest: str) -> None:
        # Before the artifact is in its place: after a kill, the log is known by the digest.
        seconds = round(time.time() - started, 3)
        unfinished.log({"event": "end", "seconds": seconds, "digest": digest, **peak_memory()})

    # A new run must not inherit lines of an abandoned one.
    event, mode = ("resume", "a") if unfinished.exists() else ("start", "w")
    unfinished.log({"event": event, "time": started, **describe(job.device)}, mode)
    context = Context(name, job.device, unfinished, unfinished.log, now.checked.start)
    result: Result | None = None
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
            whole=end,
        )
        unfinished.end()  # Not before the save: a crash in it can still be resumed.
    logger.info("%s: done in %.1f s", name, time.time() - started)
    return digest, context.stop_signal


def _follow(job: Job[P], now: Plan, files: Opened) -> tuple[None, int]:
    """Share the work of the first process, which alone saves and logs."""
    saved = Saved(now.unfinished)
    start = now.checked.start
    context = Context(job.stage.name, job.device, saved, lambda _record: None, start)
    # A signal goes to all processes of a run: the first one saves and ends, the others follow it.
    with _signals(lambda *_: None):
        _work(job, files, context)
    return None, 0


def _work(job: Job[P], files: Opened, context: Context) -> Result:
    """Run the stage; inputs that it has not loaded are verified behind it."""
    inputs = {role: files.artifact(path) for role, path in job.inputs.items()}
    try:
        return job.stage.run(job.params, inputs, context)
    finally:
        # Verifies what was not loaded, after an error too: an altered byte may have led to it.
        for artifact in inputs.values():
            artifact.load()


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
