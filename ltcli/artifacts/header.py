"""Read and verify an artifact's header with the standard library alone.

An artifact is a safetensors file: eight bytes of header length, a JSON header, then the tensors.
Its ``__metadata__`` has one key, ``ltcli``, whose value is sorted JSON. One field of that is
``digest``: the SHA-256 of the whole file with the digest's own 64 characters read as zeros, so
that one altered bit anywhere is noticed.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ltcli.artifacts.kinds import KINDS, Kind, Tensor
from ltcli.core.errors import ArtifactError, cause
from ltcli.core.files import open_regular

MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 20_000
MAX_AXES = 16
BLANK_DIGEST = "0" * 64
DTYPE_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8} | {
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "F64": 8,
}
# One level of escaping: the same words inside a class name would carry two.
_DIGEST = re.compile(rb'\\"digest\\":\\"([0-9a-f]{64})\\"')
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_CHUNK = 4 * 2**20
_FACTS = {"kind": str, "stage": str, "ltcli": str, "digest": str, "kind_version": int} | {
    "parameters": dict,
    "inputs": dict,
    "info": dict,
}


@dataclass(frozen=True)
class Header:
    """The provenance and the tensor list at the start of an artifact.

    Attributes:
        path: The file it was read from.
        kind: Name of its kind.
        kind_version: Version of the kind's schema.
        stage: The stage that made it.
        parameters: The parameters of that stage.
        inputs: Role to SHA-256 of each input.
        info: Metadata of the kind: class names, backbone and so on.
        digest: SHA-256 that identifies the content.
        writer: Version of ltcli that wrote the file.
        tensors: Name to (dtype, shape).
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
        check_digest(header, file)
        return header


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


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(path, f"not a sound artifact: {what}", "make it again with --force")


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
    tensors = _tensors(path, document, size - 8 - len(raw))
    if not isinstance(metadata, dict) or list(metadata) != ["ltcli"]:
        raise ArtifactError(path, "not written by ltcli: it has no ltcli metadata")
    try:
        facts = json.loads(metadata["ltcli"], object_pairs_hook=_no_duplicates)
        # json reads NaN, 1e999 and lone surrogates, which no sound file holds; writing refuses.
        json.dumps(facts, allow_nan=False, ensure_ascii=False).encode()
        for name, wanted in _FACTS.items():
            # Not isinstance: True is an int.
            if type(facts[name]) is not wanted:
                raise TypeError(name)
        inputs = facts["inputs"]
        # These are shown on a terminal, which obeys what is not printable.
        shown = "".join((facts["kind"], facts["stage"], facts["ltcli"], *inputs))
        hashes = (facts["digest"], *inputs.values())
        if not shown.isprintable() or not all(map(_SHA256.fullmatch, hashes)):
            raise ValueError(shown)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path, "its ltcli metadata is incomplete or malformed") from None
    kind = KINDS.get(facts["kind"])
    if kind is None:
        raise ArtifactError(path, f"unknown kind '{facts['kind'][:80]}'")
    if facts["kind_version"] != kind.version:
        rule = f"{kind.name} version must be {kind.version}, got {facts['kind_version']}"
        raise ArtifactError(path, rule, "make it again with this version of ltcli")
    check_schema(path, kind, tensors, facts["info"])
    return Header(
        path,
        kind.name,
        kind.version,
        facts["stage"],
        facts["parameters"],
        inputs,
        facts["info"],
        facts["digest"],
        facts["ltcli"],
        tensors,
    )


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError
    return mapping


def _header_bytes(path: Path, file: BinaryIO) -> bytes:
    file.seek(0)
    prefix = _read(path, file, 8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
        raise _damaged(path, "it does not start with a safetensors header")
    raw = _read(path, file, length)
    if len(raw) < length:
        raise _damaged(path, "it ends inside the header")
    return raw


def _read(path: Path, file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise ArtifactError(path, f"cannot be read: {cause(error)}") from None


def _tensors(
    path: Path, document: dict[str, Any], data_bytes: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name to (dtype, shape), where the tensors fill the rest of the file exactly."""
    if len(document) > MAX_TENSORS:
        raise _damaged(path, f"it has more than {MAX_TENSORS} tensors")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    spans: list[tuple[int, int]] = []
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
            raise _damaged(path, f"tensor {name[:80]!r} has a forged entry")
        tensors[name] = (dtype, tuple(shape))
        spans.append((start, end))
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise _damaged(path, "its tensors overlap or leave a hole")
        position = end
    if position != data_bytes:
        raise _damaged(path, f"it holds {data_bytes} bytes of tensors instead of {position}")
    return tensors


def check_schema(
    where: object, kind: Kind, tensors: dict[str, tuple[str, tuple[int, ...]]], info: object
) -> None:
    """Check names, dtypes, axes and metadata of a file against its kind.

    Args:
        where: The file, for error messages.
        kind: The schema.
        tensors: Name to (dtype, shape), as in a safetensors header.
        info: The header's ``info``.

    Raises:
        ArtifactError: Anything differs from the schema.
    """
    if not isinstance(info, dict):
        raise ArtifactError(where, "info must be a mapping")
    for key in kind.metadata:
        if key not in info:
            raise ArtifactError(where, f"{kind.name} metadata must have {key}")
    exact: dict[str, Tensor] = {}
    prefixes: tuple[str, ...] = ()
    for spec in kind.tensors:
        present = spec.name in tensors
        if spec.name.endswith("*"):
            prefixes += (spec.name[:-1],)
            present = any(name.startswith(prefixes[-1]) for name in tensors)
        else:
            exact[spec.name] = spec
        if spec.required and not present:
            raise ArtifactError(where, f"{kind.name} must have tensor {spec.name}")
    # One axis letter is one size within a file; the second part says who set it.
    sizes: dict[str, tuple[int, str]] = {}
    if "class_names" in kind.metadata:
        sizes["C"] = (_num_classes(where, info), "class_names")
    for name, (dtype, shape) in sorted(tensors.items()):
        if not _TENSOR_NAME.fullmatch(name):
            rule = f"tensor names must be letters, digits, dots and dashes, got {name[:80]!r}"
            raise ArtifactError(where, rule)
        if name in exact:
            _check_tensor(where, exact[name], dtype, shape, sizes)
        elif not name.startswith(prefixes):
            raise ArtifactError(where, f"{kind.name} has no tensor {name}")


def _num_classes(where: object, info: dict[str, Any]) -> int:
    names, counts = info["class_names"], info["class_counts"]
    if not isinstance(names, list) or not set(map(type, names)) <= {str}:
        raise ArtifactError(where, "class_names must be a list of text")
    # Not isinstance: True is an int.
    if (
        not isinstance(counts, list)
        or not set(map(type, counts)) <= {int}
        or min(counts, default=0) < 0
    ):
        raise ArtifactError(where, "class_counts must be a list of counts")
    if len(counts) != len(names):
        rule = f"axis C is {len(counts)} in class_counts but {len(names)} in class_names"
        raise ArtifactError(where, rule)
    return len(names)


def _check_tensor(
    where: object,
    spec: Tensor,
    dtype: str,
    shape: tuple[int, ...],
    sizes: dict[str, tuple[int, str]],
) -> None:
    if spec.dtypes and dtype not in spec.dtypes:
        rule = f"{spec.name} must be {' or '.join(spec.dtypes)}, got {dtype}"
        raise ArtifactError(where, rule)
    axes = spec.axes or ()
    if len(axes) != len(shape):
        shown = ", ".join(map(str, axes))
        raise ArtifactError(where, f"{spec.name} must have axes [{shown}], got {list(shape)}")
    for axis, size in zip(axes, shape, strict=True):
        known, owner = (axis, "the schema")
        if isinstance(axis, str):
            known, owner = sizes.setdefault(axis, (size, spec.name))
        if size != known:
            rule = f"axis {axis} is {size} in {spec.name} but {known} in {owner}"
            raise ArtifactError(where, rule)


def check_digest(header: Header, file: BinaryIO) -> None:
    """Compare the digest in the header with that of the open file.

    Raises:
        ArtifactError: They differ.
    """
    found, _ = file_digest(header.path, file)
    if found != header.digest:
        hint = "make it again with --force"
        raise ArtifactError(header.path, "content does not match its digest", hint)


def file_digest(path: Path, file: BinaryIO) -> tuple[str, int]:
    """Hash an open artifact with its digest read as zeros.

    Returns:
        The SHA-256 in hex and the position of the digest's first character in the file.
    """
    raw = _header_bytes(path, file)
    match = _DIGEST.search(raw)
    if match is None:
        raise _damaged(path, "it has no digest")
    start, end = match.span(1)
    digest = hashlib.sha256(len(raw).to_bytes(8, "little"))
    digest.update(raw[:start] + BLANK_DIGEST.encode() + raw[end:])
    while chunk := _read(path, file, _CHUNK):
        digest.update(chunk)
    return digest.hexdigest(), 8 + start
