"""The figures of ``plot``, one for each thing that ``diagnose`` measures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ltcli.artifacts.header import Header
from ltcli.artifacts.store import save_bytes
from ltcli.core.text import clipped
from ltcli.report import charts
from ltcli.report.charts import COLOURS, INK, PAPER, REFERENCE, RULE, name_axis
from ltcli.report.models import FEW, Array
from ltcli.stages.diagnosis_tables import ORIGINS, Diagnosis, read

# Classes that get a panel or a colour of their own.
PANELS = 6
_WORDS = {"real": "real image", "gaussian": "Gaussian (ISDA)", "generator": "generator (STG)"}
# Words, colour, dashes and marker of each covariance and of each pair of them.
_LINES = {
    "estimated": ("estimated from the training images", COLOURS[0], "-", "o"),
    "learned": ("learned by the run", COLOURS[1], "--", "x"),
    "oracle": ("oracle: balanced data", INK, ":", "^"),
    "estimated-oracle": ("estimated to oracle", COLOURS[0], "-", "o"),
    "learned-oracle": ("learned to oracle", COLOURS[1], "--", "x"),
    "learned-estimated": ("learned to estimated", COLOURS[2], "-.", "s"),
}


def write_figures(header: Header, out: Path | None, dpi: int) -> list[Path]:
    """Draw what a diagnosis holds, one PNG file per figure, in ``out`` or beside the diagnosis."""
    found = read(header)
    found = replace(found, names=[clipped(name, 24) for name in found.names])
    folder, made = header.path.parent if out is None else out, []
    figures = {"spectrum": spectra, "classes": covariances, "confusion": confusion, "tsne": tsne}
    figures |= {"neighbours": neighbours, "divergences": divergences, "donors": donors}
    for name, draw in (figures | {"pictures": pictures}).items():
        # A figure is left out where the diagnosis has no tensor of its first input.
        needs = {"classes": "spectrum", "tsne": "samples"}.get(name, name)
        if any(tensor.partition(".")[0] == needs for tensor in found.tensors):
            made.append(folder / f"{header.path.stem}-{name}.png")
            save_bytes(made[-1], charts.png(dpi, draw, found))
    return made


def _line(axes: Axes, which: str, x: Array, y: Array) -> None:
    words, colour, dashes, marker = _LINES[which]
    (line,) = axes.plot(x, y, label=words, color=colour, linestyle=dashes, linewidth=1)
    line.set(marker=marker, markerfacecolor="none", markersize=4.5)


def spectra(figure: Figure, found: Diagnosis) -> None:
    """Eigenvalues of the covariances of the smallest classes, in panels."""
    classes = found.smallest[:PANELS]
    columns = min(3, len(classes))
    rows = -(-len(classes) // columns)
    figure.set_size_inches(max(6.4, 3.6 * columns), 3.2 * rows + 0.8)
    figure.suptitle("Spectrum of the class covariances, smallest classes (training images)")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, c in zip(panels.flatten(), classes, strict=False):
        for which in ("estimated", "learned", "oracle"):
            if f"spectrum.{which}" in found.tensors:
                values = found.tensors[f"spectrum.{which}"][c].numpy()
                # Eigenvalues that are zero but for rounding are no part of a spectrum.
                shown = np.where(values > 1e-6 * max(values[0], 0), values, np.nan)
                _line(axes, which, np.arange(1, len(values) + 1), shown)
        title = f"{found.names[c]} ({found.counts[c]})"
        axes.set(yscale="log", title=title, xlabel="rank of the eigenvalue")
        # The usual numbers of a logarithmic axis are formulas, which the look switches off.
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid()
    for axes in panels.flatten()[len(classes) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("variance (feature units²)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def covariances(figure: Figure, found: Diagnosis) -> None:
    """Trace, effective rank, captured variance and angles of every class."""
    labels = {"trace": "trace (feature units²)", "effective_rank": "effective rank"}
    labels["captured"] = "oracle's variance in the\nleading directions (%)"
    labels["angle"] = "angle of leading\nsubspaces (degrees)"
    table = {measure: lines for measure, lines in found.covariances().items() if lines}
    figure.set_size_inches(7.5 if len(found.names) <= FEW else 10, 2.1 * len(table) + 1.2)
    figure.suptitle("Covariances of the classes: head classes left of the line, largest first")
    panels = figure.subplots(len(table), 1, squeeze=False, sharex=True).flatten()
    for axes, (measure, lines) in zip(panels, table.items(), strict=True):
        for which, values in lines.items():
            shown = np.array(values)[found.order] * (100 if measure == "captured" else 1)
            _line(axes, which, np.arange(len(values)), shown)
        axes.set_ylabel(labels[measure])
        # Every panel shows zero: traces and ranks are compared as ratios.
        axes.set_ylim(bottom=0)
        axes.axvline(found.num_heads - 0.5, color=REFERENCE, linewidth=1)
        axes.grid()
    panels[0].legend()
    if "angle" in table:
        # Angles are of pairs, which have lines of their own.
        panels[-1].legend()
    names = [f"{found.names[c]} ({found.counts[c]})" for c in found.order]
    name_axis(panels[-1], "x", names, "class (training images)")


def confusion(figure: Figure, found: Diagnosis) -> None:
    """Confusion matrices before and after, and their difference."""
    names, panels = [found.names[c] for c in found.order], []
    for role, of in found.predictions.items():
        percent = 100 * found.tensors[f"confusion.{role}"].numpy()[np.ix_(found.order, found.order)]
        # Classes without images stay blank.
        percent[percent.sum(1) == 0] = np.nan
        panels.append((f"{role}: {of['method']}", percent, False))
    if len(panels) == 2:
        panels.append(("change: after - before", panels[1][1] - panels[0][1], True))
    size = 4.8 if len(names) <= FEW else 5.6
    figure.set_size_inches(size * len(panels), 0.9 * size + 0.2)
    on = next(iter(found.predictions.values()))["on"]
    figure.suptitle(f"Confusion on the {on} images, % of each class (rows sum to 100)")
    parts = figure.subfigures(1, len(panels), squeeze=False).flatten()
    for part, (title, percent, change) in zip(parts, panels, strict=True):
        axes, mesh = charts.confusion(part, percent, names, change=change)
        axes.set_title(title)
        unit = "percentage points" if change else "% of the row's images"
        part.colorbar(mesh, ax=axes, fraction=0.046, pad=0.03, label=unit)
        axes.axhline(found.num_heads - 0.5, color=REFERENCE, linewidth=1)
        axes.axvline(found.num_heads - 0.5, color=REFERENCE, linewidth=1)


def donors(figure: Figure, found: Diagnosis) -> None:
    """Classes that lend variation to each tail class, by method."""
    words = {
        "risda": "RISDA: share of the variance",
        "feature-fusion": "feature fusion: share of the donors",
        "stg": "STG: share of nearest head classes",
    }
    methods = [name for name in words if f"donors.{name}" in found.tensors]
    names, tail = [found.names[c] for c in found.order], found.order[found.num_heads :]
    # Rows of the tensor are in the order of class numbers, those of the figure by size.
    rows = [found.tail.index(c) for c in tail]
    width = 4.6 if len(names) <= FEW else 5.4
    height = 0.75 * width * len(tail) / len(names) + 1.7
    figure.set_size_inches(max(6.4, width * len(methods)), height)
    figure.suptitle("Classes that lend variation to each tail class (%)")
    panels = figure.subplots(1, len(methods), squeeze=False).flatten()
    for axes, name in zip(panels, methods, strict=True):
        percent = 100 * found.tensors[f"donors.{name}"].numpy()[np.ix_(rows, found.order)]
        mesh = charts.cells(axes, percent, 100)
        axes.set_title(words[name])
        name_axis(axes, "x", names, "lending class")
        name_axis(axes, "y", names[found.num_heads :], "tail class")
        axes.axvline(found.num_heads - 0.5, color=REFERENCE, linewidth=1)
    figure.colorbar(mesh, ax=panels, fraction=0.03, pad=0.01, label="% of the row")


def tsne(figure: Figure, found: Diagnosis) -> None:
    """Real and generated features in the plane."""
    from sklearn.manifold import TSNE

    names = ("features", "labels", "origin")
    features, labels, origin = (found.tensors[f"samples.{name}"].numpy() for name in names)
    perplexity = min(30.0, (len(features) - 1) / 3)
    # One number has no two principal components to start from.
    init = "pca" if features.shape[1] > 1 else "random"
    places = TSNE(perplexity=perplexity, init=init, random_state=0).fit_transform(features)
    made = [name for name in ORIGINS[1:] if (origin == ORIGINS.index(name)).any()]
    figure.set_size_inches(5.2 * len(made) + 2.4, 5.2)
    figure.suptitle("t-SNE of real and augmented features, one map for all panels")
    beside = sorted(set(labels.tolist()) - set(found.smallest))
    panels = figure.subplots(1, len(made), squeeze=False).flatten()
    # Words come before names, since a legend leaves out names that start with an underscore.
    for axes, name in zip(panels, made, strict=True):
        for c, marker in zip(beside, "sDv^<>" * len(beside), strict=False):
            points, words = places[labels == c].T, f"real, {found.names[c]} (head)"
            axes.scatter(*points, label=words, marker=marker, s=14, color=RULE, linewidths=0)
        for c, colour in zip(found.smallest, COLOURS, strict=False):
            real = places[(labels == c) & (origin == 0)].T
            new = places[(labels == c) & (origin == ORIGINS.index(name))].T
            words, look = found.names[c], {"s": 22, "linewidths": 1}
            axes.scatter(*real, label=f"real, {words}", c="none", edgecolors=colour, **look)
            axes.scatter(*new, label=f"augmented, {words}", marker="x", color=colour, **look)
        # Places of t-SNE have no unit.
        axes.set(title=_WORDS[name], xticks=[], yticks=[])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")


def neighbours(figure: Figure, found: Diagnosis) -> None:
    """Classes of the nearest real images, as stacked bars."""
    table, classes = found.neighbours(), found.smallest[:PANELS]
    bars = [(i, c, name) for i, c in enumerate(classes) for name in table]
    k = found.tensors["neighbours.labels"].shape[1]
    figure.set_size_inches(7.8, 0.32 * len(bars) + 1.8)
    figure.suptitle(f"Classes of the {k} nearest other training images of a feature")
    axes, left = figure.subplots(), np.zeros(len(bars))
    for key, label, colour, hatch in (
        ("own", "own class", COLOURS[0], ""),
        ("head", "a head class", COLOURS[1], "//"),
        ("tail", "another tail class", REFERENCE, ".."),
    ):
        values = np.array([100 * table[name][i][key] for i, _, name in bars])
        look: Any = {"color": colour, "hatch": hatch, "edgecolor": PAPER}
        axes.barh(range(len(bars)), values, height=0.75, left=left, label=label, **look)
        left += values
    name_axis(axes, "y", [f"{found.names[c]}: {_WORDS[name]}" for _, c, name in bars], "")
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="% of the neighbours")
    figure.legend(loc="outside lower center", ncols=3)


def divergences(figure: Figure, found: Diagnosis) -> None:
    """Divergences of the generator's predictions, ordered by class and nearest head class."""
    sample, classes = found.tensors["divergences.sample"], found.smallest[:PANELS]
    labels, heads = (found.tensors[f"samples.{n}"][sample].numpy() for n in ("labels", "head"))
    groups = [
        (c, h, np.flatnonzero((labels == c) & (heads == h)))
        for c in classes
        for h in sorted(set(heads[labels == c].tolist()))
    ]
    order = np.concatenate([rows for _, _, rows in groups])
    matrix = found.tensors["divergences"].numpy()[np.ix_(order, order)]
    figure.set_size_inches(11.5, 6.2)
    figure.suptitle("KL divergence between the generator's predictions for two images (nats)")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1), gridspec_kw={"wspace": 0.08})
    positive = matrix[matrix > 0]
    floor = max(float(np.quantile(positive, 0.02)), 1e-3) if len(positive) else 1e-3
    # Logarithms need a floor; of the smallest values 2 % may fall below it.
    norm = LogNorm(vmin=floor, vmax=max(float(matrix.max()), 10 * floor))
    image = left.imshow(np.maximum(matrix, floor), cmap="cividis", norm=norm)
    label = "KL(row, column), nats, log scale"
    figure.colorbar(image, ax=left, shrink=0.8, format="{x:g}", label=label)
    bounds = np.cumsum([0, *(len(rows) for _, _, rows in groups)])
    # Groups of fewer images have no room for a name.
    large = [i for i, (_, _, rows) in enumerate(groups) if len(rows) >= 0.03 * len(order)]
    words = [f"{found.names[groups[i][0]]} > {found.names[groups[i][1]]}" for i in large]
    left.set_yticks(((bounds[:-1] + bounds[1:] - 1) / 2)[large], words)
    left.set_xticks([])
    for i, bound in enumerate(bounds[1:-1]):
        width = 0.6 if groups[i][0] == groups[i + 1][0] else 1.8
        left.axhline(bound - 0.5, color=PAPER, linewidth=width)
        left.axvline(bound - 0.5, color=PAPER, linewidth=width)
    left.set_title("images by class > nearest head class")
    for shift, key, label, colour, hatch in (
        (-0.2, "within", "same nearest head class", COLOURS[0], ""),
        (0.2, "across", "another nearest head class", COLOURS[1], "//"),
    ):
        means = [row[key] for row in found.divergences()[: len(classes)]]
        known = [(i + shift, mean) for i, mean in enumerate(means) if mean is not None]
        look: Any = {"color": colour, "hatch": hatch, "edgecolor": PAPER}
        right.bar([at for at, _ in known], [m for _, m in known], 0.38, label=label, **look)
    name_axis(right, "x", [found.names[c] for c in classes], "class")
    # The legend needs room above the bars.
    right.margins(y=0.2)
    right.set(title="pairs of one class", ylabel="mean over pairs of images of one class (nats)")
    right.legend()


def pictures(figure: Figure, found: Diagnosis) -> None:
    """Images whose features were augmented, and the real images nearest to the result."""
    samples, nearest = found.tensors["pictures.sample"], found.tensors["pictures.nearest"].numpy()
    labels, origin = (found.tensors[f"samples.{n}"][samples].numpy() for n in ("labels", "origin"))
    lines = [(c, o) for c in found.smallest[:PANELS] for o in sorted(set(origin.tolist()))]
    blocks = [np.flatnonzero((labels == c) & (origin == o)) for c, o in lines]
    # Each block holds an image, its neighbours, and a gap before the next image.
    step = nearest.shape[1] + 2
    widths = ([1.0] * (step - 1) + [0.4]) * max(map(len, blocks))
    figure.set_size_inches(sum(widths) + 1.8, 1.15 * len(lines) + 1.1)
    figure.suptitle("Nearest other real images of a feature")
    grid = figure.subplots(len(lines), len(widths), squeeze=False, width_ratios=widths)
    for axes in grid.flatten():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row, (c, o), block in zip(grid, lines, blocks, strict=True):
        words = f"{found.names[c]}:\n{_WORDS[ORIGINS[o]]}"
        row[0].set_ylabel(words, rotation=0, ha="right", va="center")
        for number, i in enumerate(block):
            first, *others = row[number * step : (number + 1) * step - 1]
            first.imshow(found.tensors["pictures.source"][i].numpy())
            first.set_title("own image", fontsize=7, pad=3)
            classes = found.tensors["neighbours.labels"][samples[i]].tolist()
            for axes, picture, other in zip(others, nearest[i], classes, strict=True):
                axes.imshow(picture)
                axes.set_title(clipped(found.names[other], 12), fontsize=7, pad=3)
                colour, dashes = COLOURS[1], "--"
                if other == c or other in found.tail:
                    colour, dashes = (COLOURS[0], "-") if other == c else (REFERENCE, ":")
                axes.spines[:].set(visible=True, color=colour, linestyle=dashes, linewidth=2.5)
    frames = "blue (solid) own class, orange (dashed) a head class, grey (dotted) another tail"
    legend = f"first of each block: the feature's own image; frame: {frames} class"
    figure.supxlabel(legend, fontsize=9)
