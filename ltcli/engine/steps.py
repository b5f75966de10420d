"""Batches and optimisation steps: the one seam of the training loop. Plain training is here."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ltcli.compute.device import autocast
from ltcli.compute.seeds import derive
from ltcli.compute.transfer import to_device
from ltcli.data.batches import Batch
from ltcli.data.samplers import Sampler, order_of
from ltcli.engine.optimizers import Optimizer
from ltcli.engine.state import Stateful
from ltcli.stats import losses
from ltcli.stats.class_weights import effective_number_weights


@dataclass(frozen=True)
class Steps:
    """The training of a run, step by step.

    Attributes:
        step: Does one optimisation step and returns its mean loss, float [], on the device.
        order: Rows that an epoch draws, int64 on the CPU; None for those of the run's sampler.
        state: State that a resumed run needs beside weights and optimiser.
        facts: Further figures for the log of an epoch, since the last call.
    """

    step: Callable[[Batch], torch.Tensor]
    order: Callable[[int], torch.Tensor] | None = None
    state: Stateful | None = None
    facts: Callable[[], dict[str, float]] = dict


Record = Callable[[Callable[[Batch], None]], Callable[[Batch], None]]
"""Makes another form of the work of a step, such as a CUDA graph."""

Inputs = Callable[[Batch], torch.Tensor]
"""Makes the inputs of a step, float [B, ...], on the device."""


class Reduce(Protocol):
    """Makes the mean loss of a step, float []."""

    def __call__(
        self,
        values: torch.Tensor,
        labels: torch.Tensor,
        batch: Batch,
        shares: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean of losses float [B], nats, with labels int64 [B].

        ``shares``, float [B], are mixing weights of the labels; 1 if not given.
        """


@dataclass(frozen=True)
class Mixing:
    """Mixup of inputs and labels with those of a partner.

    Attributes:
        alpha: Parameter of the symmetric Beta distribution of the mixing weight.
        label_shares: (weight, labels int64 [B], partners' labels int64 [B]) to the mixing weights
            of the first labels, float [B]; None for the weight of the inputs.
    """

    alpha: float
    seed: int
    label_shares: Callable[[float, torch.Tensor, torch.Tensor], torch.Tensor] | None = None


def weighted_mean(
    beta: float, reduction: losses.Reduction, class_counts: torch.Tensor, first_epoch: int = 0
) -> Reduce:
    """Mean of a step's losses with class weights by the effective number of samples.

    ``beta`` 0 is no weights; all are 1 before ``first_epoch``. The class counts are int64 [C]. For
    ``reduction`` see ``ltcli.stats.losses.reduce``.
    """
    weights = none = torch.ones(len(class_counts), device=class_counts.device)
    if beta > 0:
        weights = effective_number_weights(class_counts.cpu(), beta).to(none)

    def reduce(
        values: torch.Tensor, labels: torch.Tensor, batch: Batch, shares: torch.Tensor | None = None
    ) -> torch.Tensor:
        now = weights if batch.epoch >= first_epoch else none
        shares = torch.ones_like(values) if shares is None else shares
        return losses.reduce(values, now[labels], reduction, shares)

    return reduce


def descent(
    optimizer: Optimizer, objective: Callable[[Batch], torch.Tensor]
) -> Callable[[Batch], torch.Tensor]:
    """Step that descends an objective, float [], and returns its value before the step."""

    def step(batch: Batch) -> torch.Tensor:
        optimizer.zero_grad()
        value = objective(batch)
        torch.autograd.backward(value)
        optimizer.step()
        return value

    return step


def train_too(
    optimizer: Optimizer, parameters: Sequence[torch.Tensor], *, decayed: bool = True
) -> None:
    """Let an optimiser train more parameters, at the base rate, with its weight decay or none."""
    decay = optimizer.param_groups[0]["weight_decay"] if decayed else 0.0
    optimizer.add_param_group({"params": list(parameters), "weight_decay": decay, "rate": 1.0})


def plain_step(
    network: Callable[[torch.Tensor], torch.Tensor],
    optimizer: Optimizer,
    loss: Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor],
    reduce: Reduce,
    inputs: Inputs,
    labels: torch.Tensor,
    *,
    dtype: torch.dtype,
    mixing: Mixing | None = None,
) -> Callable[[Batch], torch.Tensor]:
    """Step of plain training.

    ``network`` makes logits of inputs, already in the mode, train or eval, that the run wants;
    ``loss`` makes the losses, float [B], of logits. The labels are int64 [N], on the device.
    ``dtype`` is the precision of the forward pass.
    """

    def objective(batch: Batch) -> torch.Tensor:
        x, y = inputs(batch), labels[batch.rows]
        with autocast(labels.device, dtype):
            if mixing is None:
                return reduce(loss(network(x).float(), y, batch), y, batch)
            return mixed_loss(network, loss, reduce, x, y, batch, mixing)

    return descent(optimizer, objective)


def second_batches(
    labels: torch.Tensor, num_classes: int, sampler: Sampler, *, seed: int, epochs: int
) -> Callable[[Batch], Batch]:
    """Function that gives a step another batch of the same size, by another sampler.

    The labels are int64 [N], on the device.
    """
    known = labels.cpu()

    @functools.lru_cache(maxsize=1)
    def drawn(epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        times = {"seed": derive("second", seed), "epoch": epoch, "epochs": epochs}
        order = order_of(sampler, known, num_classes, **times)
        return to_device(order, labels.device), order

    def second(batch: Batch) -> Batch:
        part = slice(batch.first, batch.first + len(batch.rows))
        rows, host = (order[part] for order in drawn(batch.epoch))
        # A stream of its own, so that an image in both batches is augmented twice.
        return Batch(batch.epoch, batch.step, batch.first, rows, "augment second", host)

    return second


def labels_on_host(
    order: Callable[[int], torch.Tensor], labels: torch.Tensor
) -> Callable[[Batch], torch.Tensor]:
    """Function that gives the labels of a step, int64 [B], on the CPU.

    It takes them from the epoch's order, int64 on the CPU as for ``fit``, so that no step waits for
    the device, which has the labels int64 [N], to find out which classes its batch has.
    """
    known = labels.cpu()
    drawn = functools.lru_cache(maxsize=1)(lambda epoch: known[order(epoch)])
    return lambda batch: drawn(batch.epoch)[batch.first : batch.first + len(batch.rows)]


def mixed_loss(
    network: Callable[[torch.Tensor], torch.Tensor],
    loss: Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor],
    reduce: Reduce,
    x: torch.Tensor,
    y: torch.Tensor,
    batch: Batch,
    mixing: Mixing,
) -> torch.Tensor:
    """Mean loss of mixed inputs, float []: each has its own label and its partner's.

    ``loss`` gives the losses, float [B], of logits; x is float [B, ...], y is int64 [B].
    """
    weight, partner = mixture(len(y), mixing.alpha, mixing.seed, batch)
    partner = to_device(partner, y.device)
    other = y[partner]
    logits = network(weight * x + (1 - weight) * x[partner]).float()
    shares = torch.full_like(logits[:, 0], weight)
    if mixing.label_shares is not None:
        shares = mixing.label_shares(weight, y, other)
    values = torch.cat([loss(logits, y, batch), loss(logits, other, batch)])
    return reduce(values, torch.cat([y, other]), batch, torch.cat([shares, 1 - shares]))


def mixture(size: int, alpha: float, seed: int, batch: Batch) -> tuple[float, torch.Tensor]:
    """One step's mixing weight, in 0..1, and the partner of each row, int64 [B].

    Source: Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018, arXiv 1710.09412; one weight per batch.
    """
    rng = np.random.default_rng(derive("mixup", seed, batch.epoch, batch.step))
    return float(rng.beta(alpha, alpha)), torch.from_numpy(rng.permutation(size))
