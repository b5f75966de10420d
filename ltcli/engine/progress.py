"""Reports of a training run: the sidecar, and a progress bar on a terminal or else the log."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ltcli.core.context import Context

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from ltcli.engine.fit import Epoch

logger = logging.getLogger(__name__)


def report(
    training: Iterable[Epoch],
    epochs: int,
    context: Context,
    device: torch.device,
    dtype: object,
    facts: Callable[[], dict[str, float]] = dict,
) -> Iterator[Epoch]:
    """Pass epochs on, and report each.

    Args:
        training: Epochs that ``fit`` yields.
        epochs: Length of the run.
        context: Writes the sidecar.
        device: Device, for the first line.
        dtype: Precision, for the first line.
        facts: Further figures of the epoch that just ended.
    """
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
            text += "".join(
                f", {name.replace('_', ' ')} {value:.3g}" for name, value in more.items()
            )
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
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task(name, total=epochs, info="")
    bar.start()
    return bar
