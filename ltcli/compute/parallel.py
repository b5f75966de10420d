"""Several processes that train one model, each with its share of every batch.

All processes draw the same batches and have the features of all rows, so that losses, class weights
and running statistics are those of one process; what is shared is the backbone's work, forward and
backward. The gradients that leave ``World.shared`` are those of the whole batch, in every process.

``torchrun`` starts the processes and says by RANK and WORLD_SIZE who they are.
"""

import datetime
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist

# Its default arguments hold the group that is there when something first imports it, and with it
# threads that abort a process at its end. Imported now, they hold none.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.func import functional_call

from ltcli.compute.device import autocast
from ltcli.core.errors import ResourceError

# Processes meet after hours of work, where one may be much slower; one that dies is seen at once.
_TIMEOUT = datetime.timedelta(hours=12)
# What the back ends say when the other end is gone.
_LOST = (
    *("Connection closed", "Connection reset", "Broken pipe", "Timed out"),
    *("ncclRemoteError", "ncclSystemError"),
)


class World:
    """The processes of a run.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Say who is there; see ``here``."""
        self.rank, self.size = rank, size

    def rows(self, count: int, unit: int = 1) -> slice:
        """Return this process's share of some rows: consecutive, sizes nearly equal.

        Args:
            count: Of all rows.
            unit: So many consecutive rows, from the first one on, are never parted.
        """
        units = -(-count // unit)
        bounds = (units * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(*(min(bound * unit, count) for bound in bounds))

    def gathered(self, own: Tensor, count: int, unit: int = 1) -> Tensor:
        """Join the shares of all processes; gradients go to this process's own share.

        Args:
            own: [n, ...], the rows of this process.
            count: Of all rows.
            unit: As for ``rows``.
        """
        if self.size == 1:
            return own
        shares = [World(rank, self.size).rows(count, unit) for rank in range(self.size)]
        lengths = [share.stop - share.start for share in shares]
        padded = own.new_zeros(max(lengths), *own.shape[1:])
        padded[: len(own)] = own.detach()
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded)
        joined = [part[:length] for part, length in zip(parts, lengths, strict=True)]
        joined[self.rank] = own
        return torch.cat(joined)

    def joint(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return what a function makes of rows, in float32 or better; all compute it together.

        Args:
            function: Rows to rows, float [B, ...].
            x: All rows, float [B, ...].
        """
        own = x[self.rows(len(x))]
        if len(own):
            return self.gathered(_wide(function(own)), len(x))
        # The others' batch-norms on CUDA send float32, and one without rows the type of its input.
        with autocast(x.device, torch.float32):
            return self.gathered(_wide(function(own)), len(x))

    def shared(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return a module whose rows are computed by all processes together.

        Args:
            module: Rows to rows, float [B, ...]; all processes have it with the same weights.
                Their gradients are sums over all processes. Batch-norms must be ``synchronised``.
        """
        if self.size == 1:
            return module

        def whole(x: Tensor) -> Tensor:
            named = dict(module.named_parameters())
            moving: dict[str, Tensor] = {n: p for n, p in named.items() if p.requires_grad}
            if moving and torch.is_grad_enabled():
                moving = dict(zip(moving, _Joint.apply(*moving.values()), strict=True))
            return self.joint(lambda own: functional_call(module, moving, (own,)), x)

        return whole

    def synchronised(self, module: nn.Module) -> nn.Module:
        """Let batch-norms in training take the statistics of all processes' rows.

        Returns:
            The module, with its batch-norms replaced in place; names and tensors stay.
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
        """Return what the first process says, when all are here."""
        if self.size == 1:
            return value
        said = torch.tensor([value], dtype=torch.uint8)
        dist.broadcast(said, 0)
        return bool(said)


@contextmanager
def connected(rank: int, size: int, device: torch.device) -> Iterator[World]:
    """Connect the processes of this run; when they have parted, they can be connected again.

    Args:
        rank: From 0.
        size: How many; one needs no connection.
        device: That this process computes on.

    Raises:
        ResourceError: One of them has died.
    """
    if size == 1:
        yield World()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # What torchrun keeps for the processes would still have the addresses of the last connection.
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
        # NCCL parts only when all do, and the others may wait for what this one was to send: then
        # its connection ends with the process, which torchrun sees.
        if not (failed and device.type == "cuda"):
            dist.destroy_process_group()


@functools.cache
def _store(rank: int, size: int) -> Store:
    """Return where the processes find each other: one for all connections, as one serves it."""
    store: Store = next(rendezvous("env://", rank, size))[0]
    return store


def here() -> World:
    """Return the processes of this run: this one alone, unless it is ``connected``."""
    if not dist.is_initialized():
        return World()
    return World(dist.get_rank(), dist.get_world_size())


class _Joint(torch.autograd.Function):
    """Hands parameters on; their gradients are summed over all processes."""

    @staticmethod
    def forward(_ctx: Any, *parameters: Tensor) -> tuple[Tensor, ...]:
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        pairs = zip(parts, gradients, strict=True)
        return tuple(part.view_as(gradient) for part, gradient in pairs)


class _Sum(torch.autograd.Function):
    """Sums a tensor over all processes, and its gradients on the way back."""

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
    """A batch-norm over the rows of all processes, for devices that torch has none for."""

    def forward(self, x: Tensor) -> Tensor:
        made = self._shared(x) if self.training else super().forward(x)
        # timm's batch-norms have these two in them.
        for name in ("drop", "act"):
            if name in self._modules:
                made = getattr(self, name)(made)
        return made

    def _shared(self, x: Tensor) -> Tensor:
        rows = _wide(x)
        own = torch.cat([rows.sum((0, 2, 3)), rows.new_full((1,), rows[:, 0].numel())])
        total = _sum(own)
        count = total[-1]
        mean = total[:-1] / count
        centred = rows - mean.view(1, -1, 1, 1)
        variance = _sum(centred.square().sum((0, 2, 3))) / count
        share = self.momentum or 0.0
        with torch.no_grad():
            for running, value in (
                (self.running_mean, mean),
                (self.running_var, variance * count / (count - 1)),
            ):
                assert running is not None  # every batch-norm here keeps them
                running.lerp_(value.to(running.dtype), share)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        made = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return made.to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """Return a tensor in float32 or better: not all back ends can send bfloat16."""
    return x if x.dtype == torch.float64 else x.float()


def _sum(own: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(own))
