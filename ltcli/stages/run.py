"""Run one stage: check everything first, skip what is up to date, write one artifact."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ltcli.artifacts.folder import make_folder
from ltcli.artifacts.header import Header, read_header, verify
from ltcli.artifacts.sidecar import sidecar_of
from ltcli.compute.memory import memory_needed
from ltcli.compute.processes import processes
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ResourceError, cause
from ltcli.core.params import as_dict
from ltcli.core.text import printable
from ltcli.stages.resume import ResumeFile, Unsaved, checkpoint_of
from ltcli.stages.stage import Stage, check_processes, check_together

if TYPE_CHECKING:
    from ltcli.stages.stage import Result

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run of a stage, fully decided.

    Attributes:
        stage: What to run.
        params: Its parameters.
        inputs: Role to file.
        out: The file to write.
        device: auto, cpu, cuda, cuda:N or mps.
        force: Redo what is up to date, and replace a file that is not ours.
    """

    stage: Stage
    params: Any
    inputs: Mapping[str, Path]
    out: Path
    device: str = "auto"
    force: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        inputs: Role to SHA-256 of each input: with the parameters, the identity of the output.
        reason: Why it has to be made; None where it is up to date.
        preview: Lines for people about what would be made.
    """

    inputs: Mapping[str, str]
    reason: str | None
    preview: list[str]


def plan(job: Job) -> Plan:
    """Check parameters, inputs and output of a run without doing it.

    Raises:
        LtcliError: Anything that would make the run fail and can be known now.
    """
    headers: dict[str, Header] = {}
    for role in job.stage.inputs:
        if role.name not in job.inputs:
            continue
        path = job.inputs[role.name]
        header = read_header(path)
        if header.kind != role.kind:
            rule = f"{role.name} must be of kind {role.kind}, got {header.kind}"
            raise ArtifactError(path, rule, f"name another file with --{role.name}")
        headers[role.name] = header
    apart = {role.name: role.may_differ(job.params) for role in job.stage.inputs}
    check_together(job.stage.name, headers, apart)
    if job.stage.check is not None:
        job.stage.check(job.params, headers)
    inputs = {role: header.digest for role, header in headers.items()}
    if job.stage.external is not None:
        inputs |= job.stage.external(job.params)
    _check_name(job.out, job.inputs.values())
    reason = _reason(job, inputs)
    if reason is not None:
        _check_writable(job.out)
    preview = [] if job.stage.preview is None else job.stage.preview(job.params, headers)
    return Plan(inputs, reason, preview)


def check_output(out: Path, inputs: Iterable[Path]) -> None:
    """Check that a file can be written, and is none of those that are read.

    Raises:
        ResourceError: It cannot.
    """
    _check_name(out, inputs)
    _check_writable(out)


def _check_name(out: Path, inputs: Iterable[Path]) -> None:
    hint = "choose another --out"
    # Names of temporary files are longer, and the limit of file systems is 255.
    length = len(os.fsencode(out.name))
    if length > 200:
        raise ResourceError(out, f"file name must be at most 200 bytes, got {length}", hint)
    try:
        if out.is_dir():
            raise ResourceError(out, "must be a file, got a folder", hint)
        if os.path.realpath(out) in {os.path.realpath(path) for path in inputs}:
            raise ResourceError(out, "the output must not be one of the inputs", hint)
    except OSError as error:
        raise ResourceError(out, f"cannot be written: {cause(error)}", hint) from None


def _check_writable(out: Path) -> None:
    hint = "choose another --out"
    folder = out.parent
    try:
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            rule = f"cannot be written: {folder} is not a writable folder"
            raise ResourceError(out, rule, hint)
    except OSError as error:
        raise ResourceError(out, f"cannot be written: {cause(error)}", hint) from None


def _reason(job: Job, inputs: Mapping[str, str]) -> str | None:
    if not job.out.exists():
        return "no output yet"
    if job.force:
        return "--force"
    try:
        old = verify(job.out)
    except ArtifactError as error:
        hint = "--force replaces it, --out writes elsewhere"
        raise ArtifactError(error.where, error.message, hint) from None
    if (old.kind, old.stage) != (job.stage.output, job.stage.name):
        rule = f"was made by {old.stage}, not by {job.stage.name}"
        raise ArtifactError(job.out, rule, "--force replaces it, --out writes elsewhere")
    for role in sorted(inputs.keys() | old.inputs.keys()):
        if inputs.get(role) != old.inputs.get(role):
            return f"{role} changed"
    parameters = as_dict(job.params)
    for name in sorted(parameters.keys() | old.parameters.keys()):
        if parameters.get(name) != old.parameters.get(name):
            before, after = old.parameters.get(name), parameters.get(name)
            return printable(f"{name} changed from {before} to {after}")
    return None


def run(job: Job) -> bool:
    """Run a stage unless its output is up to date.

    Returns:
        Whether there was work to do.

    Raises:
        LtcliError: The run failed; what was at the output is still there, whole.
    """
    rank, size = processes()
    check_processes(job.stage.name, not job.stage.shares_work, "it")
    first = plan(job)
    if first.reason is None:
        if rank == 0:
            _resume_file(job, first.inputs).remove_leftover()
        return False
    make_folder(job.out.parent, job.out)
    # Heavy imports start here: nothing above needs torch.
    from ltcli.artifacts.store import locked
    from ltcli.compute import parallel
    from ltcli.compute.device import resolve_device

    with parallel.connected(rank, size, resolve_device(job.device)) as world:
        if rank > 0:
            # The first process alone locks, reads the log and writes.
            if not world.agreed(False):
                return False
            # A signal is for the first process, which saves before it ends: this one follows.
            with _handled(lambda *_: None):
                unsaved = Unsaved(_resume_file(job, first.inputs))
                context = Context(job.stage.name, job.device, unsaved, _unlogged)
                _work(job, first, context)
            return world.agreed(True)
        with locked(job.out, checkpoint_of(job.out)):
            # Another process may have made it while this one waited for the lock.
            now = plan(job)
            if not world.agreed(now.reason is not None):
                return False
            begun = f"{job.stage.name}: running ({now.reason})"
            logger.info("%s", "\n".join([begun, *now.preview]))
            _run_locked(job, now)
        return world.agreed(True)


def _unlogged(_record: Mapping[str, Any]) -> None:
    """Leave the sidecar to the first process."""


def _resume_file(job: Job, inputs: Mapping[str, str]) -> ResumeFile:
    return ResumeFile(job.out, job.stage.name, as_dict(job.params), inputs)


def _run_locked(job: Job, now: Plan) -> None:
    from ltcli.artifacts.store import save
    from ltcli.compute.environment import describe, peak_memory

    checkpoint = _resume_file(job, now.inputs)
    # The sidecar is that of the artifact beside it until there is another one.
    sidecar, unfinished = sidecar_of(job.out), job.out.with_suffix(".resume.jsonl")
    resumed = checkpoint.exists()
    started = time.time()

    def log(record: Mapping[str, Any], mode: str = "a") -> None:
        try:
            with unfinished.open(mode) as file:
                file.write(json.dumps(record, sort_keys=True) + "\n")
        except OSError as error:
            raise ResourceError(unfinished, f"cannot be written: {cause(error)}") from None

    event, mode = ("resume", "a") if resumed else ("start", "w")
    log({"event": event, "time": started, **describe(job.device)}, mode)
    context = Context(job.stage.name, job.device, checkpoint, log)
    with _signals(context):
        result = _work(job, now, context)
        digest = save(
            job.out,
            job.stage.output,
            result.tensors,
            stage=job.stage.name,
            parameters=as_dict(job.params),
            inputs=now.inputs,
            info=result.info,
        )
    checkpoint.remove()
    seconds = round(time.time() - started, 3)
    log({"event": "end", "seconds": seconds, "digest": digest, **peak_memory()})
    try:
        unfinished.replace(sidecar)
    except OSError as error:
        raise ResourceError(sidecar, f"cannot be written: {cause(error)}") from None
    logger.info("%s: done in %.1f s", job.stage.name, seconds)


def _work(job: Job, now: Plan, context: Context) -> Result:
    """Open the inputs and run the stage."""
    from ltcli.artifacts.store import open_artifact

    with ExitStack() as stack:
        inputs = {
            role: stack.enter_context(open_artifact(path)) for role, path in job.inputs.items()
        }
        for role, artifact in inputs.items():
            if artifact.header.digest != now.inputs[role]:
                raise ArtifactError(job.inputs[role], "was replaced just now", "run again")
        smaller = "a smaller --batch-size, or " if hasattr(job.params, "batch_size") else ""
        with memory_needed(job.stage.name, f"use {smaller}fewer images"):
            return job.stage.run(job.params, inputs, context)


@contextmanager
def _signals(context: Context) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into ``StopError``; the second one kills at once."""

    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        context.stop_signal = number
        if not context.resumable:
            context.stop_here()

    with _handled(ask_to_stop):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let a function answer to SIGINT and SIGTERM."""
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handler)
    except ValueError:
        pass  # not in the main thread: whoever runs us there handles signals
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
