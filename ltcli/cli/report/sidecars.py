"""Read what ``NAME.run.jsonl`` tells of the run that made an artifact: epochs, machine, times.

Nothing vouches for a sidecar: only numbers and short words are taken from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ltcli.artifacts.header import Header
from ltcli.artifacts.sidecar import read_records
from ltcli.core.errors import ArtifactError

_MOST_EPOCHS = 1_000_000
# Of an epoch, what is no curve.
_NO_CURVE = ("epoch", "seconds", "samples_per_second")


@dataclass(frozen=True)
class Sidecar:
    """The run of one artifact.

    Attributes:
        epochs: Measure to its value after each epoch, by epoch from 0.
        started: UTC, to the second.
        seconds: Wall time of the last process that worked on it.
        resumed: How often it was taken up again.
        device: That it ran on; what was asked for where the stage does not say.
        precision: Of the training, where it says so.
        peak_memory_mb: Of the last process.
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


def read_sidecar(header: Header) -> Sidecar | str:
    """Return the run of an artifact, or why it is not known."""
    try:
        records = read_records(header)
    except ArtifactError as error:
        return "no sidecar" if error.message == "no such artifact" else f"sidecar {error.message}"
    last = records[-1]
    first = next((r for r in records if r.get("event") == "start"), {})
    training: dict[str, Any] = next(
        (r for r in reversed(records) if r.get("event") == "training"), {}
    )
    return Sidecar(
        epochs=_epochs(records),
        started=_time(first.get("time")),
        seconds=_number(last.get("seconds")),
        resumed=sum(record.get("event") == "resume" for record in records),
        device=_word(training.get("device", first.get("device"))),
        precision=_word(training.get("precision")),
        peak_memory_mb=_number(last.get("peak_memory_mb")),
        machine=_machine(first),
    )


def _epochs(records: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Return the curves; an epoch that was done again after a resume counts as it was then."""
    curves: dict[str, dict[int, float]] = {}
    for record in records:
        epoch = record.get("epoch")
        if record.get("event") != "epoch" or type(epoch) is not int:
            continue
        for name, value in record.items():
            found = _number(value)
            if name not in _NO_CURVE and found is not None and 0 <= epoch < _MOST_EPOCHS:
                curves.setdefault(name, {})[epoch] = found
    return {name: dict(sorted(curve.items())) for name, curve in sorted(curves.items())}


def _machine(record: Mapping[str, Any]) -> str:
    named = record.get("versions")
    versions = {"python": record.get("python"), **(named if isinstance(named, dict) else {})}
    parts = [_word(record.get(name)) for name in ("processor", "gpu", "platform")]
    for name in ("cores", "threads"):
        parts.append(f"{record[name]} {name}" if type(record.get(name)) is int else "")
    for name, version in versions.items():
        parts.append(f"{_word(name)} {_word(version)}" if _word(version) else "")
    return ", ".join(part for part in parts if part)


def _word(value: object) -> str:
    return value[:80] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if type(value) not in (int, float):
        return None
    try:
        found = float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None
    # What lies beyond these bounds is no measurement, and could not be drawn.
    return found if found == 0 or 1e-100 < abs(found) < 1e100 else None


def _time(value: object) -> str:
    seconds = _number(value)
    try:
        moment = datetime.fromtimestamp(seconds or 0, UTC)
    except (OverflowError, OSError, ValueError):
        return ""
    return "" if seconds is None else moment.strftime("%Y-%m-%d %H:%M:%S")
