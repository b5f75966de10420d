"""Figures of the classes: spectra of their covariances, confusion, and who lends to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltcli.cli.figure_parts import BLACK, BLUE, FEW, GREEN, GREY, RED, Facts, name_axis, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ltcli.cli.figure_parts import Array

STYLES: dict[str, dict[str, Any]] = {
    "estimated": {"color": BLUE, "linestyle": "-", "marker": "o", "markerfacecolor": "none"},
    "learned": {"color": RED, "linestyle": "--", "marker": "x"},
    "oracle": {"color": BLACK, "linestyle": ":", "marker": "^"},
    "estimated-oracle": {"color": BLUE, "linestyle": "-", "marker": "o", "markerfacecolor": "none"},
    "learned-oracle": {"color": RED, "linestyle": "--", "marker": "x"},
    "learned-estimated": {"color": GREEN, "linestyle": "-.", "marker": "s"},
}
WORDS = {
    "estimated": "estimated from the training images",
    "learned": "learned by the run",
    "oracle": "oracle: balanced data",
    "estimated-oracle": "estimated to oracle",
    "learned-oracle": "learned to oracle",
    "learned-estimated": "learned to estimated",
}


def spectra(facts: Facts) -> Figure:
    """Eigenvalues of the covariances of the smallest classes, in panels."""
    import numpy as np

    found = [n for n in ("estimated", "learned", "oracle") if f"spectrum.{n}" in facts.tensors]
    classes = facts.smallest
    columns = min(3, len(classes))
    rows = -(-len(classes) // columns)
    figure = new_figure(
        max(6.4, 3.6 * columns),
        3.2 * rows + 0.8,
        "Spectrum of the class covariances, smallest classes",
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for panel, c in zip(panels, classes, strict=False):
        for name in found:
            values = facts.tensors[f"spectrum.{name}"][c]
            # What is zero but for rounding is no part of a spectrum.
            shown = np.where(values > 1e-6 * max(values[0], 0), values, np.nan)
            ranks = np.arange(1, len(values) + 1)
            style = STYLES[name] | {"markersize": 4, "linewidth": 1.0}
            panel.plot(ranks, shown, label=WORDS[name], **style)
        panel.set_yscale("log")
        panel.set_title(f"{facts.names[c]} ({facts.counts[c]} images)", fontsize=10)
        panel.grid(alpha=0.3)
    for panel in panels[len(classes) :]:
        panel.set_visible(False)
    for panel in panels[: len(classes)]:
        panel.set_xlabel("rank of the eigenvalue")
    for panel in panels[::columns]:
        panel.set_ylabel("variance (feature units²)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def classes(facts: Facts) -> Figure:
    """Trace, effective rank, captured variance and angles of every class."""
    table = facts.tables["spectrum"]
    measures = [
        ("trace", "trace (feature units²)", 1.0),
        ("effective_rank", "effective rank", 1.0),
        ("captured", "oracle's variance in the\nleading directions (%)", 100.0),
        ("angle", "angle of leading\nsubspaces (degrees)", 1.0),
    ]
    shown = [entry for entry in measures if table[entry[0]]]
    width = 7.5 if len(facts.names) <= FEW else 10.0
    figure = new_figure(
        width, 2.1 * len(shown) + 1.2, "Covariances of the classes, largest class first"
    )
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True).flatten()
    for panel, (measure, label, scale) in zip(panels, shown, strict=True):
        for name, style in STYLES.items():
            if name in table[measure]:
                values = [scale * table[measure][name][c] for c in facts.order]
                panel.plot(values, label=WORDS[name], **style, markersize=5, linewidth=1)
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.axvline(facts.heads - 0.5, color=GREY, linewidth=1)
        panel.grid(alpha=0.3)
    title = "head classes left of the grey line, tail classes right of it"
    panels[0].set_title(title, fontsize=9)
    panels[0].legend(fontsize=8)
    if table["angle"]:
        panels[-1].legend(fontsize=8)
    name_axis(panels[-1], facts, facts.order, "x", "class (training images)", counts=True)
    return figure


def confusion(facts: Facts) -> Figure:
    """Confusion matrices before and after, and their difference."""
    import numpy as np

    errors = facts.tables["errors"]
    found = [name for name in ("before", "after") if name in errors]
    grid = np.ix_(facts.order, facts.order)
    shares = {name: 100 * facts.tensors[f"confusion.{name}"][grid] for name in found}
    for matrix in shares.values():
        # Classes without images stay blank.
        matrix[matrix.sum(1) == 0] = np.nan
    panels = [
        (f"{name}: {errors[name]['method']}", matrix, "cividis", 0.0, 100.0)
        for name, matrix in shares.items()
    ]
    if len(found) == 2:
        change = shares["after"] - shares["before"]
        most = max(1.0, float(np.nanmax(abs(change))))
        panels.append(("change: after - before", change, "PuOr_r", -most, most))
    width = 4.8 if len(facts.names) <= FEW else 5.6
    on = errors[found[0]]["on"]
    title = f"Confusion on the {on} images, % of each class (rows sum to 100)"
    figure = new_figure(width * len(panels), 0.9 * width + 0.2, title)
    for axes, (name, matrix, colours, low, high) in zip(
        figure.subplots(1, len(panels), squeeze=False).flatten(), panels, strict=True
    ):
        image = axes.imshow(matrix, cmap=colours, vmin=low, vmax=high)
        unit = "percentage points" if low < 0 else "% of the row's images"
        figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, label=unit)
        axes.set_title(name, fontsize=10)
        name_axis(axes, facts, facts.order, "x", "predicted class")
        name_axis(axes, facts, facts.order, "y", "true class, largest first")
        axes.axhline(facts.heads - 0.5, color=GREY, linewidth=1)
        axes.axvline(facts.heads - 0.5, color=GREY, linewidth=1)
        _write_cells(axes, matrix, low, high, signed=low < 0)
    return figure


def donors(facts: Facts) -> Figure:
    """Which classes lend variation to each tail class, by method."""
    import numpy as np

    words = {
        "risda": "RISDA: share of the variance",
        "feature-fusion": "feature fusion: share of the donors",
        "stg": "STG: share of nearest head classes",
    }
    found = [name for name in words if f"donors.{name}" in facts.tensors]
    tail = list(facts.order[facts.heads :])
    position = {c: i for i, c in enumerate(facts.tensors["tail"].tolist())}
    rows = [position[c] for c in tail]
    few = len(facts.names) <= FEW
    width = 4.6 if few else 5.4
    height = 0.75 * width * len(tail) / len(facts.names) + 1.7
    title = "Which classes lend variation to each tail class (%)"
    figure = new_figure(max(6.4, width * len(found)), height, title)
    panels = figure.subplots(1, len(found), squeeze=False).flatten()
    for axes, name in zip(panels, found, strict=True):
        matrix = 100 * facts.tensors[f"donors.{name}"][np.ix_(rows, facts.order)]
        image = axes.imshow(matrix, cmap="cividis", vmin=0, vmax=100)
        axes.set_title(words[name], fontsize=10)
        name_axis(axes, facts, facts.order, "x", "lending class")
        name_axis(axes, facts, tail, "y", "tail class")
        axes.axvline(facts.heads - 0.5, color="white", linewidth=1)
        _write_cells(axes, matrix, 0, 100)
    figure.colorbar(image, ax=panels, fraction=0.03, pad=0.01, label="% of the row")
    return figure


def _write_cells(
    axes: Axes, matrix: Array, low: float, high: float, *, signed: bool = False
) -> None:
    """Write the numbers into the cells of a small matrix, but for zeros."""
    import numpy as np

    if max(matrix.shape) > 12:
        return
    for (i, j), value in np.ndenumerate(matrix):
        text = format(value, "+.0f" if signed else ".0f")
        if text in ("0", "+0", "-0") or np.isnan(value):
            continue
        share = (value - low) / (high - low)
        # Dark cells: low ones of cividis, both ends of the diverging colours.
        dark = not 0.15 < share < 0.85 if signed else share < 0.5
        axes.text(
            j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else "black"
        )
