"""The files behind a comparison: each with what it was made from, and the run that made it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ltcli.artifacts.header import Header, verify
from ltcli.cli.report.sidecars import Sidecar, read_sidecar


@dataclass(frozen=True)
class File:
    """One artifact of the lineage.

    Attributes:
        header: Verified by its digest.
        made_from: Role, name of the file or None where it is not in the folder, digest.
        run: What its sidecar tells, or why there is nothing.
    """

    header: Header
    made_from: tuple[tuple[str, str | None, str], ...]
    run: Sidecar | str


def lineage(roots: Sequence[Header], folder: Sequence[Header]) -> list[File]:
    """Return some artifacts and all their ancestors in a folder, each after what it is made from.

    Raises:
        ArtifactError: One of them was altered.
    """
    known: dict[str, Header] = {}
    for header in (*roots, *folder):
        known.setdefault(header.digest, header)
    return [_file(verify(header.path), known) for header in _in_order(roots, known, set())]


def _in_order(
    headers: Sequence[Header], known: Mapping[str, Header], seen: set[str]
) -> Iterator[Header]:
    for header in headers:
        if header.digest not in seen:
            seen.add(header.digest)
            made_from = [known[d] for _, d in sorted(header.inputs.items()) if d in known]
            yield from _in_order(made_from, known, seen)
            yield header


def _file(header: Header, known: Mapping[str, Header]) -> File:
    made_from = tuple(
        (role, known[digest].path.stem if digest in known else None, digest)
        for role, digest in sorted(header.inputs.items())
    )
    return File(header, made_from, read_sidecar(header))
