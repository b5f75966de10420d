"""The figures of a report, each from plain numbers to one drawing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ltcli.cli.report.drawing import (
    WIDTH,
    Scale,
    axes,
    count_ticks,
    dots,
    drawing,
    line,
    segment,
    short,
    spot,
    ticks,
    words,
)
from ltcli.cli.report.markup import Markup, element

if TYPE_CHECKING:
    from ltcli.cli.report.models import Bin
    from ltcli.stats.comparison import Row

# Classes whose points are named when pointed at; numbers in the cells of a matrix.
NAMED, NUMBERED = 100, 12
# Groups of classes that a line goes through, where there are more different sizes.
GROUPS = 20
LINES = 6
_PERCENT = [(share / 100, str(share)) for share in (0, 25, 50, 75, 100)]


def intervals(rows: Sequence["Row"]) -> Markup:
    """Accuracy of each row with its interval; a dashed line at the first row."""
    high, low = max(row.interval[1] for row in rows), min(row.interval[0] for row in rows)
    margin = 0.04 * (high - low)
    x = Scale(100 * (low - margin), 100 * (high + margin), 8, WIDTH - 8)
    bottom = 34 * len(rows) + 4
    at = x.place(100 * rows[0].accuracy)
    parts = [segment(at, 4, at, bottom, "reference")]
    for i, row in enumerate(rows):
        y = 34 * i + 26
        ends = [x.place(100 * share) for share in row.interval]
        text = f"{100 * row.interval[0]:.2f} .. {100 * row.interval[1]:.2f}"
        title = f"{row.name}: {100 * row.accuracy:.2f} % ({text})"
        parts.append(words(8, y - 8, clipped(row.name, 48), class_="tick over"))
        parts.append(segment(ends[0], y, ends[1], y, "whisker"))
        parts.append(spot(x.place(100 * row.accuracy), y, title))
    marks = [(value, short(value)) for value in ticks(x.low, x.high, 6)]
    y_scale = Scale(0, 1, bottom, 4)
    parts += axes(x, y_scale, marks, [], "accuracy %", "")
    return drawing(bottom + 36, "Accuracy of each row with its interval", *parts)


def by_class_size(
    accuracies: Sequence[float | None],
    counts: Sequence[int],
    reference: Sequence[tuple[float, float]],
    names: Sequence[str],
    bounds: Sequence[float],
    label: str,
) -> Markup:
    """Accuracy of each class against its training images, and the line of the first row.

    Args:
        accuracies: Of each class, 0..1; None where there are no test images.
        counts: Training images.
        reference: Training images and mean accuracy of groups of classes of the first row.
        names: Of the classes.
        bounds: Training images between few, medium and many.
        label: What it is called where it cannot be seen.
    """
    groups = [round(n) for n, _ in reference]
    low, high = min(*counts, *groups), max(*counts, *groups)
    x = Scale(low, high, 36, WIDTH - 12, logarithmic=True)
    y = Scale(0, 1, 196, 22)
    marks = [(n, f"{n:,}") for n in count_ticks(low, high)]
    parts = axes(x, y, marks, _PERCENT, "training images of the class", "accuracy %")
    for bound in bounds:
        if low < bound < high:
            parts.append(segment(x.place(bound), y.start, x.place(bound), y.end, "bound"))
    lines = []
    for found, class_ in ((reference, "reference"), (means(accuracies, counts), "line0")):
        places = [(x.place(n), y.place(share)) for n, share in found]
        lines.append(line(places, class_))
    shown = [(c, share) for c, share in enumerate(accuracies) if share is not None]
    points = [(x.place(counts[c]), y.place(share)) for c, share in shown]
    if len(counts) > NAMED:
        cloud = element("path", d=dots(points), class_="cloud")
        return drawing(232, label, *parts, cloud, *lines)
    spots = []
    for (c, share), (px, py) in zip(shown, points, strict=True):
        title = f"{names[c]}: {counts[c]:,} training images, {100 * share:.1f} %"
        spots.append(spot(px, py, title))
    return drawing(232, label, *parts, *lines, *spots)


def means(shares: Sequence[float | None], counts: Sequence[int]) -> list[tuple[float, float]]:
    """Average classes of one size, or of similar size where there are many sizes.

    Returns:
        Mean training images and mean share of each group, the smallest classes first.
    """
    known = [(n, share) for n, share in zip(counts, shares, strict=True) if share is not None]
    groups: dict[int, list[tuple[int, float]]] = {}
    few = len({n for n, _ in known}) <= GROUPS
    bins = Scale(min(counts), max(counts), 0, GROUPS, logarithmic=True)
    for n, share in sorted(known):
        key = n if few else min(int(bins.place(n)), GROUPS - 1)
        groups.setdefault(key, []).append((n, share))
    return [
        (sum(n for n, _ in group) / len(group), sum(share for _, share in group) / len(group))
        for group in groups.values()
    ]


def reliability(bins: Sequence["Bin"], label: str) -> Markup:
    """Accuracy against confidence, the diagonal, and how the images spread over confidence."""
    x, y = Scale(0, 1, 36, WIDTH - 12), Scale(0, 1, 236, 22)
    parts = axes(x, y, _PERCENT, _PERCENT, "confidence %", "accuracy %")
    total = sum(found.images for found in bins)
    for found in bins:
        # Bars of a quarter of the height would be all images.
        top = y.place(0.25 * found.images / total)
        middle, half = x.place(found.confidence), 4
        box = {"x": middle - half, "y": top, "width": 2 * half, "height": y.start - top}
        parts.append(element("rect", **box, class_="bar"))
    parts.append(segment(x.place(0), y.place(0), x.place(1), y.place(1), "reference"))
    points = [(x.place(found.confidence), y.place(found.accuracy)) for found in bins]
    parts.append(line(points, "line0"))
    for found, (px, py) in zip(bins, points, strict=True):
        shares = f"confidence {100 * found.confidence:.1f} %, accuracy {100 * found.accuracy:.1f} %"
        parts.append(spot(px, py, f"{shares}, {found.images:,} images"))
    return drawing(272, label, *parts)


def confusion(matrix: Sequence[Sequence[float]], names: Sequence[str], label: str) -> Markup:
    """Share of the images of each row's class that were taken for each column's.

    Args:
        matrix: In the order that is shown, 0..1.
        names: In the same order.
        label: What it is called where it cannot be seen.
    """
    left, cell = 92, (WIDTH - 94) / len(names)
    bottom = 4 + cell * len(names)
    parts = []
    for i, name in enumerate(names):
        middle = (i + 0.5) * cell
        parts.append(words(left - 5, 4 + middle + 3.5, clipped(name, 12), "end"))
        turned = f"translate({left + middle + 3.5:.2f} {bottom + 5:.2f}) rotate(-90)"
        text = clipped(name, 12)
        parts.append(element("text", text, transform=turned, text_anchor="end", class_="tick"))
        for j, share in enumerate(matrix[i]):
            if share > 0:
                title = f"{name} taken for {names[j]}: {100 * share:.1f} %"
                parts.append(_cell(left + j * cell, 4 + i * cell, cell, share, title))
                if len(names) <= NUMBERED and f"{100 * share:.0f}" != "0":
                    parts.append(_percent(left + (j + 0.5) * cell, 4 + middle + 3.5, share))
    frame = {"x": left, "y": 4, "width": cell * len(names), "height": cell * len(names)}
    parts.append(element("rect", **frame, class_="frame"))
    longest = max(len(clipped(name, 12)) for name in names)
    return drawing(bottom + 10 + 7 * longest, label, *parts)


def _cell(x: float, y: float, size: float, share: float, title: str) -> Markup:
    place = {"x": x, "y": y, "width": size, "height": size, "fill_opacity": max(share, 0.01)}
    return element("rect", element("title", title), **place, class_="cell")


def _percent(x: float, y: float, share: float) -> Markup:
    # On which the numbers can be read, in light and dark colours.
    depth = "high" if share >= 0.92 else "middle" if share >= 0.65 else "low"
    return words(x, y, f"{100 * share:.0f}", "middle", f"value {depth}")


def curves(runs: Sequence[tuple[str, Mapping[str, Mapping[int, float]]]], label: str) -> Markup:
    """Measures over epochs, one strip each: the loss first, the learning rate last.

    Args:
        runs: Name and curves of each run; a curve is value by epoch from 0.
        label: What it is called where it cannot be seen.
    """
    measures = {measure for _, found in runs for measure in found}
    order = sorted(measures, key=lambda name: (name != "loss", name == "learning_rate", name))
    epochs = [e + 1 for _, found in runs for curve in found.values() for e in curve]
    x = Scale(min(epochs), max(epochs), 44, WIDTH - 10)
    marks = [(e, short(e)) for e in ticks(x.low, x.high, 6) if e == int(e)]
    parts, top = [], 0.0
    for measure in order:
        found = [curve.get(measure, {}) for _, curve in runs]
        values = [value for curve in found for value in curve.values()]
        height = 110 if measure == "loss" else 56
        y = Scale(min(0, *values), max(0, *values), top + 22 + height, top + 22)
        y_ticks = [(value, short(value)) for value in ticks(y.low, y.high, 4)]
        last = measure == order[-1]
        x_label = "epoch" if last else ""
        parts += axes(x, y, marks if last else [], y_ticks, x_label, measure.replace("_", " "))
        for i, (curve, (name, _)) in enumerate(zip(found, runs, strict=True)):
            points = [(x.place(e + 1), y.place(value)) for e, value in curve.items()]
            if points:
                parts.append(line(points, f"line{i % LINES}", element("title", name)))
        top += height + 30
    return drawing(top + 28, label, *parts)


def clipped(text: str, most: int) -> str:
    """Return at most so many characters of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
