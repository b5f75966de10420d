"""Optimisation steps: the one seam of the training loop. Here is plain training, with mixup."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ltcli.compute.device import autocast
from ltcli.compute.seeds import derive
from ltcli.compute.transfer import to_device
from ltcli.data.batches import Samples
from ltcli.data.samplers import Sampler, order_of
from ltcli.engine.fit import Batch

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
        """Return the mean.

        Args:
            values: float [B], losses, nats.
            labels: int64 [B].
            batch: Of which epoch and step.
            shares: float [B], 1 if not given; less where a mixed image has two labels.
        """


@dataclass(frozen=True)
class Mixing:
    """How images and their labels are mixed with those of a partner.

    Attributes:
        alpha: Of the Beta distribution that the share of an image comes from.
        seed: Of shares and partners.
        label_shares: (share, labels int64 [B], partners' labels int64 [B]) to the shares of the
            first labels, float [B]; None for the share of the image.
    """

    alpha: float
    seed: int
    label_shares: Callable[[float, torch.Tensor, torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True)
class Augmented:
    """Makes the augmented samples of a step.

    Attributes:
        samples: That batches have rows of.
        seed: Of the augmentation.
    """

    samples: Samples
    seed: int

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the inputs of a step, float [B, ...]."""
        place = {"seed": self.seed, "epoch": batch.epoch, "first": batch.first}
        return self.samples.drawn(batch.rows, **place)


def descent(
    optimizer: torch.optim.Optimizer, objective: Callable[[Batch], torch.Tensor]
) -> Callable[[Batch], torch.Tensor]:
    """Return the step that goes down an objective, and returns its value before it.

    Args:
        optimizer: Over the parameters that are trained.
        objective: A batch to its mean loss, float [].
    """

    def step(batch: Batch) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = objective(batch)
        torch.autograd.backward(value)
        optimizer.step()
        return value

    return step


def train_too(
    optimizer: torch.optim.Optimizer, parameters: Sequence[torch.Tensor], *, decayed: bool = True
) -> None:
    """Let an optimiser train further parameters, at the base rate.

    Args:
        optimizer: Of the network.
        parameters: What else is trained.
        decayed: Whether they have the network's weight decay, or none.
    """
    decay = optimizer.param_groups[0]["weight_decay"] if decayed else 0.0
    group = {"params": list(parameters), "weight_decay": decay, "rate": 1.0}
    optimizer.add_param_group(group)


def plain_step(
    network: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor],
    reduce: Reduce,
    inputs: Inputs,
    labels: torch.Tensor,
    *,
    dtype: torch.dtype,
    mixing: Mixing | None = None,
) -> Callable[[Batch], torch.Tensor]:
    """Return the step of plain training.

    Args:
        network: Inputs to logits; already in the mode, train or eval, that the run wants.
        optimizer: Over the parameters that are trained.
        loss: Logits, labels and batch to the losses, float [B].
        reduce: Makes their mean.
        inputs: Makes the inputs of a step.
        labels: int64 [N], on the device.
        dtype: Precision of the forward pass.
        mixing: Of inputs and labels; None for none.
    """

    def objective(batch: Batch) -> torch.Tensor:
        x, y = inputs(batch), labels[batch.rows]
        with autocast(labels.device, dtype):
            if mixing is None:
                return reduce(loss(network(x).float(), y, batch), y, batch)
            return mixed_loss(network, loss, reduce, x, y, batch, mixing)

    return descent(optimizer, objective)


def feature_step(
    features: Callable[[Batch], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor],
    labels: torch.Tensor,
) -> Callable[[Batch], torch.Tensor]:
    """Return the step of a loss that needs features, not logits alone.

    Args:
        features: Makes the features of a step, float32 [B, D].
        optimizer: Over the parameters that are trained.
        loss: Features, labels int64 [B] and the batch to the mean loss.
        labels: int64 [N], on the device.
    """
    return descent(optimizer, lambda batch: loss(features(batch), labels[batch.rows], batch))


def second_batches(
    labels: torch.Tensor, num_classes: int, sampler: Sampler, *, seed: int, epochs: int
) -> Callable[[Batch], Batch]:
    """Return a function that gives a step another batch of the same size, by another sampler.

    Args:
        labels: int64 [N], on the device.
        num_classes: C.
        sampler: Of the other batches.
        seed: Of the run.
        epochs: Length of the run.
    """
    known, drawn = labels.cpu(), dict[int, torch.Tensor]()

    def second(batch: Batch) -> Batch:
        if batch.epoch not in drawn:
            drawn.clear()
            times = {"seed": derive("second", seed), "epoch": batch.epoch, "epochs": epochs}
            drawn[batch.epoch] = order_of(sampler, known, num_classes, **times).to(labels.device)
        rows = drawn[batch.epoch][batch.first : batch.first + len(batch.rows)]
        # Behind those of the first batches, so that the two are augmented differently.
        return Batch(batch.epoch, batch.step, len(known) + batch.first, rows)

    return second


def labels_on_host(
    order: Callable[[int], torch.Tensor], labels: torch.Tensor
) -> Callable[[Batch], torch.Tensor]:
    """Return a function that gives the labels of a step, int64 [B], on the CPU.

    It takes them from the epoch's order, so that no step waits for the device to find out which
    classes its batch has.

    Args:
        order: Rows that an epoch draws, int64 on the CPU, as for ``fit``.
        labels: int64 [N], on the device.
    """
    known, drawn = labels.cpu(), dict[int, torch.Tensor]()

    def on_host(batch: Batch) -> torch.Tensor:
        if batch.epoch not in drawn:
            drawn.clear()
            drawn[batch.epoch] = known[order(batch.epoch)]
        return drawn[batch.epoch][batch.first : batch.first + len(batch.rows)]

    return on_host


def mixed_loss(
    network: Callable[[torch.Tensor], torch.Tensor],
    loss: Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor],
    reduce: Reduce,
    x: torch.Tensor,
    y: torch.Tensor,
    batch: Batch,
    mixing: Mixing,
) -> torch.Tensor:
    """Return the mean loss of mixed inputs, float []: each has its own label and its partner's.

    Args:
        network: Inputs to logits.
        loss: Logits, labels and batch to the losses, float [B].
        reduce: Makes their mean.
        x: Inputs, float [B, ...].
        y: int64 [B].
        batch: Of which epoch and step.
        mixing: How.
    """
    share, partner = mixture(len(y), mixing.alpha, mixing.seed, batch)
    partner = to_device(partner, y.device)
    other = y[partner]
    logits = network(share * x + (1 - share) * x[partner]).float()
    shares = torch.full_like(logits[:, 0], share)
    if mixing.label_shares is not None:
        shares = mixing.label_shares(share, y, other)
    values = torch.cat([loss(logits, y, batch), loss(logits, other, batch)])
    return reduce(values, torch.cat([y, other]), batch, torch.cat([shares, 1 - shares]))


def mixture(size: int, alpha: float, seed: int, batch: Batch) -> tuple[float, torch.Tensor]:
    """Return one step's mixing share, in 0..1, and the partner of each row, int64 [B].

    Source: Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018, arXiv 1710.09412; one share per batch.
    """
    rng = np.random.default_rng(derive("mixup", seed, batch.epoch, batch.step))
    return float(rng.beta(alpha, alpha)), torch.from_numpy(rng.permutation(size))
