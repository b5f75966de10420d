"""The files behind a comparison: their ancestors, and the runs that made them.

Nothing vouches for a sidecar: only numbers and short words are taken from it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ltcli.artifacts.header import Header, read_records, verify
from ltcli.core.errors import ArtifactError

_MOST_EPOCHS = 1_000_000
# Entries of an epoch's record that are no curve.
_NO_CURVE = {"epoch", "seconds", "samples_per_second"}


@dataclass(frozen=True)
class Sidecar:
    """The run that made an artifact.

    Attributes:
        epochs: Measure to its value after each epoch, by epoch from 0.
        started: UTC, to the second.
        seconds: Wall time of the last process, as ``peak_memory_mb`` is its memory.
        device: Device it ran on, or the one asked for where the stage does not say.
        precision: Precision of the training, where the stage says so.
        machine: Processor, cores, threads and versions.
    """

    epochs: dict[str, dict[int, float]]
    started: str
    seconds: float | None
    resumed: int
    device: str
    precision: str
    peak_memory_mb: float | None
    machine: str


@dataclass(frozen=True)
class File:
    """One artifact of the lineage, verified by its digest.

    Attributes:
        made_from: Role, name of the file or None where the folder lacks it, digest.
        run: The run from its sidecar, or the reason why it is not known.
    """

    header: Header
    made_from: tuple[tuple[str, str | None, str], ...]
    run: Sidecar | str

    @property
    def name(self) -> str:
        """Name of the file without its suffix."""
        return self.header.path.stem

    @property
    def parameters(self) -> list[str]:
        """Parameters with their values, without those that are null."""
        return [
            f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            for name, value in self.header.parameters.items()
            if value is not None
        ]


def lineage(roots: Sequence[Header], folder: Sequence[Header]) -> list[File]:
    """Artifacts and all their ancestors in a folder, verified, each after its own ancestors."""
    # Of copies of one artifact the first counts: a root, else the first by name.
    known = {header.digest: header for header in reversed([*roots, *folder])}
    files = []
    for header in _in_order(roots, known, set()):
        made_from = tuple(
            (role, known[digest].path.stem if digest in known else None, digest)
            for role, digest in sorted(header.inputs.items())
        )
        files.append(File(verify(header.path), made_from, read_sidecar(header)))
    return files


def trained(files: Sequence[File]) -> tuple[list[dict[str, Sidecar]], dict[str, list[str]]]:
    """Learning curves, runs of one recipe together; names of files without, by the reason."""
    groups: dict[str, dict[str, Sidecar]] = {}
    without: dict[str, list[str]] = {}
    for file in files:
        if file.header.kind not in ("model", "generator"):
            continue
        if isinstance(file.run, str) or not file.run.epochs:
            reason = file.run if isinstance(file.run, str) else "no epochs"
            without.setdefault(reason, []).append(file.name)
        else:
            # Runs of one recipe differ in their seed alone.
            made = {k: v for k, v in file.header.parameters.items() if k != "seed"}
            recipe = [file.header.stage, file.header.info.get("recipe", made)]
            groups.setdefault(json.dumps(recipe, sort_keys=True), {})[file.name] = file.run
    return list(groups.values()), without


def _in_order(
    headers: Sequence[Header], known: Mapping[str, Header], seen: set[str]
) -> Iterator[Header]:
    for header in headers:
        # An ancestor of several files stands once, before the first of them.
        if header.digest not in seen:
            seen.add(header.digest)
            made_from = [known[d] for _, d in sorted(header.inputs.items()) if d in known]
            yield from _in_order(made_from, known, seen)
            yield header


def read_sidecar(header: Header) -> Sidecar | str:
    """The run of an artifact, or the reason why it is not known."""
    try:
        records = read_records(header)
    except ArtifactError as error:
        return "no sidecar" if error.message == "no such artifact" else f"sidecar {error.message}"
    events = [record.get("event") for record in records]
    last, first = records[-1], records[events.index("start")] if "start" in events else {}
    # A resumed run trains again, and its last part made the artifact.
    training = ({}, *(r for r, event in zip(records, events, strict=True) if event == "training"))
    return Sidecar(
        epochs=_epochs(records),
        started=_time(first.get("time")),
        seconds=_number(last.get("seconds")),
        resumed=events.count("resume"),
        device=_word(training[-1].get("device", first.get("device"))),
        precision=_word(training[-1].get("precision")),
        peak_memory_mb=_number(last.get("peak_memory_mb")),
        machine=_machine(first),
    )


def _epochs(records: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Curves by measure; of an epoch that was done again after a resume, the last values."""
    curves: dict[str, dict[int, float]] = {}
    for record in records:
        epoch = record.get("epoch")
        if record.get("event") == "epoch" and type(epoch) is int and 0 <= epoch < _MOST_EPOCHS:
            for name in record.keys() - _NO_CURVE:
                if (found := _number(record[name])) is not None:
                    curves.setdefault(name, {})[epoch] = found
    return {name: dict(sorted(curve.items())) for name, curve in sorted(curves.items())}


def _machine(record: Mapping[str, Any]) -> str:
    # Host and command line stay out: a report is made to be passed on.
    named = record.get("versions")
    versions = {"python": record.get("python"), **(named if isinstance(named, dict) else {})}
    parts = [_word(record.get(name)) for name in ("processor", "gpu", "platform")]
    counted = [name for name in ("cores", "threads") if type(record.get(name)) is int]
    parts += [f"{record[name]} {name}" for name in counted]
    parts += [f"{_word(name)} {_word(value)}" for name, value in versions.items() if _word(value)]
    return ", ".join(filter(None, parts))


def _word(value: object) -> str:
    # A foreign log must not fill the page.
    return value[:80] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    # Values beyond these bounds, and NaN, are no measurement, and could not be drawn.
    return float(value) if value == 0 or 1e-100 < abs(value) < 1e100 else None


def _time(value: object) -> str:
    seconds = _number(value)
    # Seconds of another age are no date.
    with suppress(OverflowError, OSError, ValueError):
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return ""
