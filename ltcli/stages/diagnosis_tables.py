"""A finished diagnosis: the numbers that follow from its tensors, and their tables for people."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltcli.core.errors import ArtifactError
from ltcli.core.table import aligned
from ltcli.core.text import lacking

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header

ORIGINS = ("real", "gaussian", "generator")
# Of many tail classes the terminal shows the smallest; the artifact has all.
MAX_ROWS = 10
_COVARIANCES = ("estimated", "learned", "oracle")
PAIRS = ("estimated-oracle", "learned-oracle", "learned-estimated")


@dataclass(frozen=True)
class Diagnosis:
    """The tensors of a diagnosis, and the numbers that follow from them.

    Attributes:
        tensors: As in the artifact.
        tail: Tail classes, ascending.
        smallest: Tail classes that were studied image by image, the smallest first.
        counts: Training images of the classes.
        predictions: Image set (``on``) and ``method`` of the predictions before and after.
    """

    tensors: Mapping[str, torch.Tensor]
    tail: list[int]
    smallest: list[int]
    names: Sequence[str]
    counts: Sequence[int]
    predictions: Mapping[str, Mapping[str, str]]

    @property
    def order(self) -> list[int]:
        """All classes, head classes before tail classes, the largest first."""
        tail = set(self.tail)
        return sorted(range(len(self.names)), key=lambda c: (c in tail, -self.counts[c], c))

    @property
    def num_heads(self) -> int:
        """Number of head classes."""
        return len(self.names) - len(self.tail)

    @property
    def is_head(self) -> torch.Tensor:
        """Head classes, bool [C]."""
        import torch

        head = torch.ones(len(self.names), dtype=torch.bool)
        return head.index_fill(0, self.tensors["tail"], False)

    def covariances(self) -> dict[str, dict[str, list[float]]]:
        """Trace, effective rank, captured variance and mean angle of each class's covariances."""
        from ltcli.stats.diagnosis import effective_rank

        def by_name(prefix: str) -> dict[str, torch.Tensor]:
            # In the order of columns and legends; a file keeps its tensors sorted.
            known = {name: self.tensors.get(f"{prefix}.{name}") for name in _COVARIANCES + PAIRS}
            return {name: tensor for name, tensor in known.items() if tensor is not None}

        spectra, angles = by_name("spectrum"), by_name("angles")
        # The trace is the sum of the eigenvalues, and the angle the mean over the directions.
        return {
            "trace": {name: values.sum(1).tolist() for name, values in spectra.items()},
            "effective_rank": {n: [effective_rank(v) for v in rows] for n, rows in spectra.items()},
            "captured": {name: shares.tolist() for name, shares in by_name("captured").items()},
            "angle": {name: degrees.mean(1).tolist() for name, degrees in angles.items()},
        }

    def errors(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Rates and shares of the errors between head and tail, before and after."""
        from ltcli.stats.diagnosis import error_rates

        graphs = {role: self.tensors[f"confusion.{role}"] for role in self.predictions}
        return {role: error_rates(graph, self.is_head) for role, graph in graphs.items()}

    def neighbours(self) -> dict[str, list[dict[str, float]]]:
        """Shares of the nearest images by their class, for each origin and sampled class.

        ``first``: the nearest image is of the own class. ``own``, ``head`` and ``tail``: all
        neighbours, by whether they are of the own class, a head class or another tail class. A
        class of n images has only n - 1 others, which bounds its own share where n is small.
        """
        found, head = self.tensors, self.is_head
        shares: dict[str, list[dict[str, float]]] = {}
        for number, origin in enumerate(ORIGINS if "divergences" in found else ORIGINS[:2]):
            shares[origin] = []
            for c in self.smallest:
                mine = (found["samples.origin"] == number) & (found["samples.labels"] == c)
                labels = found["neighbours.labels"][mine]
                own, of_head = labels == c, head[labels]
                parts = {"first": own[:, 0], "own": own, "head": of_head, "tail": ~own & ~of_head}
                means = {k: float(v.double().mean()) if len(v) else 0.0 for k, v in parts.items()}
                shares[origin].append(means)
        return shares

    def divergences(self) -> list[dict[str, Any]]:
        """Mean divergence within and across nearest head classes, for each sampled class.

        Empty without a generator.
        """
        from ltcli.stats.diagnosis import within_and_across

        if "divergences" not in self.tensors:
            return []
        rows = []
        # Only real images have divergences: those of the predictions made from them.
        matrix, sample = self.tensors["divergences"], self.tensors["divergences.sample"]
        for c in self.smallest:
            mine = (self.tensors["samples.labels"][sample] == c).nonzero().flatten()
            heads = self.tensors["samples.head"][sample][mine]
            within, across = within_and_across(matrix[mine][:, mine], heads)
            count = len(set(heads.tolist()))
            rows.append({"images": len(mine), "heads": count, "within": within, "across": across})
        return rows


def read(header: Header) -> Diagnosis:
    """Load a diagnosis."""
    from ltcli.artifacts.store import open_artifact

    with open_artifact(header.path) as artifact:
        info = artifact.header.info
        tensors = artifact.load("*")
    # A header keeps its keys sorted, and before comes before after.
    told = info["predictions"]
    predictions = {role: told[role] for role in ("before", "after") if role in told}
    drawn = [role for role in ("before", "after") if f"confusion.{role}" in tensors]
    if drawn != list(predictions):
        rule = "predictions must name those behind confusion.before and confusion.after"
        raise ArtifactError(header.path, rule)
    tail, smallest = tensors["tail"].tolist(), tensors["smallest"].tolist()
    return Diagnosis(
        tensors, tail, smallest, info["class_names"], info["class_counts"], predictions
    )


def lines_of(header: Header) -> list[str]:
    """Tables of a diagnosis for the terminal."""
    found = read(header)
    smallest_first = sorted(found.tail, key=lambda c: (found.counts[c], c))
    rows = smallest_first[:MAX_ROWS]
    lines = _covariance_lines(found, rows) + _error_lines(found) + _neighbour_lines(found)
    lines += _divergence_lines(found) + _donor_lines(found, rows)
    if len(rows) < len(smallest_first):
        lines.append(f"(the {len(rows)} smallest of {len(smallest_first)} tail classes)")
    return lines


def _table(title: str, heads: list[str], rows: list[list[str]]) -> list[str]:
    return ["", title, *aligned([heads, *rows], indent=2)]


def _covariance_lines(found: Diagnosis, rows: list[int]) -> list[str]:
    table, counts, tail = found.covariances(), found.counts, found.tail
    head = sorted(set(range(len(counts))) - set(tail))
    groups = [
        (f"mean of {len(head)} head classes", head),
        (f"mean of {len(tail)} tail classes", tail),
        *((found.names[c], [c]) for c in rows),
    ]

    def measures(title: str, chosen: dict[str, tuple[str, float, str]]) -> list[str]:
        heads = ["class", "images"]
        columns: list[tuple[Sequence[float], float, str]] = [(counts, 1, ".0f")]
        for measure, (word, scale, form) in chosen.items():
            heads += [f"{word}: {w}" if i == 0 else w for i, w in enumerate(table[measure])]
            columns += [(values, scale, form) for values in table[measure].values()]
        # Means over classes count every class alike, as balanced accuracy does.
        body = [
            [name, *(format(scale * _mean(values, group), form) for values, scale, form in columns)]
            for name, group in groups
        ]
        return _table(title, heads, body)

    lines = measures(
        "covariances: trace (feature units squared) and effective rank",
        {"trace": ("trace", 1, ".4g"), "effective_rank": ("rank", 1, ".1f")},
    )
    if table["angle"]:
        title = "leading directions: share of the oracle's variance, mean angle in degrees"
        chosen = {"captured": ("captured %", 100.0, ".1f"), "angle": ("angle", 1.0, ".1f")}
        lines += measures(title, chosen)
    return lines


def _mean(values: Sequence[float], classes: Sequence[int]) -> float:
    return sum(values[c] for c in classes) / len(classes)


def _percent(share: float | None, digits: int) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}"


def _error_lines(found: Diagnosis) -> list[str]:
    table = found.errors()
    if not table:
        return []
    heads, rows = ["errors"], []
    for role in table:
        heads += [f"{role} ({found.predictions[role]['method']})", "of all errors"]
    heads += ["change"] * (len(table) == 2)
    for own, other in itertools.product(("head", "tail"), repeat=2):
        side, article = f"{own}-{other}", "another" if own == other else "a"
        row = [f"{own} taken for {article} {other} class"]
        for numbers in table.values():
            row += [_percent(numbers["rates"][side], 2), _percent(numbers["shares"][side], 1)]
        if len(table) == 2:
            before, after = (numbers["rates"][side] for numbers in table.values())
            row.append("-" if before is None or after is None else f"{100 * (after - before):+.2f}")
        rows.append(row)
    role, of = next(iter(found.predictions.items()))
    title = f"confusion on {of['on']} images: % of the side's images, every class counting alike"
    # Only a class without images has a row of zeros.
    sums = found.tensors[f"confusion.{role}"].sum(1).tolist()
    none = lacking(found.names, sums, f"{of['on']} images and no part in it")
    return [*_table(title, heads, rows), *([none] if none else [])]


def _neighbour_lines(found: Diagnosis) -> list[str]:
    shares, rows = found.neighbours(), []
    for i, c in enumerate(found.smallest):
        for origin, by_class in shares.items():
            cells = [f"{100 * by_class[i][key]:.1f}" for key in ("first", "own", "head", "tail")]
            rows.append([f"{found.names[c]}, {origin}", *cells])
    title = "nearest other training images of a feature: % by their class"
    return _table(title, ["feature", "first is own", "own", "head", "other tail"], rows)


def _divergence_lines(found: Diagnosis) -> list[str]:
    table, rows = found.divergences(), []
    if not table:
        return []
    for c, means in zip(found.smallest, table, strict=True):
        values = [means["within"], means["across"]]
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        rows.append([found.names[c], str(means["images"]), str(means["heads"]), *cells])
    title = "KL divergence of the generator's predictions for two images of a class, nats"
    heads = ["class", "images", "nearest heads", "same nearest head", "another"]
    return _table(title, heads, rows)


def _donor_lines(found: Diagnosis, tail: list[int]) -> list[str]:
    methods = [m for m in ("feature-fusion", "risda", "stg") if f"donors.{m}" in found.tensors]
    # Rows of these tensors are in the order of class numbers, those of the table by size.
    position = {c: i for i, c in enumerate(found.tail)}

    def cell(method: str, c: int) -> str:
        row = found.tensors[f"donors.{method}"][position[c]]
        shares, classes = (part[:3].tolist() for part in row.sort(descending=True, stable=True))
        largest = zip(classes, shares, strict=True)
        return ", ".join(f"{found.names[k]} {100 * share:.0f}" for k, share in largest if share > 0)

    rows = [[found.names[c], *(cell(method, c) for method in methods)] for c in tail]
    title = (
        "classes that lend variation to a class, %: feature-fusion by donors, risda by variance"
        " with its own, stg by nearest head classes"
    )
    return _table(title, ["class", *methods], rows)
