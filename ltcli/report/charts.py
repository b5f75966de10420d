"""The charts: one look in matplotlib for the page of ``report`` and the files of ``plot``.

Colours have names. Within a page they become CSS variables, so that one drawing follows light,
dark and print. Colour-blind readers can tell the colours apart, and lines differ in dashes too.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator

from ltcli.core.text import clipped, printable
from ltcli.report.models import FEW, Array, Model
from ltcli.report.provenance import Sidecar
from ltcli.stats.comparison import Row

# Text has a contrast of at least 4.5 to 1 on the paper, lines 3 to 1.
PAPER, INK, SOFT = "#ffffff", "#16191d", "#4d555e"
RULE, GRID, REFERENCE = "#c9ced4", "#e4e7ea", "#6b7280"
COLOURS = ("#0072b2", "#c24e00", "#00795a", "#a8487c", "#8a6100", "#333333")
# Names of the CSS variables.
PALETTE = {"paper": PAPER, "ink": INK, "soft": SOFT, "rule": RULE, "grid": GRID}
PALETTE |= {"reference": REFERENCE, **{f"c{i}": colour for i, colour in enumerate(COLOURS)}}
_DASHES = ("-", "--", ":", "-.", (0, (8, 3)), (0, (3, 3)))
# Charts of a page are as wide as a telephone, so that their text stays legible there; inches of 72
# CSS pixels.
WIDTH = 340 / 72
# Cells show their numbers up to so many classes.
NUMBERED = 12
# Single points up to NAMED classes; above, a cloud, since single points would be megabytes.
NAMED = 100
# Points of the mean line where classes have more different sizes than this.
GROUPS = 20
_FONT = "DejaVu Sans"
_LOOK: dict[str, object] = {"font.family": _FONT, "font.size": 9, "legend.fontsize": 8}
_LOOK |= {"axes.titlesize": 10, "figure.titlesize": 11, "legend.frameon": False}
_LOOK |= {"text.color": INK, "axes.labelcolor": INK, "xtick.color": SOFT, "ytick.color": SOFT}
_LOOK |= {"axes.edgecolor": REFERENCE, "axes.facecolor": "none", "grid.color": GRID}
_LOOK |= {"axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False}
# Class names are text: a dollar must not start a formula. Text stays text in a page: small,
# searchable, and in the reader's own font.
_LOOK |= {"text.parse_math": False, "svg.fonttype": "none"}
# Simplification would drop the cloud, whose lines have no length.
_LOOK["path.simplify"] = False
# An axis of accuracies; markers at 0 and 100 need room.
_PERCENT: Any = {"ylabel": "accuracy %", "ylim": (-2, 102), "yticks": range(0, 101, 25)}


@contextmanager
def _look(**more: str) -> Iterator[Figure]:
    """An empty figure in the look of ltcli, whatever the user's own matplotlibrc says."""
    with style.context(["default", _LOOK | more]), warnings.catch_warnings():
        # Browsers have fonts for what matplotlib's own font lacks; it only measures text here.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield Figure((WIDTH, WIDTH), layout="constrained")


def png(dpi: int, draw: Callable[..., object], *data: object) -> bytes:
    """Draw a PNG file; ``draw`` gives the figure its size, and ``data`` are its other arguments."""
    content = io.BytesIO()
    with _look() as figure:
        draw(figure, *data)
        # Long names on an axis may reach beyond the planned figure.
        figure.savefig(content, format="png", dpi=dpi, bbox_inches="tight", facecolor=PAPER)
    return content.getvalue()


def svg(label: str, draw: Callable[..., object], *data: object) -> Markup:
    """Draw an ``<svg>`` element for a page; equal charts give equal bytes.

    Screen readers read ``label``, which must be unique within a page, in place of the chart.
    """
    content, label = io.StringIO(), printable(label)
    # Identifiers are hashes of content and salt: without a salt they would be random, and with one
    # salt for all charts an element of one chart could be taken for that of another.
    with _look(**{"svg.hashsalt": label}) as figure:
        draw(figure, *data)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(content, format="svg", facecolor="none", metadata=nothing)
    # The style within is repeated by the page's own, once for all charts.
    drawn = content.getvalue().partition("</defs>")[2]
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">')
    size = (round(72 * side) for side in figure.get_size_inches())
    return head.format(*size, label) + Markup(re.sub(r"<[^>]*>", _shortened, drawn))


def _shortened(tag: re.Match[str]) -> str:
    """A tag with CSS variables for colours, and without what makes a page large."""
    text = tag[0].replace("\n", " ").replace(f"; font-family: '{_FONT}'", "")
    for name, colour in PALETTE.items():
        text = text.replace(colour, f"var(--{name})")
    # Names such as axes_1 would occur once per chart, and an id must be unique in a page.
    text = re.sub(r' id="[a-zA-Z.0-9]+_\d+"', "", text)
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", text)


def name_axis(axes: Axes, side: Literal["x", "y"], names: Sequence[str], label: str) -> None:
    """Name the classes along an axis, or each fifth or tenth ... where they are many."""
    step = 1 if len(names) <= FEW else 5 * -(-len(names) // 100)
    places, shown = range(0, len(names), step), [clipped(name, 24) for name in names[::step]]
    label = label if step == 1 else f"{label}; each {step}th is named"
    if side == "y":
        axes.set_yticks(places, shown, fontsize=8)
        axes.set_ylabel(label)
    else:
        turned = 90 if max(map(len, shown)) > 3 else 0
        axes.set_xticks(places, shown, fontsize=8, rotation=turned)
        axes.set_xlabel(label)


def cells(axes: Axes, percent: Array, most: float, *, signed: bool = False) -> ScalarMappable:
    """Draw a matrix by opacity, which works on white, black and paper, with numbers if small.

    ``percent`` is float [rows, columns], NaN for blank cells; ``most`` has the full colour, and
    ``signed`` draws negative values in another one.
    """
    full, low = to_rgba(COLOURS[0]), -most if signed else 0
    ends = [to_rgba(COLOURS[1]), to_rgba(PAPER, 0), full] if signed else [(*full[:3], 0), full]
    colours = LinearSegmentedColormap.from_list("opacity", ends)
    drawn: ScalarMappable
    if max(percent.shape) <= NAMED:
        # Cells of a mesh are vectors; an image within a page could not follow its colours.
        rows, columns = (np.arange(size + 1) - 0.5 for size in percent.shape)
        drawn = axes.pcolormesh(columns, rows, percent, cmap=colours, vmin=low, vmax=most)
        axes.invert_yaxis()
        axes.set_aspect("equal")
    else:
        # A mesh of some thousand classes would take gigabytes.
        drawn = axes.imshow(percent, cmap=colours, vmin=low, vmax=most)
    axes.spines[:].set_visible(True)
    if max(percent.shape) <= NUMBERED:
        for (i, j), value in np.ndenumerate(percent):
            text = "" if np.isnan(value) else format(value, "+.0f" if signed else ".0f")
            depth = abs(value) / most
            # Text must be legible on every opacity, in light and in dark colours.
            colour = PAPER if depth >= 0.92 else "#010101" if depth >= 0.65 else INK
            if text.strip("+-") not in ("", "0"):
                axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    return drawn


def confusion(
    figure: FigureBase, percent: Array, names: Sequence[str], *, change: bool = False
) -> tuple[Axes, ScalarMappable]:
    """Draw how many percent of the images of each row's class are taken for each column's class.

    ``percent``, float [C, C], has rows that sum to 100, or NaN for a class without images; with
    ``change`` it is the difference of two such matrices, drawn in two colours.
    """
    axes = figure.subplots()
    most = max(1.0, float(np.nanmax(abs(percent)))) if change else 100
    name_axis(axes, "x", names, "predicted class")
    name_axis(axes, "y", names, "true class, largest first")
    return axes, cells(axes, percent, most, signed=change)


def intervals(figure: Figure, rows: Sequence[Row]) -> None:
    """Draw the accuracy of each row with its interval, and a dashed line at the first row."""
    figure.set_figheight(0.5 * len(rows) + 0.7)
    axes = figure.subplots()
    axes.axvline(100 * rows[0].accuracy, color=REFERENCE, linestyle="--", linewidth=1.2)
    for i, row in enumerate(rows):
        axes.plot([100 * share for share in row.interval], [i, i], color=COLOURS[0], linewidth=2.5)
        axes.plot(100 * row.accuracy, i, "o", color=COLOURS[0], markeredgecolor=PAPER)
        # Names are too long for an axis. A patch of paper keeps the line from crossing them.
        patch = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
        place = axes.get_yaxis_transform()
        axes.annotate(clipped(row.name, 48), (0, i), (0, 8), place, "offset points", bbox=patch)
    # Downwards: the first row is the upper one.
    axes.set(ylim=(len(rows) - 0.6, -0.9), yticks=[], xlabel="accuracy %")
    axes.spines["left"].set_visible(False)


def class_sizes(figure: Figure, model: Model, first: Model, bounds: Sequence[float]) -> None:
    """Draw the accuracy of each class against its training images, and the means of ``first``.

    ``bounds`` are the training images between few, medium and many.
    """
    figure.set_figheight(3.2)
    axes, counts = figure.subplots(), model.counts
    low, high = min(*counts, *first.counts), max(*counts, *first.counts)
    # log(1 + n) has a place for classes without training images.
    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    for bound in bounds:
        if low < bound < high:
            axes.axvline(bound, color=REFERENCE, linestyle=":", linewidth=1)
    reference = means(first.counts, first.accuracies)
    axes.plot(*reference, color=REFERENCE, linestyle="--", linewidth=1.3)
    axes.plot(*means(counts, model.accuracies), color=COLOURS[0], linewidth=1.6)
    if len(counts) <= NAMED:
        (points,) = axes.plot(counts, model.accuracies, "o", color=COLOURS[0])
        points.set(markeredgecolor=PAPER, markersize=5)
    else:
        # Lines without length: round ends make each a dot, of a quarter of a marker's bytes.
        ends = np.stack([counts, model.accuracies])[:, :, None].repeat(3, 2)
        ends[:, :, 2] = np.nan
        (cloud,) = axes.plot(*ends.reshape(2, -1), color=COLOURS[0], linewidth=3.5, alpha=0.35)
        cloud.set_solid_capstyle("round")
    axes.set_xticks(ticks := count_ticks(low, high), [f"{n:,}" for n in ticks])
    axes.set(xlabel="training images of the class", **_PERCENT)
    axes.grid(axis="y")


def means(counts: Sequence[int], shares: Array) -> tuple[Array, Array]:
    """Mean training images and mean share of the classes of each size, the smallest first.

    Classes of similar size are averaged where there are many sizes.
    """
    sizes, known = np.array(counts, dtype=float), ~np.isnan(shares)
    groups = sizes
    if len(np.unique(sizes[known])) > GROUPS:
        edges = np.linspace(np.log1p(sizes.min()), np.log1p(sizes.max()), GROUPS + 1)
        groups = np.digitize(np.log1p(sizes), edges[1:-1])
    members = [known & (groups == group) for group in np.unique(groups[known])]
    centres, heights = (np.array([of[m].mean() for m in members]) for of in (sizes, shares))
    return centres, heights


def count_ticks(low: int, high: int) -> list[int]:
    """Ticks of a logarithmic axis of counts: 0 and powers of ten, or steps of 1, 2 and 5."""
    powers = [10**i for i in range(len(str(high)))]
    found = [n for n in (0, *powers) if low <= n <= high]
    if len(found) < 3:
        found = [f * n for n in powers for f in (1, 2, 5) if low <= f * n <= high]
    return found or [low]


def reliability(figure: Figure, bins: Array) -> None:
    """Draw accuracy against confidence, the diagonal, and the images of each bin as grey bars."""
    figure.set_figheight(3.8)
    axes, (images, confidence, accuracy) = figure.subplots(), bins.T
    # A bar of a quarter of the height would be all images: the bars stay below the points.
    axes.bar(confidence, 25 * images / images.sum(), width=2.5, color=REFERENCE, alpha=0.45)
    axes.plot([0, 100], [0, 100], color=REFERENCE, linestyle="--", linewidth=1.3)
    axes.plot(confidence, accuracy, "o-", color=COLOURS[0], linewidth=1.6, markeredgecolor=PAPER)
    axes.set(xlabel="confidence %", xlim=(-2, 102), **_PERCENT)
    axes.grid(axis="y")


def curves(figure: Figure, runs: Mapping[str, Sidecar]) -> None:
    """Draw each measure over the epochs in a strip, the loss first and the learning rate last."""
    found = {measure for run in runs.values() for measure in run.epochs}
    order = sorted(found, key=lambda name: (name != "loss", name == "learning_rate", name))
    figure.set_figheight(0.85 * len(order) + 1.4 + 0.2 * len(runs) * (len(runs) > 1))
    heights = [2 if measure == "loss" else 1 for measure in order]
    strips = figure.subplots(len(order), 1, squeeze=False, sharex=True, height_ratios=heights)
    for axes, measure in zip(strips.flatten(), order, strict=True):
        lines = []
        for i, run in enumerate(runs.values()):
            curve = run.epochs.get(measure, {})
            look = {"color": COLOURS[i % 6], "linestyle": _DASHES[i % 6], "linewidth": 1.7}
            epochs, marker = [epoch + 1 for epoch in curve], "o" if len(curve) == 1 else None
            lines += axes.plot(epochs, list(curve.values()), marker=marker, **look)
        # Every strip shows zero: how far a loss fell is a ratio.
        axes.axhline(0, color=RULE, linewidth=0.8)
        axes.set_title(clipped(measure.replace("_", " ")), loc="left", fontsize=9)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("epoch")
    if len(runs) > 1:
        # A legend leaves out names that start with an underscore; a space before it is unseen.
        figure.legend(lines, [f" {clipped(name, 48)}" for name in runs], loc="outside lower left")
