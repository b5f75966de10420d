"""Classes in chunks: on a GPU one product serves many classes, on a CPU each has its own.

A GPU waits for the launch of a product longer than for the product. A CPU is faster with small
ones, which stay in its cache.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ltcli.compute.transfer import to_device

_BATCHED = ("cuda",)
# Elements of the largest tensor of a chunk; 256 MB in float32.
_BUDGET = 2**26


def batched(device: torch.device) -> bool:
    """Whether the classes of a batch share products on a device."""
    return device.type in _BATCHED


def chunks(count: int, each: int) -> Iterator[slice]:
    """Slices of ``count`` classes, of which each takes ``each`` elements of memory."""
    size = max(1, _BUDGET // max(1, each))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def padded(rows: Tensor, members: Sequence[Sequence[tuple[int, float]]]) -> Tensor:
    """Rows of each group times their factors, filled up with zeros, float [U, r, D].

    Rows are float [R, D]; a group has (row, factor) pairs, and the largest has r of them.
    """
    longest = max(len(group) for group in members)
    filled = [[*group, *[(0, 0.0)] * (longest - len(group))] for group in members]
    index = torch.tensor([[row for row, _ in group] for group in filled], dtype=torch.int64)
    factors = torch.tensor([[factor for _, factor in group] for group in filled], dtype=rows.dtype)
    found = rows[to_device(index, rows.device)]
    return found * to_device(factors, rows.device).unsqueeze(2)
