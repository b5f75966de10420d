"""Write artifacts whole or not at all, and load tensors only from files that are sound."""

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
)
from ltcli.artifacts.header import parse_header as _parse_header
from ltcli.artifacts.kinds import KINDS
from ltcli.artifacts.rows import StoredRows, is_finite
from ltcli.artifacts.schema import check_schema
from ltcli.core.errors import ArtifactError, NumericalError, ResourceError, cause, disk_full

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_DTYPES = {"BOOL": torch.bool, "U8": torch.uint8, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPES |= {"I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64}
_DTYPES |= {"F32": torch.float32, "F64": torch.float64}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class Artifact:
    """An open, verified artifact. Header, digest and tensors come from one descriptor."""

    def __init__(self, header: Header, file: BinaryIO) -> None:
        """Take over an open file whose digest was checked."""
        self.header = header
        self._file = file

    def load(self, *names: str, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """Load tensors straight to a device.

        Args:
            names: Tensor names; a name that ends in ``*`` loads every tensor with that prefix and
                drops the prefix from its name.
            device: Where to put them.

        Raises:
            ArtifactError: A tensor is missing or holds NaN or infinity.
        """
        wanted: dict[str, str] = {}
        for name in names:
            if name.endswith("*"):
                prefix = name[:-1]
                found = [known for known in self.header.tensors if known.startswith(prefix)]
                wanted |= {known: known[len(prefix) :] for known in found}
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
                    loaded[short] = _finite(self.header.path, name, file.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise ArtifactError(self.header.path, f"cannot be read: {error}") from None
        return loaded

    def tensor(self, name: str, device: str | torch.device = "cpu") -> torch.Tensor:
        """Load one tensor; see ``load``."""
        return self.load(name, device=device)[name]

    def rows(self, name: str) -> StoredRows:
        """Return one tensor whose rows are read when they are asked for."""
        if name not in self.header.tensors:
            raise ArtifactError(self.header.path, f"has no tensor {name}")
        return StoredRows(self.header, self._file, name, _DTYPES[self.header.tensors[name][0]])


def _finite(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not is_finite(tensor):
        raise ArtifactError(path, f"{name} must be finite, got NaN or infinity")
    return tensor


@contextmanager
def open_artifact(path: Path) -> Iterator[Artifact]:
    """Open an artifact and verify every byte of it.

    Raises:
        ArtifactError: It is missing, damaged, or not an artifact.
    """
    with opened(path) as file:
        header = _parse_header(path, file)
        check_digest(header, file)
        yield Artifact(header, file)


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
    """Write one artifact atomically.

    Args:
        path: The file; it is replaced as a whole or left as it was.
        kind_name: Name of the kind, whose schema is checked.
        tensors: Name to tensor, on any device.
        stage: The stage that made them.
        parameters: Its parameters, plain JSON values.
        inputs: Role to SHA-256 of each input.
        info: The kind's metadata, plain JSON values.

    Returns:
        The digest.

    Raises:
        NumericalError: A tensor holds NaN or infinity.
        ResourceError: The disk is full, the file cannot be written, or holds too many tensors or
            too much metadata to be read again.
    """
    kind = KINDS[kind_name]
    ready = _ready(tensors)
    for name, tensor in ready.items():
        if not is_finite(tensor):
            raise NumericalError(stage, f"{name} must be finite, got NaN or infinity")
    shapes = {name: (_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in ready.items()}
    check_schema(path, kind, shapes, dict(info))
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
    _check_limits(path, len(ready), len(json.dumps(text)))
    _check_space(path, sum(tensor.nbytes for tensor in ready.values()) + len(text))

    def write(temporary: Path) -> str:
        save_file(ready, temporary, metadata={"ltcli": text})
        return _seal(temporary)

    return _replaced(path, write)


def save_bytes(path: Path, content: bytes) -> None:
    """Write one file; what is there is replaced as a whole or left as it was.

    Raises:
        ResourceError: The disk is full or the file cannot be written.
    """
    _check_space(path, len(content))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    _replaced(path, write)


def _replaced(path: Path, write: Callable[[Path], _T]) -> _T:
    """Put what ``write`` writes at a path in one step, and return what it returns."""
    # A folder, as safetensors writes by way of a temporary file whose name is its own choice.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(mode=0o700)
        result = write(temporary / path.name)
        os.replace(temporary / path.name, path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def _ready(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors on the CPU, contiguous, no two in one memory: safetensors refuses those."""
    ready: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        memory = own.untyped_storage().data_ptr()
        ready[name] = own.clone() if memory in taken else own
        taken.add(memory)
    return ready


def _seal(temporary: Path) -> str:
    """Put the digest into a freshly written file and bring it to the disk."""
    umask = os.umask(0)
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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems refuse to sync a folder; the rename itself has happened.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_limits(path: Path, tensors: int, metadata: int) -> None:
    """Refuse what could not be read again, before it is written.

    Raises:
        ResourceError: There are too many tensors, or bytes of metadata.
    """
    limits = {"tensors": (tensors, MAX_TENSORS), "bytes of metadata": (metadata, MAX_HEADER_BYTES)}
    for what, (got, most) in limits.items():
        if got > most:
            raise ResourceError(path, f"number of {what} must be at most {most}, got {got}")


def _check_space(path: Path, needed: int) -> None:
    try:
        disk = shutil.disk_usage(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    # Some network file systems know no size, and say zero.
    if disk.total and needed > disk.free:
        rule = f"needs {needed / 1e6:,.1f} MB of disk, {disk.free / 1e6:,.1f} MB are free"
        raise ResourceError(path, rule, "free some space or choose another folder")


def _unwritable(path: Path, error: Exception) -> ResourceError:
    # What safetensors raises has no number, only words.
    if disk_full(error) or re.search("No space left|File too large", str(error)):
        return ResourceError(path, "the disk is full", "free some space and run again")
    return ResourceError(path, f"cannot be written: {cause(error)}", "choose another --out")


@contextmanager
def locked(path: Path, *also: Path) -> Iterator[None]:
    """Hold the lock of an output; wait for another process that holds it.

    What a killed writer left half-written is removed, as only the holder of the lock writes.

    Args:
        path: The output.
        also: Files beside it that only the holder of this lock writes.

    Raises:
        ResourceError: The folder cannot be written.
    """
    from filelock import FileLock, Timeout

    place = path.with_name(f".{path.name}.lock")
    lock = FileLock(place, mode=0o666)
    try:
        # filelock waits for ever where it cannot create the file; this says why it cannot.
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with suppress(PermissionError):
            os.fchmod(descriptor, 0o666)
        os.close(descriptor)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("%s: waiting for the process that writes it", path)
            lock.acquire()
        for name in (path.name, *(other.name for other in also)):
            _remove_orphans(path.parent, name)
    except (OSError, NotImplementedError) as error:
        raise _unwritable(path, error) from None
    try:
        yield
    finally:
        lock.release()


def _remove_orphans(folder: Path, name: str) -> None:
    orphan = re.compile(rf"\.{re.escape(name)}\.[0-9]+\.[0-9a-f]{{8}}\.tmp")
    for path in folder.iterdir():
        if orphan.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
