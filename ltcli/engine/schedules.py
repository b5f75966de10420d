"""Training recipes by name: every number of the published CIFAR-LT schedules.

Epochs count from 0. Milestones are written for the recipe's own number of epochs and move in
proportion when the run is longer or shorter.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """One published recipe.

    Attributes:
        epochs: Length of the run.
        batch_size: Images per step.
        lr: Base learning rate.
        warmup: Epochs of linear warm-up: lr * (epoch + 1) / warmup.
        milestones: First epoch of each later phase.
        factors: Multiple of the base rate in each of these phases; cosine if there are none.
        weight_decay: L2 coefficient.
        nesterov: Nesterov's momentum instead of the plain one.
        pad_mode: How images are padded before the random crop: constant (zeros) or reflect.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup: int
    milestones: tuple[int, ...]
    factors: tuple[float, ...]
    weight_decay: float
    nesterov: bool
    pad_mode: str


_SHARP = (0.01, 0.0001)
_GENTLE = (0.1, 0.01)

# The authors' released code; where a script switches "at epoch 160" counted from 1, that is 159.
# metasaug is that of meta-class-weight too. BBN's own warm-up begins at 0.47 of the rate, not 0.2.
SCHEDULES = {
    "ldam": Schedule(200, 128, 0.1, 5, (160, 180), _SHARP, 2e-4, False, "constant"),
    "metasaug": Schedule(200, 100, 0.1, 0, (159, 179), _SHARP, 5e-4, True, "reflect"),
    "mwn": Schedule(100, 100, 0.1, 0, (79, 89), _GENTLE, 5e-4, True, "reflect"),
    "mislas": Schedule(200, 128, 0.1, 5, (160, 180), _GENTLE, 2e-4, False, "constant"),
    "bbn": Schedule(200, 128, 0.1, 5, (119, 159), _SHARP, 2e-4, True, "constant"),
    "gcl": Schedule(200, 64, 0.1, 5, (160, 180), _GENTLE, 2e-4, False, "constant"),
    "fsa": Schedule(300, 128, 0.1, 0, (150,), (0.1,), 5e-4, False, "constant"),
    "cosine": Schedule(200, 128, 0.1, 5, (), (), 5e-4, True, "constant"),
}


def learning_rate(schedule: Schedule, epochs: int, epoch: int) -> float:
    """Return the learning rate of one epoch.

    Args:
        schedule: The recipe, with its base rate.
        epochs: Length of this run.
        epoch: From 0.
    """
    if epoch < schedule.warmup:
        return schedule.lr * (epoch + 1) / schedule.warmup
    if not schedule.milestones:
        done = (epoch - schedule.warmup) / max(1, epochs - schedule.warmup)
        return schedule.lr * 0.5 * (1 + math.cos(math.pi * done))
    rate = schedule.lr
    for milestone, factor in zip(schedule.milestones, schedule.factors, strict=True):
        if epoch >= round(milestone * epochs / schedule.epochs):
            rate = schedule.lr * factor
    return rate


def ramp(start: float, epoch: int, epochs: int) -> float:
    """Return the share of an augmentation's strength in an epoch.

    It grows linearly, from ``start`` in epoch 0 towards 1, which it would reach after the last
    epoch: papers write t / T for a start of 0.
    """
    return start + (1 - start) * epoch / epochs
