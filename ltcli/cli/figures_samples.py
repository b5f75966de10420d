"""Figures of single images: real and augmented features, what is nearest, how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltcli.cli.figure_parts import BLUE, CLASS_COLOURS, GREY, ORANGE, Facts, name_axis, new_figure
from ltcli.stages.diagnose_samples import ORIGINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS = {
    "real": "real image",
    "gaussian": "Gaussian (ISDA)",
    "generator": "generator (STG)",
}


def tsne(facts: Facts) -> Figure:
    """Real and generated features in the plane."""
    from sklearn.manifold import TSNE

    tensors = facts.tensors
    features, labels = tensors["samples.features"], tensors["samples.labels"]
    origin = tensors["samples.origin"]
    perplexity = min(30.0, (len(features) - 1) / 3)
    # Of one number there are no two principal components to start from.
    init = "pca" if features.shape[1] > 1 else "random"
    places = TSNE(perplexity=perplexity, init=init, random_state=0).fit_transform(features)
    made = [name for name in ORIGINS[1:] if (origin == ORIGINS.index(name)).any()]
    figure = new_figure(
        5.2 * len(made) + 2.4, 5.2, "t-SNE of real and augmented features, one map for all panels"
    )
    beside = sorted(set(labels.tolist()) - set(facts.tables["smallest"]))
    panels = figure.subplots(1, len(made), squeeze=False).flatten()
    # Words come before names, as a legend leaves out what starts with an underscore.
    for panel, name in zip(panels, made, strict=True):
        for c, marker in zip(beside, "sDv^<>" * len(beside), strict=False):
            mine = labels == c
            style = {"marker": marker, "s": 14, "color": "#BBBBBB", "linewidths": 0}
            panel.scatter(*places[mine].T, label=f"real, {facts.names[c]} (head)", **style)
        for c, colour in zip(facts.smallest, CLASS_COLOURS, strict=False):
            real = (labels == c) & (origin == 0)
            new = (labels == c) & (origin == ORIGINS.index(name))
            panel.scatter(
                *places[real].T,
                s=22,
                facecolors="none",
                edgecolors=colour,
                linewidths=1,
                label=f"real, {facts.names[c]}",
            )
            panel.scatter(
                *places[new].T,
                s=22,
                marker="x",
                color=colour,
                linewidths=1,
                label=f"augmented, {facts.names[c]}",
            )
        panel.set_title(WORDS[name], fontsize=10)
        panel.set_xticks([])
        panel.set_yticks([])
    handles, words = panels[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside right center", fontsize=8)
    return figure


def neighbours(facts: Facts) -> Figure:
    """Classes of the nearest real images, as stacked bars."""
    found = [name for name in ORIGINS if name in facts.tables["neighbours"]]
    bars = [(i, c, name) for i, c in enumerate(facts.smallest) for name in found]
    k = facts.tensors["neighbours.labels"].shape[1]
    title = f"Classes of the {k} nearest other training images of a feature"
    figure = new_figure(7.8, 0.32 * len(bars) + 1.8, title)
    axes = figure.subplots()
    parts = (
        ("own", "own class", BLUE, ""),
        ("head", "a head class", ORANGE, "//"),
        ("tail", "another tail class", GREY, ".."),
    )
    left = [0.0] * len(bars)
    for key, label, colour, hatch in parts:
        values = [100 * facts.tables["neighbours"][name][i][key] for i, _, name in bars]
        axes.barh(
            range(len(bars)),
            values,
            height=0.75,
            left=left,
            label=label,
            color=colour,
            hatch=hatch,
            edgecolor="white",
        )
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_yticks(
        range(len(bars)), [f"{facts.names[c]}: {WORDS[name]}" for _, c, name in bars], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the neighbours")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def divergences(facts: Facts) -> Figure:
    """Divergences of the generator's predictions, ordered by class and nearest head class."""
    import numpy as np
    from matplotlib.colors import LogNorm

    sample = facts.tensors["divergences.sample"]
    labels, heads = (facts.tensors[f"samples.{name}"][sample] for name in ("labels", "head"))
    groups = [
        (c, h, np.flatnonzero((labels == c) & (heads == h)))
        for c in facts.smallest
        for h in sorted(set(heads[labels == c].tolist()))
    ]
    order = np.concatenate([rows for _, _, rows in groups])
    matrix = facts.tensors["divergences"][np.ix_(order, order)]
    figure = new_figure(
        11.5, 6.2, "KL divergence between the generator's predictions for two images (nats)"
    )
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1), gridspec_kw={"wspace": 0.08})
    positive = matrix[matrix > 0]
    floor = max(float(np.quantile(positive, 0.02)), 1e-3) if len(positive) else 1e-3
    norm = LogNorm(vmin=floor, vmax=max(float(matrix.max()), 10 * floor))
    image = left.imshow(np.maximum(matrix, floor), cmap="cividis", norm=norm)
    figure.colorbar(image, ax=left, shrink=0.8, label="KL(row, column), nats, log scale")
    bounds = np.cumsum([0, *(len(rows) for _, _, rows in groups)])
    centres = (bounds[:-1] + bounds[1:] - 1) / 2
    large = [i for i, (_, _, rows) in enumerate(groups) if len(rows) >= 0.03 * len(order)]
    words = [f"{facts.names[groups[i][0]]} > {facts.names[groups[i][1]]}" for i in large]
    left.set_yticks(centres[large], words, fontsize=8)
    left.set_xticks([])
    for i, bound in enumerate(bounds[1:-1]):
        same = groups[i][0] == groups[i + 1][0]
        for line in (left.axhline, left.axvline):
            line(bound - 0.5, color="white", linewidth=0.6 if same else 1.8)
    left.set_title("images by class > nearest head class", fontsize=10)
    table = facts.tables["divergences"][: len(facts.smallest)]
    for shift, key, label, colour, hatch in (
        (-0.2, "within", "same nearest head class", BLUE, ""),
        (0.2, "across", "another nearest head class", ORANGE, "//"),
    ):
        places = [i + shift for i, row in enumerate(table) if row[key] is not None]
        values = [row[key] for row in table if row[key] is not None]
        right.bar(places, values, 0.38, label=label, color=colour, hatch=hatch, edgecolor="white")
    name_axis(right, facts, facts.smallest, "x", "class")
    right.set_ylabel("mean over pairs of images of one class (nats)")
    right.set_title("pairs of one class", fontsize=10)
    right.legend(fontsize=8)
    return figure


def pictures(facts: Facts) -> Figure:
    """Images whose features were augmented, and the real images nearest to the result."""
    tensors = facts.tensors
    samples = tensors["pictures.sample"]
    labels, origin = tensors["samples.labels"][samples], tensors["samples.origin"][samples]
    lines = [(c, o) for c in facts.smallest for o in sorted(set(origin.tolist()))]
    blocks = [((labels == c) & (origin == o)).nonzero()[0].tolist() for c, o in lines]
    k = tensors["pictures.nearest"].shape[1]
    count = max(map(len, blocks))
    # The image, its neighbours, and a gap before the next image.
    widths = [1.0, *[1.0] * k, 0.4] * count
    figure = new_figure(
        sum(widths) + 1.8, 1.15 * len(lines) + 1.1, "Nearest other real images of a feature"
    )
    grid = figure.subplots(len(lines), len(widths), squeeze=False, width_ratios=widths)
    for axes in grid.flatten():
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for row, (c, o), block in zip(grid, lines, blocks, strict=True):
        words = f"{facts.names[c]}:\n{WORDS[ORIGINS[o]]}"
        row[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=9)
        for number, i in enumerate(block):
            _picture_row(row[number * (k + 2) :], facts, i, c)
    title = "first of each block: the feature's own image; frame: blue (solid) own class,"
    title += " orange (dashed) a head class, grey (dotted) another tail class"
    figure.supxlabel(title, fontsize=9)
    return figure


def _picture_row(row: Sequence[Axes], facts: Facts, i: int, c: int) -> None:
    """Draw the image of one sample of class c and its neighbours."""
    tensors, tail = facts.tensors, set(facts.tables["tail"])
    row[0].imshow(tensors["pictures.source"][i])
    row[0].set_title("own image", fontsize=7, pad=3)
    classes = tensors["neighbours.labels"][tensors["pictures.sample"][i]].tolist()
    for axes, picture, other in zip(row[1:], tensors["pictures.nearest"][i], classes, strict=False):
        axes.imshow(picture)
        axes.set_title(facts.names[other], fontsize=7, pad=3)
        colour, dashes = (
            (BLUE, "-") if other == c else (GREY, ":") if other in tail else (ORANGE, "--")
        )
        axes.spines[:].set(visible=True, color=colour, linestyle=dashes, linewidth=2.5)
