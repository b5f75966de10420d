"""The log of the run that made an artifact, beside it: ``NAME.run.jsonl``.

A sidecar is no artifact: nothing vouches for what it says. It is believed only if the run that it
ends with has the artifact's digest.
"""

import json
from pathlib import Path
from typing import Any

from ltcli.artifacts.header import Header, opened
from ltcli.core.errors import ArtifactError


def sidecar_of(artifact: Path) -> Path:
    """Return where the log of the run that made an artifact lies."""
    return artifact.with_suffix(".run.jsonl")


def read_records(header: Header) -> list[dict[str, Any]]:
    """Read what the run that made an artifact has logged, oldest first; never empty.

    Lines that are no records are passed over.

    Raises:
        ArtifactError: There is no sidecar, it cannot be read, or it is of another run.
    """
    path = sidecar_of(header.path)
    with opened(path) as file:
        records = [record for record in map(_record, file) if record is not None]
    last = records[-1] if records else {}
    if (last.get("event"), last.get("digest")) != ("end", header.digest):
        raise ArtifactError(path, "is of another run")
    return records


def _record(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
