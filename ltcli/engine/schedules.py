"""Published CIFAR-LT schedules by name, with all their numbers.

Epochs count from 0. Milestones are those of the published length, and move in proportion if a run
is longer or shorter.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """One published schedule.

    Attributes:
        warmup: Epochs of linear warm-up: lr * (epoch + 1) / warmup.
        milestones: First epoch of each later phase.
        factors: Multiple of the base rate in each of these phases; cosine decay without any.
        pad_mode: Padding of images before the random crop: constant (zeros) or reflect.
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


# Training images of CIFAR-10-LT at factor 100, for which papers state epochs of a classifier.
PUBLISHED_IMAGES = 12_406
MIN_STEPS = "fewest steps on features; default: as for 12,406 images"
_SHARP = (0.01, 0.0001)
_GENTLE = (0.1, 0.01)

# From the authors' released code; "epoch 160" of a script that counts from 1 is 159 here.
# metasaug also serves meta-class-weight. BBN's own warm-up begins at 0.47 of the rate, not 0.2.
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
    """Learning rate of an epoch, from 0, in a run of so many epochs."""
    # Warm-up is not scaled with the run: its purpose is the first steps.
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


def epochs_for(epochs: int, min_steps: int | None, samples: int, batch_size: int) -> int:
    """Epochs of a run on features that takes at least so many steps; never fewer than ``epochs``.

    None stands for the steps of the published setting: an epoch of a small data set has a few, and
    a classifier that is fresh after ten of them is hardly trained.
    """
    if min_steps is None:
        min_steps = epochs * -(-PUBLISHED_IMAGES // batch_size)
    return max(epochs, -(-min_steps // max(1, -(-samples // batch_size))))


def ramp(start: float, epoch: int, epochs: int) -> float:
    """Fraction of an augmentation's strength in an epoch, linear from ``start`` in epoch 0 to 1.

    It would reach 1 after the last epoch: papers write t / T for a start of 0.
    """
    return start + (1 - start) * epoch / epochs
