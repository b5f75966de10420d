"""The step of a training run as a CUDA graph, which the device repeats without Python.

The rows of a batch, the random numbers of its augmentation and the learning rates change from step
to step. A recorded step reads them from tensors that stay at their places in memory and are filled
before each repetition. Everything else that the host tells a step is a constant of the record.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ltcli.data.batches import Batch
from ltcli.engine.optimizers import Optimizer

# Steps before the record: libraries start, and the optimiser makes its state.
_WARM_UP = 3


class Recorded:
    """Work of a step that is recorded once, and then repeated.

    The first steps are taken as they are, and so is each batch of another size.

    Args:
        work: Does one step on a batch, and reads no other number of it than rows and draws.
        optimizer: Optimiser of the step.
        batch_size: Rows of the batches that are repeated.
        draws: Random numbers of a batch's augmentation, int64 [B, 3]; None without augmentation.
        phase: Epoch to a value; where it changes, the step is recorded anew.
        record: Records a function and returns the one that repeats it; see ``cuda_graph``.
    """

    def __init__(
        self,
        work: Callable[[Batch], None],
        optimizer: Optimizer,
        batch_size: int,
        draws: Callable[[Batch], torch.Tensor] | None,
        phase: Callable[[int], object],
        record: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:
        """Keep the parts."""
        self._work, self._size, self._draws = work, batch_size, draws
        self._phase, self._record, self._taken = phase, record, 0
        self._known: tuple[object, Batch, Callable[[], None]] | None = None
        self._groups = optimizer.param_groups
        self._rates = [torch.zeros((), device=group["params"][0].device) for group in self._groups]

    def __call__(self, batch: Batch) -> None:
        """Do one step."""
        if len(batch.rows) != self._size or self._taken < _WARM_UP:
            self._taken += 1
            self._work(batch)
            return
        for group, place in zip(self._groups, self._rates, strict=True):
            # The loop sets a number in each epoch.
            if group["lr"] is not place:
                place.fill_(group["lr"])
                group["lr"] = place
        draws = None if self._draws is None else self._draws(batch)
        phase = self._phase(batch.epoch)
        if self._known is None or self._known[0] != phase:
            # The record before gives its memory back first.
            self._known = None
            own = dataclasses.replace(
                batch, rows=batch.rows.clone(), draws=None if draws is None else draws.clone()
            )
            self._known = phase, own, self._record(lambda: self._work(own))
        _, own, repeat = self._known
        own.rows.copy_(batch.rows)
        if own.draws is not None and draws is not None:
            own.draws.copy_(draws)
        repeat()


def cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Record the work of a function on the present stream, and return what repeats it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        work()
    return graph.replay


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Let a GPU work on a stream of its own: the default one cannot be recorded."""
    before = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield
    before.wait_stream(stream)
