"""Headers of artifacts, read and verified with the standard library alone; and their logs.

An artifact is a safetensors file: eight bytes of header length, a JSON header, then the tensors.
Its ``__metadata__`` has one key, ``ltcli``, whose value is sorted JSON. One field of that is
``digest``: the SHA-256 of the whole file with the digest's own 64 characters read as zeros, so
that one altered bit anywhere is noticed. The log ``NAME.run.jsonl`` beside it has no digest, and
counts only if its last record names that of the artifact.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from ltcli.artifacts.kinds import KINDS
from ltcli.artifacts.schema import check_schema
from ltcli.core.errors import ArtifactError, cause
from ltcli.core.files import open_regular

SIDECAR = ".run.jsonl"
# Bounds that no sound file reaches: a forged header must not fill the memory.
MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 20_000
MAX_AXES = 16
BLANK_DIGEST = "0" * 64
DTYPE_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8}
DTYPE_BYTES |= {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
# One level of escaping: the same words inside a class name would carry two.
_DIGEST = re.compile(rb'\\"digest\\":\\"([0-9a-f]{64})\\"')
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Bytes that are hashed at once, while they are in the processor's cache to be read or written.
PIECE = 2**19
_FIELDS = {"kind": str, "stage": str, "ltcli": str, "digest": str, "kind_version": int}
_FIELDS |= {"parameters": dict, "inputs": dict, "info": dict}


@dataclass(frozen=True)
class Header:
    """The provenance and the tensor list at the start of an artifact.

    Attributes:
        inputs: Role to SHA-256 of each input.
        info: Metadata of the kind: class names, backbone and so on.
        digest: SHA-256 that identifies the content.
        writer: Version of ltcli that wrote the file.
        tensors: Name to (dtype, shape).
        spans: Name to the positions of a tensor's first byte in the file and of the one behind its
            last.
    """

    path: Path
    kind: str
    kind_version: int
    stage: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    info: dict[str, Any]
    digest: str
    writer: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    spans: dict[str, tuple[int, int]]

    def size(self, name: str, axis: int) -> int:
        """Return one size of a tensor."""
        return self.tensors[name][1][axis]


def read_header(path: Path) -> Header:
    """Return a header that was checked against its schema; tensors are not read.

    Raises:
        ArtifactError: There is no such file, or it is not a sound artifact.
    """
    with opened(path) as file:
        return parse_header(path, file)


def verify(path: Path) -> Header:
    """Return a header whose digest was compared with every byte of the file.

    Raises:
        ArtifactError: As for ``read_header``, or some byte was altered.
    """
    with opened(path) as file:
        header = parse_header(path, file)
        check_digest(header, file, {})
        return header


def list_folder(folder: Path) -> list[Path]:
    """Return the files of a folder that have an artifact's suffix, in order of their names.

    Raises:
        ArtifactError: There is no such folder, or it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except FileNotFoundError:
        hint = "name the folder that holds the artifacts"
        raise ArtifactError(folder, "no such folder", hint) from None
    except OSError as error:
        raise ArtifactError(folder, f"cannot be read: {cause(error)}") from None
    return [folder / name for name in names if name.endswith(".safetensors")]


def read_folder(folder: Path, hint: str) -> list[Header]:
    """Return the headers of all artifacts of a folder, in order of their names.

    Raises:
        ArtifactError: The folder cannot be read, or a file is no sound artifact: with this hint.
    """
    paths = list_folder(folder)
    try:
        return [read_header(path) for path in paths]
    except ArtifactError as error:
        raise ArtifactError(error.where, error.message, hint) from None


def read_records(header: Header, suffix: str = SIDECAR) -> list[dict[str, Any]]:
    """Return the log of the run that made an artifact, oldest record first; never empty.

    Raises:
        ArtifactError: The file beside it, of this suffix, is missing, cannot be read, or is the log
            of another run.
    """
    path = header.path.with_suffix(suffix)
    with opened(path) as file:
        records = [record for record in map(_record, file) if record is not None]
    last = records[-1] if records else {}
    # Only the digest ties a log to a file: both may be copied or replaced.
    if (last.get("event"), last.get("digest")) != ("end", header.digest):
        raise ArtifactError(path, "is of another run")
    return records


def _record(raw: bytes) -> dict[str, Any] | None:
    # A killed run leaves half a line, and people edit logs: only whole records count.
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; everything is then read from this one descriptor.

    Raises:
        ArtifactError: It is missing, not a regular file, or not readable.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        hint = "run the stage that makes it first"
        raise ArtifactError(path, "no such artifact", hint) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(path, f"cannot be read: {cause(error)}") from None
    with file:
        yield file


def _damaged(path: Path, fault: str) -> ArtifactError:
    return ArtifactError(path, f"not a sound artifact: {fault}", "make it again with --force")


def parse_header(path: Path, file: BinaryIO) -> Header:
    """Read the header of an open file; see ``read_header``."""
    raw = _header_bytes(path, file)
    size = os.fstat(file.fileno()).st_size
    try:
        # Bytes would let json guess UTF-16, a byte order mark and lone surrogates.
        document = json.loads(raw.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise _damaged(path, "the header is not JSON without duplicate keys") from None
    if not isinstance(document, dict):
        raise _damaged(path, "the header is not a mapping")
    metadata = document.pop("__metadata__", None)
    tensors, spans = _tensors(path, document, 8 + len(raw), size)
    if not isinstance(metadata, dict) or list(metadata) != ["ltcli"]:
        raise ArtifactError(path, "not written by ltcli: it has no ltcli metadata")
    try:
        found = json.loads(metadata["ltcli"], object_pairs_hook=_no_duplicates)
        # json reads NaN, 1e999 and lone surrogates, which no sound file holds; writing refuses.
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
        for name, wanted in _FIELDS.items():
            # Not isinstance: True is an int.
            if type(found[name]) is not wanted:
                raise TypeError(name)
        # A terminal shows these, and obeys characters that are not printable.
        shown = "".join((found["kind"], found["stage"], found["ltcli"], *found["inputs"]))
        hashes = (found["digest"], *found["inputs"].values())
        if not shown.isprintable() or not all(map(_SHA256.fullmatch, hashes)):
            raise ValueError(shown)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path, "its ltcli metadata is incomplete or malformed") from None
    kind = KINDS.get(found["kind"])
    if kind is None:
        raise ArtifactError(path, f"unknown kind '{found['kind'][:80]}'")
    # No conversion of old files: their numbers would depend on code that nobody tests.
    if found["kind_version"] != kind.version:
        rule = f"{kind.name} version must be {kind.version}, got {found['kind_version']}"
        raise ArtifactError(path, rule, "make it again with this version of ltcli")
    check_schema(path, kind, tensors, found["info"])
    known = {name: found[name] for name in _FIELDS if name != "ltcli"}
    return Header(path, writer=found["ltcli"], tensors=tensors, spans=spans, **known)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError
    return mapping


def _header_bytes(path: Path, file: BinaryIO) -> bytes:
    try:
        file.seek(0)
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        # The shortest mapping, {}, has 2 bytes.
        if len(prefix) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
            raise _damaged(path, "it does not start with a safetensors header")
        raw = file.read(length)
    except OSError as error:
        raise ArtifactError(path, f"cannot be read: {cause(error)}") from None
    if len(raw) < length:
        raise _damaged(path, "it ends inside the header")
    return raw


def read_into(path: Path, file: BinaryIO, memory: memoryview, position: int) -> None:
    """Fill memory with the bytes of an open file from a position on, or raise ArtifactError."""
    while memory:
        try:
            count = os.preadv(file.fileno(), [memory], position)
        except OSError as error:
            raise ArtifactError(path, f"cannot be read: {cause(error)}") from None
        if not count:
            raise ArtifactError(path, "cannot be read: it has become shorter")
        memory, position = memory[count:], position + count


def _tensors(
    path: Path, document: dict[str, Any], data_start: int, file_size: int
) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, tuple[int, int]]]:
    """Return name to (dtype, shape) and name to span: the tensors fill the file to its end."""
    if len(document) > MAX_TENSORS:
        raise _damaged(path, f"it has more than {MAX_TENSORS} tensors")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    spans: dict[str, tuple[int, int]] = {}
    for name, entry in document.items():
        try:
            dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            numbers = (*shape, start, end)
            sound = (
                set(entry) == {"dtype", "shape", "data_offsets"}
                and isinstance(shape, list)
                and len(shape) <= MAX_AXES
                and set(map(type, numbers)) == {int}
                and 0 <= min(numbers) <= max(numbers) < 2**48
                # No overflow hides behind an axis of size zero.
                and math.prod(filter(None, shape)) < 2**48
                and end - start == math.prod(shape) * DTYPE_BYTES[dtype]
            )
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            # Clipped, as a forged name may be long.
            raise _damaged(path, f"tensor {name[:80]!r} has a forged entry")
        tensors[name] = (dtype, tuple(shape))
        spans[name] = data_start + start, data_start + end
    position = data_start
    # Without gaps and overlaps, every byte of the file belongs to one tensor that the schema
    # checks.
    for start, end in sorted(spans.values()):
        if start != position:
            raise _damaged(path, "its tensors overlap or leave a hole")
        position = end
    if position != file_size:
        held, named = file_size - data_start, position - data_start
        raise _damaged(path, f"it holds {held} bytes of tensors instead of {named}")
    return tensors, spans


def check_digest(header: Header, file: BinaryIO, wanted: Mapping[str, memoryview]) -> None:
    """Raise ArtifactError where the digest in the header is not that of the open file.

    The same pass over the file copies the tensors named in ``wanted`` into the memory given there.
    Nobody may use that memory if this function raises.
    """
    raw = _header_bytes(header.path, file)
    match = _DIGEST.search(raw)
    if match is None:
        raise _damaged(header.path, "it has no digest")
    digest = hashlib.sha256(len(raw).to_bytes(8, "little"))
    # No digest can contain itself, so blanks stand in its place.
    digest.update(raw[: match.start(1)] + BLANK_DIGEST.encode() + raw[match.end(1) :])
    unwanted = memoryview(bytearray(PIECE))
    for name, (start, end) in sorted(header.spans.items(), key=itemgetter(1)):
        # Pieces end at multiples of their size, as large pages of the page cache do.
        for cut in range(start - start % PIECE, end, PIECE):
            first, stop = max(start, cut), min(end, cut + PIECE)
            memory = wanted[name][first - start :] if name in wanted else unwanted
            memory = memory[: stop - first]
            read_into(header.path, file, memory, first)
            digest.update(memory)
    if digest.hexdigest() != header.digest:
        hint = "make it again with --force"
        raise ArtifactError(header.path, "content does not match its digest", hint)
