"""Artifacts written whole or not at all, and tensors loaded only from sound files."""

import functools
import hashlib
import json
import logging
import mmap
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch

from ltcli import __version__
from ltcli.artifacts.header import (
    BLANK_DIGEST,
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    PIECE,
    Header,
    check_digest,
    opened,
    parse_header,
    read_into,
)
from ltcli.artifacts.kinds import KINDS
from ltcli.artifacts.schema import check_schema, check_values
from ltcli.core.errors import ArtifactError, NumericalError, ResourceError, cause, disk_full

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# In a file tensors come from the last of these dtypes to the first, and then by name: safetensors'
# own order, which aligns all of them.
_DTYPES = {"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16}
_DTYPES |= {"F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32}
_DTYPES |= {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
_NAMES = dict(zip(_DTYPES.values(), _DTYPES, strict=True))
# Bytes from which memory for a tensor is asked for in huge pages.
_LARGE = 4 * 2**20


class Artifact:
    """An open artifact. Header, digest and tensors come from one descriptor.

    The first load, also one of no tensor, verifies every byte of the file while it reads.
    """

    def __init__(self, header: Header, file: BinaryIO) -> None:
        """Take over an open file."""
        self.header, self._file, self._verified = header, file, False
        self._kind = KINDS[header.kind]
        self._sizes = check_schema(header.path, self._kind, header.tensors, header.info)

    def load(self, *names: str, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """Return tensors by name, loaded straight to a device.

        A name that ends in ``*`` loads every tensor with that prefix, and drops the prefix.

        Raises:
            ArtifactError: A tensor is missing, holds NaN or infinity, or breaks its schema, or a
                byte was altered.
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
        path, spans = self.header.path, self.header.spans
        memory = {name: _memory(spans[name][1] - spans[name][0]) for name in wanted}
        if self._verified:
            for name, flat in memory.items():
                read_into(path, self._file, _bytes(flat), spans[name][0])
        else:
            into = {name: _bytes(flat) for name, flat in memory.items()}
            check_digest(self.header, self._file, into)
            self._verified = True
        loaded = {}
        for name, short in wanted.items():
            dtype, shape = self.header.tensors[name]
            tensor = memory.pop(name).view(_DTYPES[dtype]).view(shape)
            if not is_finite(tensor):
                raise ArtifactError(path, f"{name} must be finite, got NaN or infinity")
            self._check(name, tensor)
            loaded[short] = tensor.to(device)
        return loaded

    def tensor(self, name: str, device: str | torch.device = "cpu") -> torch.Tensor:
        """Load one tensor; see ``load``."""
        return self.load(name, device=device)[name]

    def rows(self, name: str) -> "StoredRows":
        """Return one tensor whose rows are read when they are indexed."""
        if name not in self.header.tensors:
            raise ArtifactError(self.header.path, f"has no tensor {name}")
        self.load()  # Verifies the file.
        return StoredRows(self.header, self._file, name, functools.partial(self._check, name))

    def _check(self, name: str, tensor: torch.Tensor) -> None:
        header = self.header
        check_values(header.path, self._kind, self._sizes, header.info, name, tensor)


@contextmanager
def open_artifact(path: Path) -> Iterator[Artifact]:
    """Open an artifact, or raise ArtifactError, at the latest on leaving, for an altered byte."""
    with opened(path) as file:
        artifact = Artifact(parse_header(path, file), file)
        try:
            yield artifact
        finally:
            # Verifies what was not loaded, after an error too: an altered byte may have led to it.
            artifact.load()


def _memory(size: int) -> torch.Tensor:
    """Memory of that many bytes, uint8 [size]."""
    if size >= _LARGE and sys.platform == "linux":
        # The kernel takes as long to hand out small pages as to fill them from the page cache.
        # Without huge pages, or memory, torch tries, and says what is wrong.
        with suppress(OSError):
            pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            pages.madvise(mmap.MADV_HUGEPAGE)
            return torch.frombuffer(pages, dtype=torch.uint8)
    return torch.empty(size, dtype=torch.uint8)


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    # Along an axis of one or no value, torch calls any stride contiguous.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity, without a copy of it."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # The least and the largest value are NaN if any value is.
    low, high = tensor.aminmax()
    return bool(low.isfinite() and high.isfinite())


class StoredRows:
    """Rows of one tensor in an open artifact, read when they are indexed; none are kept.

    ``shape`` is that of the whole tensor.
    """

    def __init__(
        self, header: Header, file: BinaryIO, name: str, check: Callable[[torch.Tensor], None]
    ) -> None:
        """Find one tensor in a file whose digest was checked."""
        self._check = check
        dtype, shape = header.tensors[name]
        self.shape, self._dtype = torch.Size(shape), _DTYPES[dtype]
        self._path, self._name, self._file = header.path, name, file
        self._start = header.spans[name][0]

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """Return the rows [B, ...] at the positions int64 [B], each in 0 ... N - 1, on the CPU.

        Raises:
            ArtifactError: A row cannot be read, holds NaN or infinity, or breaks its schema.
        """
        rows = torch.empty(len(index), *self.shape[1:], dtype=self._dtype)
        if not rows.numel():
            return rows
        width, memory = rows[0].nbytes, _bytes(rows)
        # A run of positions that follow each other is one piece of the file.
        first = [0, *((index.diff() != 1).nonzero().flatten() + 1).tolist(), len(index)]
        starts = index[first[:-1]].tolist()
        for start, begin, end in zip(starts, first[:-1], first[1:], strict=True):
            own = memory[begin * width : end * width]
            read_into(self._path, self._file, own, self._start + start * width)
        if not is_finite(rows):
            raise ArtifactError(self._path, f"{self._name} must be finite, got NaN or infinity")
        self._check(rows)
        return rows


def save(
    path: Path,
    kind_name: str,
    tensors: Mapping[str, torch.Tensor],
    *,
    stage: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    info: Mapping[str, Any],
    whole: Callable[[str], None] = lambda _digest: None,
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
        whole: Called with the digest when all is written, before the file takes its place.

    Raises:
        NumericalError: A tensor holds NaN or infinity.
        ResourceError: The disk is full, the file cannot be written, or holds too many tensors or
            too much metadata to be read again.
    """
    kind = KINDS[kind_name]
    ready: dict[str, torch.Tensor] = {}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    size = 0
    for name, tensor in tensors.items():
        ready[name] = own = tensor.detach().cpu().contiguous()
        if not is_finite(own):
            raise NumericalError(stage, f"{name} must be finite, got NaN or infinity")
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
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    # As it will be read: tuples are lists then.
    check_schema(path, kind, shapes, json.loads(text)["info"])
    # One metadata key: with several, other writers of safetensors order them as they like.
    document: dict[str, Any] = {"__metadata__": {"ltcli": text}}
    in_order = sorted(ready)
    names = [n for dtype in reversed(_DTYPES) for n in in_order if shapes[n][0] == dtype]
    end = 0
    for name in names:
        dtype, shape = shapes[name]
        start, end = end, end + ready[name].nbytes
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(document, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    header = len(raw).to_bytes(8, "little") + raw
    # A file beyond these limits could not be read again.
    metadata = "bytes of metadata", len(header), MAX_HEADER_BYTES
    for noun, got, most in (("tensors", len(ready), MAX_TENSORS), metadata):
        if got > most:
            raise ResourceError(path, f"number of {noun} must be at most {most}, got {got}")

    def write(file: BinaryIO) -> str:
        digest = hashlib.sha256()
        end = 0
        for block in [memoryview(header), *[_bytes(ready[name]) for name in names]]:
            start, end = end, end + len(block)
            # In the pieces in which ``check_digest`` reads.
            for cut in range(start - start % PIECE, end, PIECE):
                piece = block[max(start, cut) - start : cut + PIECE - start]
                digest.update(piece)
                file.write(piece)
        # The digest is the first key of the first entry.
        file.seek(header.index(BLANK_DIGEST.encode()))
        file.write(digest.hexdigest().encode())
        whole(digest.hexdigest())
        return digest.hexdigest()

    return _replaced(path, size + len(text), write)


def save_bytes(path: Path, content: bytes) -> None:
    """Write one file, or leave it as it was and raise ResourceError."""
    _replaced(path, len(content), lambda file: file.write(content))


def _replaced(path: Path, size: int, write: Callable[[BinaryIO], _T]) -> _T:
    """Move the file that ``write`` fills to a path in one step, and return its result.

    ``size`` is the least size of the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(path.parent)
        # Some network file systems know no size, and say zero.
        if disk.total and size > disk.free:
            rule = f"needs {size / 1e6:,.1f} MB of disk, {disk.free / 1e6:,.1f} MB are free"
            raise ResourceError(path, rule, "free some space or choose another folder")
        # Nobody else may change the file before it is whole.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            # Blocks that are asked for at once take less time; what is lacking shows in the end.
            with suppress(AttributeError, OSError):
                os.posix_fallocate(descriptor, 0, size)
            result = write(file)
            file.flush()
            umask = os.umask(0)  # The only way to read the umask is to set it.
            os.umask(umask)
            os.fchmod(descriptor, 0o666 & ~umask)
            os.fsync(descriptor)
        os.replace(temporary, path)
        # Without this a power cut may undo the rename.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # Some network file systems refuse to sync a folder; the rename itself has happened.
            with suppress(OSError):
                os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return result


def _unwritable(path: Path, error: Exception) -> ResourceError:
    if disk_full(error):
        return ResourceError(path, "the disk is full", "free some space and run again")
    return ResourceError(path, f"cannot be written: {cause(error)}", "choose another --out")


@contextmanager
def locked(path: Path, *also: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of an output; yield whether another process had it first.

    The folder is made. Leftovers of killed writers are removed, as only the holder of the lock
    writes the output and the files named ``also`` beside it.

    Raises:
        ResourceError: The folder cannot be written; or, unless it is to ``wait``, another process
            has the lock.
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
            if not wait:
                raise ResourceError(path, "another process writes it") from None
            waited = True
            logger.info("%s: waiting for the process that writes it", path)
            lock.acquire()
        names = "|".join(map(re.escape, (path.name, *also)))
        orphan = re.compile(rf"\.({names})\.[0-9]+\.[0-9a-f]{{8}}\.tmp")
        for left in path.parent.iterdir():
            if orphan.fullmatch(left.name):
                with suppress(OSError):
                    left.unlink()
    except (OSError, NotImplementedError) as error:
        raise _unwritable(path, error) from None
    try:
        yield waited
    finally:
        lock.release()
