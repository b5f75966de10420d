"""What the figures of a report are drawn with: scales, ticks, axes, lines. Pure functions to SVG.

Drawings are 340 units wide, about the width of a telephone, so that their text stays legible there;
on a wider window several stand side by side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ltcli.cli.report.markup import Markup, element, number

WIDTH = 340
Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """From values to places along one side of a drawing.

    Attributes:
        low: Value at ``start``.
        high: Value at ``end``.
        start: Place, units of the drawing.
        end: Place.
        logarithmic: By log(1 + value), which has a place for 0.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies; the middle where all values are one."""
        low, high = self._measure(self.low), self._measure(self.high)
        share = 0.5 if high == low else (self._measure(value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def _measure(self, value: float) -> float:
        return math.log1p(value) if self.logarithmic else value


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most ``most`` >= 2 round values (1, 2 or 5 times a power of ten) in low..high."""
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    found: list[float] = []
    # Twenty powers are at least twice the distance that would do.
    for step in (factor * power for factor in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        found = [i * step for i in range(first, last + 1)]
        if len(found) <= most:
            break
    return found


def count_ticks(low: int, high: int) -> list[int]:
    """Return values of a logarithmic axis of counts: 0 and powers of ten, or steps of 1, 2, 5."""
    powers = [10**i for i in range(len(str(high)))]
    found = [n for n in (0, *powers) if low <= n <= high]
    if len(found) < 3:
        found = [f * n for n in powers for f in (1, 2, 5) if low <= f * n <= high]
    return found or [low]


def short(value: float) -> str:
    """Return a value as a tick is labelled."""
    return "0" if value == 0 else f"{value:.6g}"


def drawing(height: float, label: str, *children: Markup) -> Markup:
    """Return a whole drawing; the label is what is read out in place of it."""
    box = f"0 0 {WIDTH} {number(height)}"
    return element("svg", *children, viewBox=box, role="img", aria_label=label)


def words(x: float, y: float, text: str, anchor: str = "start", class_: str = "tick") -> Markup:
    """Return text in a drawing, standing on y."""
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def line(points: Sequence[Point], class_: str, *children: Markup) -> Markup:
    """Return a line through points; one point alone gives a dot."""
    steps = " ".join(f"{number(x)} {number(y)}" for x, y in points)
    return element(
        "path", *children, d=f"M{steps}" if len(points) > 1 else dots(points), class_=class_
    )


def dots(points: Sequence[Point]) -> str:
    """Return the path of lines without length, which round ends make dots of."""
    return "".join(f"M{number(x)} {number(y)}h0" for x, y in points)


def spot(x: float, y: float, title: str) -> Markup:
    """Return a point that tells what it is when pointed at."""
    return element("circle", element("title", title), cx=x, cy=y, r=3.5, class_="spot")


def segment(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return one straight line."""
    return line([(x1, y1), (x2, y2)], class_)


def axes(
    x: Scale,
    y: Scale,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    x_label: str,
    y_label: str,
) -> list[Markup]:
    """Return the grid, the numbers along it and what they count; y's label stands on top."""
    parts = []
    for value, text in y_ticks:
        place = y.place(value)
        parts.append(segment(x.start, place, x.end, place, "grid"))
        parts.append(words(x.start - 5, place + 3.5, text, "end"))
    for value, text in x_ticks:
        place = x.place(value)
        parts.append(segment(place, y.start, place, y.start + 4, "axis"))
        parts.append(words(place, y.start + 15, text, "middle"))
    parts.append(segment(x.start, y.start, x.end, y.start, "axis"))
    if x_label:
        parts.append(words((x.start + x.end) / 2, y.start + 30, x_label, "middle", "label"))
    parts.append(words(2, y.end - 10, y_label, class_="label"))
    return parts


def key(style: int) -> Markup:
    """Return a short piece of the line of a style, for a legend."""
    piece = segment(2, 5, 32, 5, f"line{style}")
    return element("svg", piece, viewBox="0 0 34 10", aria_hidden="true")
