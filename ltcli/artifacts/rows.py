"""Rows of a tensor in an open artifact, read when they are asked for."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, BinaryIO

from ltcli.core.errors import ArtifactError, cause

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity, without a copy of it."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # Either end is NaN if any value is.
    return all(bool(end.isfinite()) for end in tensor.aminmax())


class StoredRows:
    """A tensor of an open artifact, of which rows are read and nothing else is kept.

    Rows that follow each other are read at once. safetensors' own slices read the whole tensor for
    every slice where the file is not mapped, and files are not mapped: they may be replaced.

    Attributes:
        shape: Of the whole tensor.
    """

    def __init__(self, header: Header, file: BinaryIO, name: str, dtype: torch.dtype) -> None:
        """Find where the tensor starts in a file whose digest was checked."""
        import torch

        self.shape = torch.Size(header.tensors[name][1])
        self._path, self._name, self._dtype = header.path, name, dtype
        self._descriptor = file.fileno()
        length = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
        entries = json.loads(os.pread(self._descriptor, length, 8))
        self._start = 8 + length + entries[name]["data_offsets"][0]

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """Return the rows at some positions, on the CPU.

        Args:
            index: int64 [B], each in 0 ... N - 1.

        Returns:
            The rows, [B, ...].

        Raises:
            ArtifactError: A row cannot be read, or holds NaN or infinity.
        """
        import torch

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
