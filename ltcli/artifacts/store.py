"""Artifacts written whole or not at all, and tensors loaded only from sound files."""

import functools
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ltcli import __version__
from ltcli.artifacts.header import (
    BLANK_DIGEST,
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    Header,
    check_digest,
    file_digest,
    opened,
    parse_header,
)
from ltcli.artifacts.kinds import KINDS
from ltcli.artifacts.schema import check_schema, check_values
from ltcli.core.errors import ArtifactError, NumericalError, ResourceError, cause, disk_full

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_DTYPES = {"BOOL": torch.bool, "U8": torch.uint8, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPES |= {"I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64}
_DTYPES |= {"F32": torch.float32, "F64": torch.float64}
_NAMES = dict(zip(_DTYPES.values(), _DTYPES, strict=True))


class Artifact:
    """An open, verified artifact. Header, digest and tensors come from one descriptor."""

    def __init__(self, header: Header, file: BinaryIO) -> None:
        """Take over an open file, or raise ArtifactError for an altered byte."""
        check_digest(header, file)
        self.header, self._file = header, file
        self._kind = KINDS[header.kind]
        self._sizes = check_schema(header.path, self._kind, header.tensors, header.info)

    def load(self, *names: str, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """Return tensors by name, loaded straight to a device.

        A name that ends in ``*`` loads every tensor with that prefix, and drops the prefix.

        Raises:
            ArtifactError: A tensor is missing, holds NaN or infinity, or breaks its schema.
        """
        wanted: dict[str, str] = {}
        for name in names:
            prefix = name.removesuffix("*")
            if prefix != name:
                for known in self.header.tensors:
                    if known.startswith(prefix):
                        wanted[known] = known[len(prefix) :]
            elif name in self.header.tensors:
                wanted[name] = name
            else:
                raise ArtifactError(self.header.path, f"has no tensor {name}")
        loaded = {}
        # /dev/fd names the descriptor whose digest was checked, even if the path was replaced;
        # pread gives private memory that nobody can truncate under us.
        source = f"/dev/fd/{self._file.fileno()}"
        try:
            with safe_open(source, framework="pt", device=str(device), backend="pread") as file:
                for name, short in wanted.items():
                    loaded[short] = file.get_tensor(name)
                    if not is_finite(loaded[short]):
                        rule = f"{name} must be finite, got NaN or infinity"
                        raise ArtifactError(self.header.path, rule)
                    self._check(name, loaded[short])
        except (OSError, SafetensorError) as error:
            raise ArtifactError(self.header.path, f"cannot be read: {error}") from None
        return loaded

    def tensor(self, name: str, device: str | torch.device = "cpu") -> torch.Tensor:
        """Load one tensor; see ``load``."""
        return self.load(name, device=device)[name]

    def rows(self, name: str) -> "StoredRows":
        """Return one tensor whose rows are read when they are indexed."""
        if name not in self.header.tensors:
            raise ArtifactError(self.header.path, f"has no tensor {name}")
        return StoredRows(self.header, self._file, name, functools.partial(self._check, name))

    def _check(self, name: str, tensor: torch.Tensor) -> None:
        header = self.header
        check_values(header.path, self._kind, self._sizes, header.info, name, tensor)


@contextmanager
def open_artifact(path: Path) -> Iterator[Artifact]:
    """Open an artifact and verify every byte of it, or raise ArtifactError."""
    with opened(path) as file:
        yield Artifact(parse_header(path, file), file)


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity, without a copy of it."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # The least and the largest value are NaN if any value is.
    low, high = tensor.aminmax()
    return bool(low.isfinite() and high.isfinite())


class StoredRows:
    """Rows of one tensor in an open artifact, read when they are indexed; none are kept.

    ``shape`` is that of the whole tensor. safetensors' own slices read the whole tensor for every
    slice where the file is not mapped, and files are not mapped: they may be replaced.
    """

    def __init__(
        self, header: Header, file: BinaryIO, name: str, check: Callable[[torch.Tensor], None]
    ) -> None:
        """Find the start of the tensor in a file whose digest was checked."""
        self._check = check
        dtype, shape = header.tensors[name]
        self.shape, self._dtype = torch.Size(shape), _DTYPES[dtype]
        self._path, self._name, self._descriptor = header.path, name, file.fileno()
        length = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
        entries = json.loads(os.pread(self._descriptor, length, 8))
        self._start = 8 + length + entries[name]["data_offsets"][0]

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """Return the rows [B, ...] at the positions int64 [B], each in 0 ... N - 1, on the CPU.

        Raises:
            ArtifactError: A row cannot be read, holds NaN or infinity, or breaks its schema.
        """
        rows = torch.empty(len(index), *self.shape[1:], dtype=self._dtype)
        if not rows.numel():
            return rows
        width = rows[0].nbytes
        memory = rows.view(torch.uint8).numpy().data.cast("B")
        # A run of positions that follow each other is one piece of the file.
        first = [0, *((index.diff() != 1).nonzero().flatten() + 1).tolist(), len(index)]
        starts = index[first[:-1]].tolist()
        for start, begin, end in zip(starts, first[:-1], first[1:], strict=True):
            self._read(memory[begin * width : end * width], self._start + start * width)
        if not is_finite(rows):
            raise ArtifactError(self._path, f"{self._name} must be finite, got NaN or infinity")
        self._check(rows)
        return rows

    def _read(self, memory: memoryview, position: int) -> None:
        while memory:
            try:
                count = os.preadv(self._descriptor, [memory], position)
            except OSError as error:
                raise ArtifactError(self._path, f"cannot be read: {cause(error)}") from None
            if not count:
                raise ArtifactError(self._path, "cannot be read: it has become shorter")
            memory, position = memory[count:], position + count


def save(
    path: Path,
    kind_name: str,
    tensors: Mapping[str, torch.Tensor],
    *,
    stage: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    info: Mapping[str, Any],
) -> str:
    """Write one artifact, or leave the file as it was; return its digest.

    Args:
        path: File to write.
        kind_name: Kind whose schema the content is checked against.
        tensors: Name to tensor, on any device.
        stage: Stage that made them.
        parameters: Parameters of the stage, plain JSON values.
        inputs: Role to SHA-256 of each input.
        info: Metadata of the kind, plain JSON values.

    Raises:
        NumericalError: A tensor holds NaN or infinity.
        ResourceError: The disk is full, the file cannot be written, or holds too many tensors or
            too much metadata to be read again.
    """
    kind = KINDS[kind_name]
    ready: dict[str, torch.Tensor] = {}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    taken: set[int] = set()
    size = 0
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        if not is_finite(own):
            raise NumericalError(stage, f"{name} must be finite, got NaN or infinity")
        # safetensors refuses two tensors in one memory.
        memory = own.untyped_storage().data_ptr()
        ready[name] = own.clone() if memory in taken else own
        taken.add(memory)
        shapes[name] = (_NAMES[own.dtype], tuple(own.shape))
        size += own.nbytes
    facts = {
        "digest": BLANK_DIGEST,
        "info": dict(info),
        "inputs": dict(inputs),
        "kind": kind.name,
        "kind_version": kind.version,
        "ltcli": __version__,
        "parameters": dict(parameters),
        "stage": stage,
    }
    # One metadata key: with several, safetensors orders them differently in every process.
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    # As it will be read: tuples are lists then.
    check_schema(path, kind, shapes, json.loads(text)["info"])
    # A file beyond these limits could not be read again.
    metadata = "bytes of metadata", len(json.dumps(text)), MAX_HEADER_BYTES
    for noun, got, most in (("tensors", len(ready), MAX_TENSORS), metadata):
        if got > most:
            raise ResourceError(path, f"number of {noun} must be at most {most}, got {got}")

    def write(temporary: Path) -> str:
        save_file(ready, temporary, metadata={"ltcli": text})
        return _seal(temporary)

    return _replaced(path, size + len(text), write)


def save_bytes(path: Path, content: bytes) -> None:
    """Write one file, or leave it as it was and raise ResourceError."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    _replaced(path, len(content), write)


def _replaced(path: Path, size: int, write: Callable[[Path], _T]) -> _T:
    """Move the file that ``write`` makes to a path in one step, and return its result."""
    # A folder, as safetensors writes by way of a temporary file whose name is its own choice.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(path.parent)
        # Some network file systems know no size, and say zero.
        if disk.total and size > disk.free:
            rule = f"needs {size / 1e6:,.1f} MB of disk, {disk.free / 1e6:,.1f} MB are free"
            raise ResourceError(path, rule, "free some space or choose another folder")
        temporary.mkdir(mode=0o700)  # Nobody else may change the file before it is sealed.
        result = write(temporary / path.name)
        os.replace(temporary / path.name, path)
        # Without this a power cut may undo the rename.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # Some network file systems refuse to sync a folder; the rename itself has happened.
            with suppress(OSError):
                os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def _seal(temporary: Path) -> str:
    """Put the digest into a freshly written file and bring it to the disk."""
    umask = os.umask(0)  # The only way to read the umask is to set it.
    os.umask(umask)
    with temporary.open("r+b") as file:
        digest, position = file_digest(temporary, file)
        file.seek(position)
        file.write(digest.encode())
        file.flush()
        # safetensors writes with mode 0600 whatever the umask, and never syncs.
        os.fchmod(file.fileno(), 0o666 & ~umask)
        os.fsync(file.fileno())
    return digest


def _unwritable(path: Path, error: Exception) -> ResourceError:
    # Errors of safetensors have no number, only words.
    if disk_full(error) or re.search("No space left|File too large", str(error)):
        return ResourceError(path, "the disk is full", "free some space and run again")
    return ResourceError(path, f"cannot be written: {cause(error)}", "choose another --out")


@contextmanager
def locked(path: Path, *also: str) -> Iterator[bool]:
    """Hold the lock of an output; yield whether another process had it first.

    The folder is made. Leftovers of killed writers are removed, as only the holder of the lock
    writes the output and the files named ``also`` beside it.

    Raises:
        ResourceError: The folder cannot be written.
    """
    from filelock import FileLock, Timeout

    place = path.with_name(f".{path.name}.lock")
    lock = FileLock(place, mode=0o666)  # Other users of a shared folder must be able to lock it.
    waited = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # filelock waits for ever where it cannot create the file; this says why it cannot.
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with suppress(PermissionError):
            os.fchmod(descriptor, 0o666)
        os.close(descriptor)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waited = True
            logger.info("%s: waiting for the process that writes it", path)
            lock.acquire()
        names = "|".join(map(re.escape, (path.name, *also)))
        orphan = re.compile(rf"\.({names})\.[0-9]+\.[0-9a-f]{{8}}\.tmp")
        for left in path.parent.iterdir():
            if orphan.fullmatch(left.name):
                shutil.rmtree(left, ignore_errors=True)
    except (OSError, NotImplementedError) as error:
        raise _unwritable(path, error) from None
    try:
        yield waited
    finally:
        lock.release()
