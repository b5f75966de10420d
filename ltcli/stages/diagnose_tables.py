"""The tables of a diagnosis for people, from the numbers in its header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltcli.stages.diagnose_samples import ORIGINS

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header

# More tail classes than this are left to the artifact.
MAX_ROWS = 10
# A header keeps its keys sorted; people read them in these orders.
ORDER = (
    "estimated",
    "learned",
    "oracle",
    "estimated-oracle",
    "learned-oracle",
    "learned-estimated",
)


def lines_of(header: Header) -> list[str]:
    """Return the tables of a diagnosis."""
    tables, info = header.info["tables"], header.info
    names, counts = info["class_names"], info["class_counts"]
    smallest_first = sorted(tables["tail"], key=lambda c: (counts[c], c))
    rows = smallest_first[:MAX_ROWS]
    lines = _spectrum(tables["spectrum"], names, counts, rows, set(tables["tail"]))
    if tables["errors"]:
        lines += _errors(tables["errors"])
    lines += _neighbours(tables, names)
    if tables["divergences"]:
        lines += _divergences(tables, names)
    lines += _donors(tables, names, rows)
    if len(rows) < len(smallest_first):
        lines.append(f"(the {len(rows)} smallest of {len(smallest_first)} tail classes)")
    return lines


def _table(title: str, heads: list[str], rows: list[list[str]]) -> list[str]:
    """Return a title and aligned columns, the first one to the left."""
    cells = [heads, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = ["", title]
    for row in cells:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join([row[0].ljust(widths[0]), *rest]).rstrip())
    return lines


def _spectrum(
    table: dict[str, Any], names: list[str], counts: list[int], rows: list[int], tail: set[int]
) -> list[str]:
    head = [c for c in range(len(names)) if c not in tail]
    groups = [
        (f"mean of {len(head)} head classes", head),
        (f"mean of {len(tail)} tail classes", sorted(tail)),
        *((names[c], [c]) for c in rows),
    ]

    def measures(title: str, chosen: dict[str, tuple[str, float, str]]) -> list[str]:
        heads, body = ["class", "images"], []
        columns = []
        for measure, (word, scale, form) in chosen.items():
            found = {which: table[measure][which] for which in ORDER if which in table[measure]}
            heads += [f"{word}: {w}" if i == 0 else w for i, w in enumerate(found)]
            columns += [(values, scale, form) for values in found.values()]
        for name, classes in groups:
            means = [
                format(scale * sum(values[c] for c in classes) / len(classes), form)
                for values, scale, form in columns
            ]
            images = sum(counts[c] for c in classes) / len(classes)
            body.append([name, f"{images:.0f}", *means])
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


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _errors(table: dict[str, Any]) -> list[str]:
    sides = ("head-head", "head-tail", "tail-head", "tail-tail")
    words = {
        "head-head": "head taken for another head class",
        "head-tail": "head taken for a tail class",
        "tail-head": "tail taken for a head class",
        "tail-tail": "tail taken for another tail class",
    }
    table = {name: table[name] for name in ("before", "after") if name in table}
    heads = ["errors"]
    for name, found in table.items():
        heads += [f"{name} ({found['method']})", "of all errors"]
    if len(table) == 2:
        heads += ["change"]
    rows = []
    for side in sides:
        row = [words[side]]
        for found in table.values():
            row += [_percent(found["rates"][side]), f"{100 * found['shares'][side]:.1f}"]
        if len(table) == 2:
            before, after = (table[name]["rates"][side] for name in ("before", "after"))
            known = before is not None and after is not None
            row += [f"{100 * (after - before):+.2f}" if known else "-"]
        rows.append(row)
    on = next(iter(table.values()))["on"]
    title = f"confusion on {on} images: % of the side's images, every class counting alike"
    return _table(title, heads, rows)


def _neighbours(tables: dict[str, Any], names: list[str]) -> list[str]:
    rows = []
    for i, c in enumerate(tables["smallest"]):
        for origin in (name for name in ORIGINS if name in tables["neighbours"]):
            shares = tables["neighbours"][origin]
            cells = [f"{100 * shares[i][key]:.1f}" for key in ("first", "own", "head", "tail")]
            rows.append([f"{names[c]}, {origin}", *cells])
    title = "nearest other training images of a feature: % by their class"
    heads = ["feature", "first is own", "own", "head", "other tail"]
    return _table(title, heads, rows)


def _divergences(tables: dict[str, Any], names: list[str]) -> list[str]:
    rows = []
    for c, found in zip(tables["smallest"], tables["divergences"], strict=True):
        means = [found["within"], found["across"]]
        cells = ["-" if value is None else f"{value:.3f}" for value in means]
        rows.append([names[c], str(found["images"]), str(found["heads"]), *cells])
    title = "KL divergence of the generator's predictions for two images of a class, nats"
    heads = ["class", "images", "nearest heads", "same nearest head", "another"]
    return _table(title, heads, rows)


def _donors(tables: dict[str, Any], names: list[str], tail: list[int]) -> list[str]:
    methods = sorted(tables["donors"])
    position = {c: i for i, c in enumerate(tables["tail"])}

    def cell(method: str, c: int) -> str:
        found = tables["donors"][method][position[c]]
        return ", ".join(f"{names[other]} {100 * share:.0f}" for other, share in found)

    rows = [[names[c], *(cell(method, c) for method in methods)] for c in tail]
    title = (
        "who lends variation to a class, %: feature-fusion its donors, risda variance with its own,"
        " stg its nearest head classes"
    )
    return _table(title, ["class", *methods], rows)
