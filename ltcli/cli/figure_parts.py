"""What the figures of a diagnosis have in common: its facts, colours and named axes.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; lines and points have
their own dashes and markers as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Array = np.ndarray[Any, Any]

# Names on axes, numbers in cells: up to so many classes.
FEW = 20
# Classes that get a panel or a colour of their own.
PANELS = 6
BLUE, ORANGE, GREEN, PINK, SKY, RED, BLACK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#000000",
    "#999999",
)
CLASS_COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY)


@dataclass(frozen=True)
class Facts:
    """A diagnosis.

    Attributes:
        tensors: As in the artifact.
        tables: Its numbers.
        names: Of the classes.
        counts: Training images of the classes.
        order: Classes, the largest first.
        heads: Number of head classes.
    """

    tensors: Mapping[str, Array]
    tables: Mapping[str, Any]
    names: Sequence[str]
    counts: Sequence[int]
    order: Sequence[int]
    heads: int

    @property
    def smallest(self) -> list[int]:
        """The classes that were looked at image by image, of which so many can be drawn."""
        return list(self.tables["smallest"][:PANELS])


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure, sizes in inches, that makes room for all its labels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure


def name_axis(
    axes: Axes,
    facts: Facts,
    classes: Sequence[int],
    side: Literal["x", "y"],
    label: str,
    *,
    counts: bool = False,
) -> None:
    """Name the classes along an axis, or some of them where they are many."""
    step = 1 if len(classes) <= FEW else 5 * -(-len(classes) // 100)
    places = list(range(0, len(classes), step))
    names = [
        facts.names[classes[i]] + (f" ({facts.counts[classes[i]]})" if counts else "")
        for i in places
    ]
    words = label if step == 1 else f"{label}; each {step}th is named"
    if side == "y":
        axes.set_yticks(places, names, fontsize=8 if step == 1 else 7)
        axes.set_ylabel(words)
        return
    axes.set_xlabel(words)
    if step == 1:
        style: dict[str, Any] = {
            "rotation": 40,
            "ha": "right",
            "rotation_mode": "anchor",
            "fontsize": 8,
        }
    else:
        style = {"rotation": 90, "fontsize": 7}
    axes.set_xticks(places, names, **style)
