"""The rows of a comparison as text, Markdown, comma-separated values or JSON."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from ltcli.core.table import aligned
from ltcli.core.text import lacking
from ltcli.data.published import Published
from ltcli.stages.comparison import Placed
from ltcli.stages.league import names_of_differences, words

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.stats.comparison import Row

Line = TypeVar("Line")

# Accuracy and its mean over classes further apart than this lead to different conclusions.
_APART = 0.02
_PAPER_HEADS = ["published", "accuracy %", "source", "note"]
_WIDTH = 80


def print_plain(
    rows: Sequence[Placed], papers: Sequence[Published], level: float, images: str, wide: bool
) -> None:
    """Print aligned columns, a line above each league, and notes; ``wide`` has every column."""
    heads, lines = table(rows, level, wide=wide)
    width = 10_000 if wide else _WIDTH
    if not wide:
        # Names are files' names, and may be long: --wide shows them whole.
        others = list(zip(heads, *lines, strict=True))[1:]
        room = _WIDTH - sum(max(map(len, column)) + 1 for column in others)
        for line in lines:
            line[0] = line[0] if len(line[0]) <= room else f"{line[0][: room - 1]}…"
    first, *shown = aligned([heads, *lines], gap=2 if wide else 1)
    typer.echo(first)
    for league, group in by_league(rows, shown):
        if league:
            typer.echo(textwrap.fill(f"-- {league}", width, subsequent_indent="   "))
        typer.echo("\n".join(group))
    for note in footer(rows, level, images):
        typer.echo(textwrap.fill(note, width))
    if papers:
        typer.echo()
        found = [_PAPER_HEADS, *map(_paper_cells, papers)]
        if not wide:
            # Source and note share the column that wraps.
            found = [[*row[:2], "; ".join(filter(None, row[2:]))] for row in found]
        typer.echo("\n".join(aligned(found, left=(0, 2, 3), width=None if wide else _WIDTH)))


def print_markdown(
    rows: Sequence[Placed], papers: Sequence[Published], level: float, images: str
) -> None:
    """Print Markdown tables, a row above each league, and notes."""
    heads, cells = table(rows, level)
    lines = [_marked(heads), "|---|" + "---:|" * (len(heads) - 1)]
    for league, group in by_league(rows, cells):
        if league:
            lines.append(_marked([f"*{league}*"] + [""] * (len(heads) - 1)))
        lines += map(_marked, group)
    for line in footer(rows, level, images):
        lines += ["", line.replace("best*", "best\\*")]
    if papers:
        lines += ["", _marked(_PAPER_HEADS), "|---|---:|---|---|"]
        lines += [_marked(_paper_cells(paper)) for paper in papers]
    typer.echo("\n".join(lines))


def print_csv(rows: Sequence[Placed], papers: Sequence[Published]) -> None:
    """Print one line per row; a published row has name, accuracy, source and note."""
    flat = [_flat(placed) for placed in rows]
    names = list(flat[0])
    if papers:
        names += ["source", "note"]
        flat += [
            {"name": p.method, "accuracy": p.accuracy, "source": p.source, "note": p.note}
            for p in papers
        ]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    typer.echo(text.getvalue(), nl=False)


def print_json(rows: Sequence[Placed], papers: Sequence[Published], level: float) -> None:
    """Print one document: the rows and the published ones."""
    from ltcli.stats.simultaneous import POWER

    flat = [asdict(placed) for placed in rows]
    document = {
        "level": level,
        "power": POWER,
        "rows": [{**row.pop("row"), **row} for row in flat],
        "published": [asdict(paper) for paper in papers],
    }
    typer.echo(json.dumps(document, sort_keys=True))


def by_league(rows: Sequence[Placed], lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """Return the lines of each league with its name, which is empty where there is only one."""
    names = names_of_differences([placed.league for placed in rows])
    found = []
    for league, group in groupby(zip(rows, lines, strict=True), lambda pair: pair[0].league):
        members = list(group)
        text = words(league, names)
        if not members[0][0].like_for_like:
            text += "; not like for like with the first row"
        found.append((text, [line for _, line in members]))
    return found


def table(
    rows: Sequence[Placed], level: float, *, wide: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of a comparison: all, or those that fit into 80 columns."""
    percent = f"{100 * level:g} %"
    together = f"{percent} {'together' if len(rows) > 2 else 'difference'}"
    lines = [_cells(placed.row, percent, together, wide=wide) for placed in rows]
    heads = list(lines[0])
    # Nobody asks about seeds where there is one, nor about kept epochs where there are none.
    for head, nothing in (("runs", "1"), (heads[-1], "-")):
        if (not wide or nothing == "-") and all(line[head] == nothing for line in lines):
            heads.remove(head)
    return heads, [[line[head] for head in heads] for line in lines]


def _cells(row: Row, percent: str, together: str, *, wide: bool) -> dict[str, str]:
    """Return head to cell of one row, in order."""
    score, other, best = "accuracy", "balanced", "best*"
    first, second = _percent(row.accuracy), _percent(row.balanced)
    if row.judged == "balanced":
        # Kept epochs are chosen by plain accuracy all the same.
        score, other, best = "balanced", "accuracy", "best* accuracy"
        first, second = second, first
    low, high = row.interval
    difference, between, verdict = "", "", ""
    if row.difference is not None and row.difference_interval is not None:
        difference = f"{100 * row.difference:+.2f}"
        below, above = row.difference_interval
        between = f"{100 * below:+.2f} .. {100 * above:+.2f}"
        verdict = "tie" if row.tie else ("better" if row.difference > 0 else "worse")
    cells = {"method": row.name, "runs": str(row.runs)}
    if wide:
        cells |= {
            f"{score} %": first,
            f"{percent} interval": f"{_percent(low)} .. {_percent(high)}",
        }
    else:
        cells |= {score: first, percent: f"{100 * low:.1f}..{100 * high:.1f}"}
    cells |= {name: _percent(row.groups[name]) for name in ("many", "medium", "few")}
    if wide:
        cells |= {other: second, "NLL": f"{row.nll:.3f}"}
        cells |= {"ECE": _percent(row.ece), "vs first": difference, together: between, "": verdict}
    else:
        cells["vs first"] = f"{difference} {verdict}".strip()
    return cells | {best: _percent(row.best_on_test)}


def _paper_cells(paper: Published) -> list[str]:
    return [paper.method, _percent(paper.accuracy), paper.source, paper.note]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def untested(header: Header, labels: torch.Tensor) -> str | None:
    """Return the classes that no image is of, among the labels int64 [N] of predictions."""
    names, noun = header.info["class_names"], f"{header.info['on']} images"
    counts = labels.bincount(minlength=len(names)).tolist()
    return lacking(names, counts, f"{noun}, and no part in averages over classes")


def images_of(header: Header, labels: torch.Tensor) -> str:
    """Return the number and part of the images of predictions, and the classes that lack them."""
    none = untested(header, labels)
    return f"{len(labels):,} {header.info['on']} images" + (f" ({none})" if none else "")


def footer(rows: Sequence[Placed], level: float, images: str) -> list[str]:
    """Return notes on images, intervals and the smallest difference that they can show."""
    from ltcli.stats.simultaneous import POWER

    lines, others = [f"{images}, last epoch."], [placed.row for placed in rows[1:]]
    if any(placed.row.best_on_test is not None for placed in rows):
        lines[0] += " best*: epoch chosen on these images, not a result."
    how = "paired bootstrap over images"
    if rows[0].row.judged == "balanced":
        how = f"balanced accuracy, {how} of each class"
    elif any(abs(placed.row.accuracy - placed.row.balanced) > _APART for placed in rows):
        lines.append("Classes differ in test images: --score balanced counts classes the same.")
    if any(placed.row.runs > 1 for placed in rows):
        how += ", seeds by Student's t"
    if len(others) > 1:
        chance = f"with a chance of {100 * level:g} % no true tie is called better or worse"
        lines.append(f"Differences: {how}; {len(others)} rows judged together (max-T): {chance}.")
    elif others:
        lines.append(f"Difference: {how}; level {100 * level:g} %.")
    detectable = [row.detectable for row in others if row.detectable is not None]
    if detectable:
        low, high = _percent(min(detectable)), _percent(max(detectable))
        span = low if low == high else f"{low} to {high}"
        chance = f"{100 * POWER:g} %"
        lines.append(f"Smallest true difference found with a chance of {chance}: {span} points.")
    if others and any(placed.row.runs == 1 for placed in rows):
        lines.append("A row of one run stands for that model: its method may vary with the seed.")
    return lines


def _marked(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _flat(placed: Placed) -> dict[str, Any]:
    found = asdict(placed)
    values: dict[str, Any] = found.pop("row")
    groups, league = values.pop("groups"), found.pop("league")
    for name in ("interval", "difference_interval"):
        low, high = values.pop(name) or (None, None)
        values |= {f"{name}_low": low, f"{name}_high": high}
    values |= groups | league | {"augmentation": " ".join(league["augmentation"])} | found
    return values
