"""The one training loop, a generator that yields after each epoch, and its log."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ltcli.compute.device import seed_layers
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, NumericalError
from ltcli.data.batches import Batch
from ltcli.engine.optimizers import Optimizer
from ltcli.engine.state import Snapshots, TrainingState
from ltcli.engine.steps import Record, Steps

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

# Seconds of work that a crash may cost.
CHECKPOINT_SECONDS = 30.0
_REMOVE = "remove the .resume.safetensors file beside the output"


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch, counted from 0.

    The loss is the mean over the samples drawn, in nats. A resumed epoch has the wall time and
    speed of the part that ran now.
    """

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    samples_per_second: float


def train(
    module: nn.Module,
    optimizer: Optimizer,
    steps: Steps,
    order: Callable[[int], torch.Tensor],
    learning_rate: Callable[[int], float],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    context: Context,
    dtype: torch.dtype = torch.float32,
    keep: int = 0,
    record: Record | None = None,
    chance: Callable[[int], float] | None = None,
) -> tuple[Snapshots, dict[str, torch.Tensor]]:
    """Train a module in place to the end of its run, with checkpoints and a report of each epoch.

    ``order`` has the rows of an epoch, unless the steps have an order of their own. ``chance`` has
    the mean loss of an epoch for a network that has learned nothing, nats: a run that ends near it
    or above says so. Returns the states of the last ``keep`` epochs, and the method's as tensors of
    a model artifact.
    """
    snapshots = Snapshots(module, epochs - keep)
    training = fit(
        steps.step,
        steps.order or order,
        learning_rate,
        TrainingState(module, optimizer, snapshots, steps.state),
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        context=context,
        record=record,
    )
    device = next(module.parameters()).device
    for epoch in report(training, epochs, context, device, dtype, steps.facts):
        snapshots.take(epoch.epoch)
        if chance is not None and epoch.epoch == epochs - 1:
            _warn_near(chance(epoch.epoch), epoch.loss, context.name)
    state = {} if steps.state is None else steps.state.tensors()
    return snapshots, {f"method.{name}": tensor for name, tensor in state.items()}


def fit(
    step: Callable[[Batch], torch.Tensor],
    order: Callable[[int], torch.Tensor],
    learning_rate: Callable[[int], float],
    state: TrainingState,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    context: Context,
    record: Record | None = None,
) -> Iterator[Epoch]:
    """Train, yielding after each epoch; go on from a checkpoint where there is one.

    ``step`` returns its mean loss, float [], on the device. ``order`` has the positions that an
    epoch draws, int64 [M] on the CPU, a pure function of the epoch; its last step takes the rows
    left, unless there is a single one, of which batch-norm has no statistics. A group of the
    optimiser may have a multiple of the learning rate, ``rate``. ``seed`` is that of layers that
    draw numbers in training, such as dropout. ``record`` makes another form of the work of a step.

    Raises:
        ArtifactError: The checkpoint is not one of this run.
        NumericalError: A loss is not finite; epoch and step are named.
        StopError: A signal came; the state was saved after the step in progress.
    """
    device = next(state.module.parameters()).device
    # MPS has no float64; float32 only blurs the printed loss there.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    # The summed loss, and the number of steps while it was finite.
    meters = torch.zeros(2, dtype=dtype, device=device)
    first_epoch, first_step = _resume(state, context, meters, epochs)
    total, finite = meters

    def work(batch: Batch) -> None:
        loss = step(batch).detach()
        # The meters stay on the device: no synchronisation in a step.
        total.add_(loss, alpha=len(batch.rows))
        finite.add_(torch.isfinite(total))

    advance = work if record is None else record(work)
    saved_at = time.monotonic()
    with context.saves_on_stop():
        for epoch in range(first_epoch, epochs):
            began = time.monotonic()
            # Moved once an epoch: a copy in every step would make the device wait.
            rows = order(epoch).to(device)
            if len(rows) % batch_size == 1 and len(rows) > 1:
                rows = rows[:-1]
            steps = -(-len(rows) // batch_size)
            if first_step > steps:
                rule = f"checkpoint must be at a step in 0 ... {steps}, got {first_step}"
                raise ArtifactError(context.name, rule, _REMOVE)
            rate = learning_rate(epoch)
            for group in state.optimizer.param_groups:
                group["lr"] = rate * group.get("rate", 1.0)
            for start in range(first_step * batch_size, len(rows), batch_size):
                batch = Batch(epoch, start // batch_size, start, rows[start : start + batch_size])
                seed_layers(device, seed, epoch, batch.step)
                advance(batch)
                late = time.monotonic() - saved_at > CHECKPOINT_SECONDS
                if context.stop_signal or late:
                    _check_finite(meters, context.name, epoch)
                    _save(state, context, epoch, batch.step + 1, meters)
                    saved_at = time.monotonic()
                    context.stop_here()
            _check_finite(meters, context.name, epoch)
            seconds = time.monotonic() - began
            # A run that goes on after the last step of an epoch draws nothing more in it.
            drawn = max(0, len(rows) - first_step * batch_size)
            yield Epoch(epoch, float(total) / len(rows), rate, seconds, drawn / seconds)
            first_step = 0
            meters.zero_()
            # The caller may have taken a snapshot: it belongs to this epoch's checkpoint.
            # Between epochs a checkpoint is cheap: it is worth less work than within one.
            worth = time.monotonic() - saved_at > CHECKPOINT_SECONDS / 10
            if epoch + 1 < epochs and (context.stop_signal or worth):
                _save(state, context, epoch + 1, 0, meters)
                saved_at = time.monotonic()
                context.stop_here()


def _resume(
    state: TrainingState, context: Context, meters: torch.Tensor, epochs: int
) -> tuple[int, int]:
    saved = context.checkpoint.load()
    if saved is None:
        return 0, 0
    tensors, position = saved
    epoch, step = position.get("epoch"), position.get("step")
    # Not isinstance: True is an int.
    if type(epoch) is not int or type(step) is not int or not (0 <= epoch < epochs and step >= 0):
        got = f"got epoch {epoch!r:.40}, step {step!r:.40}"
        rule = f"checkpoint must be at an epoch in 0 ... {epochs - 1}, {got}"
        raise ArtifactError(context.name, rule, _REMOVE)
    try:
        meters.copy_(tensors.pop("meters"))
        state.restore(tensors)
    except (IndexError, KeyError, RuntimeError, ValueError):
        rule = "tensors of the checkpoint do not fit this run"
        raise ArtifactError(context.name, rule, _REMOVE) from None
    return epoch, step


def _save(
    state: TrainingState, context: Context, epoch: int, step: int, meters: torch.Tensor
) -> None:
    tensors = {**state.tensors(), "meters": meters}
    context.checkpoint.save(tensors, {"epoch": epoch, "step": step})


def _check_finite(meters: torch.Tensor, where: str, epoch: int) -> None:
    total, finite = meters.tolist()
    if not math.isfinite(total):
        # The sum stays as it is from the first loss on that is not finite.
        rule = f"loss must be finite, got NaN or infinity in epoch {epoch}, step {int(finite)}"
        raise NumericalError(where, rule, "lower --lr, or check the inputs for extreme values")


def _warn_near(chance: float, loss: float, where: str) -> None:
    if loss >= 0.9 * chance:
        remedy = "train longer (--epochs), or with another --lr"
        known = f"a model that has learned nothing has {chance:.2f}"
        logger.warning("%s: the loss ended at %.2f nats, and %s: %s", where, loss, known, remedy)


def report(
    training: Iterable[Epoch],
    epochs: int,
    context: Context,
    device: torch.device,
    dtype: object,
    facts: Callable[[], dict[str, float]] = dict,
) -> Iterator[Epoch]:
    """Pass epochs on, and report each, with further figures (``facts``) of the epoch just ended."""
    precision = str(dtype).removeprefix("torch.")
    logger.info("%s: on %s in %s", context.name, device, precision)
    context.log({"event": "training", "device": str(device), "precision": precision})
    # Only the first of several processes logs at this level, and draws.
    draws = sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)
    bar = _bar(context.name, epochs) if draws else None
    try:
        for epoch in training:
            more = facts()
            context.log({"event": "epoch", **dataclasses.asdict(epoch), **more})
            text = f"loss {epoch.loss:.4f}, lr {epoch.learning_rate:g}"
            for name, value in more.items():
                text += f", {name.replace('_', ' ')} {value:.3g}"
            speed = f"{epoch.samples_per_second:,.0f} samples/s"
            if bar is not None:
                bar.update(bar.task_ids[0], completed=epoch.epoch + 1, info=f"{text}, {speed}")
            else:
                logger.info("epoch %d/%d: %s, %s", epoch.epoch + 1, epochs, text, speed)
            yield epoch
    finally:
        if bar is not None:
            bar.stop()


def _bar(name: str, epochs: int) -> Progress:
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn(name),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[info]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task(name, total=epochs, info="")
    bar.start()
    return bar
