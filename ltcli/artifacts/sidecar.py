"""The log of the run that made an artifact, beside it: ``NAME.run.jsonl``.

A sidecar is no artifact and has no digest of its own. It is believed only if its last record names
the artifact's digest.
"""

import json
from typing import Any

from ltcli.artifacts.header import Header, opened
from ltcli.core.errors import ArtifactError

SIDECAR = ".run.jsonl"
"""Suffix of the log, in the place of the artifact's own."""


def read_records(header: Header) -> list[dict[str, Any]]:
    """Return the log of the run that made an artifact, oldest record first; never empty.

    Lines that are no records are skipped.

    Raises:
        ArtifactError: There is no sidecar, it cannot be read, or another run wrote it.
    """
    path = header.path.with_suffix(SIDECAR)
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
