"""Processes that train one model together, each with some rows of every batch.

All processes draw the same batches and have the features of all rows, so losses, class weights and
running statistics are those of one process. They divide the backbone's work, forward and backward.
The gradients that leave ``World.shared`` are those of the whole batch, in every process.

``torchrun`` starts the processes and numbers them by RANK and WORLD_SIZE.
"""

import datetime
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist

# Import before init_process_group: its default arguments capture the group, whose threads abort the
# process at exit.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.func import functional_call

from ltcli.compute.device import autocast
from ltcli.core.errors import ResourceError

# One process may be hours slower than the others; one that dies is noticed at once all the same.
_TIMEOUT = datetime.timedelta(hours=12)
# Messages of the back ends when another process is gone.
_LOST = (
    *("Connection closed", "Connection reset", "Broken pipe", "Timed out"),
    *("ncclRemoteError", "ncclSystemError"),
)


@dataclass(frozen=True)
class World:
    """The processes of a run and the rank of this one, from 0; see ``here``."""

    rank: int = 0
    size: int = 1

    def rows(self, count: int, unit: int = 1) -> slice:
        """Rows of this process among ``count``: consecutive, of nearly equal number in all.

        ``unit`` consecutive rows, counted from the first one, stay together: whole batches of
        inference give the same numbers with any number of processes.
        """
        units = -(-count // unit)
        # Integer division spreads the units: the numbers differ by at most one.
        bounds = (units * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(*(min(bound * unit, count) for bound in bounds))

    def gathered(self, own: Tensor, count: int, unit: int = 1) -> Tensor:
        """All ``count`` rows, joined from [n, ...] of each process; ``rows`` divides them."""
        if self.size == 1:
            return own
        slices = [World(rank, self.size).rows(count, unit) for rank in range(self.size)]
        lengths = [rows.stop - rows.start for rows in slices]
        # all_gather wants equal shapes from all processes.
        padded = own.new_zeros(max(lengths), *own.shape[1:])
        padded[: len(own)] = own.detach()
        parts = [torch.empty_like(padded) for _ in slices]
        dist.all_gather(parts, padded)
        joined = [part[:length] for part, length in zip(parts, lengths, strict=True)]
        # The own rows keep their graph: gradients go to them in each process.
        joined[self.rank] = own
        return torch.cat(joined)

    def joint(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Result of a function of rows float [B, ...], in float32 or better, computed by all."""
        own = x[self.rows(len(x))]
        # Batch-norms on CUDA exchange float32, but without rows they would send the input's type.
        with nullcontext() if len(own) else autocast(x.device, torch.float32):
            return self.gathered(_wide(function(own)), len(x))

    def shared(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """Function from rows to rows, float [B, ...], that all processes compute together.

        All have the module with the same weights, and get the sum of their gradients over all
        processes. Batch-norms must be ``synchronised``.
        """
        if self.size == 1:
            return module

        def whole(x: Tensor) -> Tensor:
            named = dict(module.named_parameters())
            # Frozen parameters need no sum of gradients.
            moving: dict[str, Tensor] = {n: p for n, p in named.items() if p.requires_grad}
            if moving and torch.is_grad_enabled():
                moving = dict(zip(moving, _Joint.apply(*moving.values()), strict=True))
            return self.joint(lambda own: functional_call(module, moving, (own,)), x)

        return whole

    def synchronised(self, module: nn.Module) -> nn.Module:
        """The module, whose batch-norms now take the statistics of all processes' rows.

        They are replaced in place; names and tensors stay.
        """
        if self.size == 1:
            return module
        norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
        first = next(module.parameters(), None)
        if first is not None and first.device.type == "cuda":
            convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
            if any(hasattr(norm, "act") for norm in norms):
                # timm's batch-norms have an activation in them, which torch's function drops.
                from timm.layers import convert_sync_batchnorm

                convert = convert_sync_batchnorm
            return cast(nn.Module, convert(module))
        for norm in norms:
            # A subclass without state of its own, so that weights and buffers stay in place.
            norm.__class__ = _SharedBatchNorm
        return module

    def agreed(self, value: bool) -> bool:
        """Answer of the first process, after all have arrived."""
        if self.size == 1:
            return value
        said = torch.tensor([value], dtype=torch.uint8)
        dist.broadcast(said, 0)
        return bool(said)


@contextmanager
def connected(rank: int, size: int, device: torch.device) -> Iterator[World]:
    """Connect the processes of this run, as often as needed; one process needs no connection."""
    if size == 1:
        yield World()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # A prefix for each connection: torchrun's store still has the addresses of the last one.
    store = _store(rank, size)
    store = PrefixStore(str(store.add(f"connections of {rank}", 1)), store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    failed = True
    try:
        yield here()
        failed = False
    except RuntimeError as error:
        if any(sign in str(error) for sign in _LOST):
            rule = f"another process of this run has died: {' '.join(str(error).split())}"
            raise ResourceError("torchrun", rule, "the same command again goes on") from None
        raise
    finally:
        # NCCL closes only when all processes do, and after an error the others may wait for this
        # one: then the connection ends with the process, which torchrun notices.
        if not (failed and device.type == "cuda"):
            dist.destroy_process_group()


@functools.cache
def _store(rank: int, size: int) -> Store:
    """Store through which the processes find each other."""
    # One for all connections: the first process serves it, and a second server finds no free port.
    store: Store = next(rendezvous("env://", rank, size))[0]
    return store


def here() -> World:
    """Processes of this run: this one alone, unless it is ``connected``."""
    if not dist.is_initialized():
        return World()
    return World(dist.get_rank(), dist.get_world_size())


class _Joint(torch.autograd.Function):
    """Identity of parameters whose gradients are summed over all processes."""

    @staticmethod
    def forward(_ctx: Any, *parameters: Tensor) -> tuple[Tensor, ...]:
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        # One message for all parameters: hundreds of small ones would wait for the network.
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        pairs = zip(parts, gradients, strict=True)
        return tuple(part.view_as(gradient) for part, gradient in pairs)


class _Sum(torch.autograd.Function):
    """Sum of a tensor over all processes, and of its gradients on the way back."""

    @staticmethod
    def forward(_ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class _SharedBatchNorm(nn.BatchNorm2d):
    """Batch-norm over the rows of all processes; torch has one for CUDA only."""

    def forward(self, x: Tensor) -> Tensor:
        made = self._shared(x) if self.training else super().forward(x)
        # timm's batch-norms have these two in them.
        for name in ("drop", "act"):
            if name in self._modules:
                made = getattr(self, name)(made)
        return made

    def _shared(self, x: Tensor) -> Tensor:
        # Processes may have different numbers of rows, so the counts are summed too.
        rows = _wide(x)
        own = torch.cat([rows.sum((0, 2, 3)), rows.new_full((1,), rows[:, 0].numel())])
        total = _sum(own)
        count = total[-1]
        mean = total[:-1] / count
        centred = rows - mean.view(1, -1, 1, 1)
        variance = _sum(centred.square().sum((0, 2, 3))) / count
        momentum = self.momentum or 0.0
        with torch.no_grad():
            for running, value in (
                (self.running_mean, mean),
                (self.running_var, variance * count / (count - 1)),
            ):
                assert running is not None  # every batch-norm here keeps them
                running.lerp_(value.to(running.dtype), momentum)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        made = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return made.to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """Tensor in float32 or better: not all back ends can send bfloat16."""
    return x if x.dtype == torch.float64 else x.float()


def _sum(own: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(own))
