"""The rows of a comparison as text, Markdown, comma-separated values or JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, TypeVar

import typer

from ltcli.data.published import Published
from ltcli.stages.comparison import Placed
from ltcli.stages.league import names_of_differences, words

Line = TypeVar("Line")

# Of accuracy and its mean over classes, from where on it matters which of them is looked at.
_APART = 0.02
_PAPER_HEADS = ["published", "accuracy %", "source", "note"]


def print_plain(
    rows: Sequence[Placed], papers: Sequence[Published], level: float, images: str
) -> None:
    """Print aligned columns, a line above each league, and what was done."""
    lines = [heads(rows, level), *(cells(placed) for placed in rows)]
    first, *aligned = _aligned(lines)
    typer.echo(first)
    for league, group in by_league(rows, aligned):
        typer.echo("\n".join([f"-- {league}", *group] if league else group))
    typer.echo("\n".join(footer(rows, level, images)))
    if papers:
        typer.echo()
        typer.echo("\n".join(_aligned([_PAPER_HEADS, *map(_paper_cells, papers)], left=(0, 2, 3))))


def print_markdown(
    rows: Sequence[Placed], papers: Sequence[Published], level: float, images: str
) -> None:
    """Print Markdown tables, a row above each league, and what was done."""
    names = heads(rows, level)
    lines = [_marked(names), "|---|" + "---:|" * (len(names) - 1)]
    for league, group in by_league(rows, [_marked(cells(placed)) for placed in rows]):
        if league:
            lines.append(_marked([f"*{league}*"] + [""] * (len(names) - 1)))
        lines += group
    for line in footer(rows, level, images):
        lines += ["", line.replace("best*", "best\\*")]
    if papers:
        lines += ["", _marked(_PAPER_HEADS), "|---|---:|---|---|"]
        lines += [_marked(_paper_cells(paper)) for paper in papers]
    typer.echo("\n".join(lines))


def print_csv(rows: Sequence[Placed], papers: Sequence[Published]) -> None:
    """Print one line per row; of a published one name, accuracy, source and note."""
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

    document = {
        "level": level,
        "power": POWER,
        "rows": [
            {
                **asdict(placed.row),
                "league": asdict(placed.league),
                "like_for_like": placed.like_for_like,
            }
            for placed in rows
        ],
        "published": [asdict(paper) for paper in papers],
    }
    typer.echo(json.dumps(document, sort_keys=True))


def by_league(rows: Sequence[Placed], lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """Return the lines of each league with its name, which is empty where there is but one."""
    names = names_of_differences([placed.league for placed in rows])
    pairs = groupby(zip(rows, lines, strict=True), key=lambda pair: pair[0].league)
    return [(words(league, names), [line for _, line in group]) for league, group in pairs]


def heads(rows: Sequence[Placed], level: float) -> list[str]:
    """Return the names of the columns."""
    together = "together" if len(rows) > 2 else "interval"
    scores = ["accuracy", "balanced"]
    plain = rows[0].row.judged == "accuracy"
    first, second = scores if plain else scores[::-1]
    return [
        "method",
        "runs",
        f"{first} %",
        f"{100 * level:g} % interval",
        "many",
        "medium",
        "few",
        second,
        "NLL",
        "ECE",
        "vs first",
        f"{100 * level:g} % {together}",
        "",
        "best*" if plain else "best* accuracy",
    ]


def cells(placed: Placed) -> list[str]:
    """Return what stands in the columns."""
    row = placed.row
    difference, between, verdict = "", "", ""
    if row.difference is not None and row.difference_interval is not None:
        difference = f"{100 * row.difference:+.2f}"
        low, high = row.difference_interval
        between = f"{100 * low:+.2f} .. {100 * high:+.2f}"
        verdict = "tie" if row.tie else ("better" if row.difference > 0 else "worse")
        verdict += "" if placed.like_for_like else " (other league)"
    scores = [row.accuracy, row.balanced]
    first, second = scores if row.judged == "accuracy" else scores[::-1]
    groups = [_percent(row.groups[name]) for name in ("many", "medium", "few")]
    return [
        row.name,
        str(row.runs),
        _percent(first),
        f"{_percent(row.interval[0])} .. {_percent(row.interval[1])}",
        *groups,
        _percent(second),
        f"{row.nll:.3f}",
        _percent(row.ece),
        difference,
        between,
        verdict,
        _percent(row.best_on_test),
    ]


def _paper_cells(paper: Published) -> list[str]:
    return [paper.method, _percent(paper.accuracy), paper.source, paper.note]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def footer(rows: Sequence[Placed], level: float, images: str) -> list[str]:
    """Return what was done and what it can show."""
    from ltcli.stats.simultaneous import POWER

    lines = [f"{images}, last epoch. best*: epoch chosen on these images, not a result."]
    others = [placed.row for placed in rows[1:]]
    how = "paired bootstrap over images"
    if rows[0].row.judged == "balanced":
        how = "of balanced accuracy; " + how + " of each class"
    elif any(abs(placed.row.accuracy - placed.row.balanced) > _APART for placed in rows):
        lines.append("Classes differ in test images: --score balanced counts classes the same.")
    if any(placed.row.runs > 1 for placed in rows):
        how += ", seeds by Student's t"
    if len(others) > 1:
        lines.append(
            f"Differences: {how}; {len(others)} rows judged together (max-T): with a chance of"
            f" {100 * level:g} % no true tie is called better or worse."
        )
    elif others:
        lines.append(f"Difference: {how}; level {100 * level:g} %.")
    detectable = [row.detectable for row in others if row.detectable is not None]
    if detectable:
        low, high = _percent(min(detectable)), _percent(max(detectable))
        span = low if low == high else f"{low} to {high}"
        lines.append(
            f"Smallest true difference found with a chance of {100 * POWER:g} %: {span} points."
        )
    if others and any(placed.row.runs == 1 for placed in rows):
        lines.append("A row of one run stands for that model: its method may vary with the seed.")
    if not all(placed.like_for_like for placed in rows):
        lines.append("other league: not like for like with the first row.")
    return lines


def _aligned(lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _marked(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _flat(placed: Placed) -> dict[str, Any]:
    values = asdict(placed.row)
    groups: dict[str, Any] = values.pop("groups")
    for name in ("interval", "difference_interval"):
        low, high = values.pop(name) or (None, None)
        values |= {f"{name}_low": low, f"{name}_high": high}
    league = asdict(placed.league)
    league["augmentation"] = " ".join(placed.league.augmentation)
    return values | groups | league | {"like_for_like": placed.like_for_like}
