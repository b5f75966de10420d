"""compare: one table of several classifiers on the same images, with intervals."""

import csv
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltcli.artifacts.header import Header, read_folder, read_header
from ltcli.cli.commands import help_of
from ltcli.core.errors import ArtifactError, ParamError

if TYPE_CHECKING:
    from ltcli.stats.comparison import Row, Run

_FLAG = "one of --json, --csv and --markdown"


def compare(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Predictions; all of --dir if not given.", metavar="[FILE]..."),
    ] = None,
    folder: Annotated[Path, typer.Option("--dir", "-d", help="Folder of predictions.")] = Path(
        "artifacts"
    ),
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="Bootstrap draws.")] = 2000,
    many_above: Annotated[int, typer.Option(help="More training images are many.")] = 100,
    few_below: Annotated[int, typer.Option(help="Fewer training images are few.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table.")
    ] = False,
) -> None:
    r"""Compare classifiers on the same images, with intervals and paired differences.

    Runs that differ in nothing but their seed share a row. The first row is what the others are
    compared with: name it first, or it is the pre-trained model. A difference whose interval holds
    0 is a tie. best* is the best kept epoch chosen on the test images themselves, as most papers
    report; it is not a result.

    \b
    Examples:
      ltcli compare -d artifacts/digits
      ltcli compare --markdown artifacts/digits/evaluate-*.safetensors
    """
    if as_json + as_csv + as_markdown > 1:
        raise ParamError("compare", f"at most {_FLAG} may be given")
    _check_ranges(level, resamples, many_above, few_below)
    if files:
        headers = [read_header(path) for path in files]
    else:
        headers = predictions_on_test(folder, read_folder(folder, "remove it, or name files"))
    check_together(headers)
    rows = _rows(headers, level, resamples, many_above, few_below, seed)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], sort_keys=True))
        return
    table = [heads(level), *(cells(row) for row in rows)]
    if as_csv:
        _print_csv(rows)
    elif as_markdown:
        _print_markdown(table)
    else:
        _print_plain(table, headers[0])


def _check_ranges(level: float, resamples: int, many_above: int, few_below: int) -> None:
    if not 0 < level < 1:
        raise ParamError("compare", f"level must be between 0 and 1, got {level:g}")
    if resamples < 100:
        raise ParamError("compare", f"resamples must be at least 100, got {resamples}")
    if not 0 <= few_below <= many_above + 1:
        rule = f"few_below must be at most many_above, got {few_below} and {many_above}"
        raise ParamError("compare", rule)


def predictions_on_test(folder: Path, headers: list[Header]) -> list[Header]:
    """Return the predictions on the test set among the files of a folder, the first row first.

    Raises:
        ArtifactError: There are none.
    """
    found = [h for h in headers if h.kind == "predictions" and h.info["on"] == "test"]
    if not found:
        rule = "has no predictions on the test set"
        raise ArtifactError(folder, rule, "run ltcli evaluate first")
    return sorted(found, key=lambda header: (header.info["stage"] != "pretrain", header.path.stem))


def check_together(headers: list[Header]) -> None:
    """Check that files are predictions on the same images.

    Raises:
        ArtifactError: One is not.
    """
    for header in headers:
        if header.kind != "predictions":
            rule = f"must be of kind predictions, got {header.kind}"
            raise ArtifactError(header.path, rule, "run ltcli evaluate on it first")
        for fact in ("on", "class_names", "images"):
            if header.info.get(fact) != headers[0].info.get(fact):
                rule = f"was made on other images or classes than {headers[0].path}"
                raise ArtifactError(header.path, rule, "compare predictions of one test set")


def _rows(
    headers: list[Header],
    level: float,
    resamples: int,
    many_above: int,
    few_below: int,
    seed: int,
) -> "list[Row]":
    from ltcli.stats.comparison import compare as compare_runs

    return compare_runs(
        read_runs(headers),
        level=level,
        resamples=resamples,
        many_above=many_above,
        few_below=few_below,
        seed=seed,
    )


def read_runs(headers: list[Header]) -> "list[Run]":
    """Load predictions; those of one row have one name.

    Raises:
        ArtifactError: A file is damaged, or the labels differ.
    """
    import torch

    from ltcli.artifacts.store import open_artifact
    from ltcli.stats.comparison import Run

    runs = []
    for header, name in zip(headers, _names(headers), strict=True):
        with open_artifact(header.path) as artifact:
            tensors = artifact.load("logits", "labels")
            kept = "snapshots.predicted" in header.tensors
            snapshots = artifact.tensor("snapshots.predicted") if kept else None
        counts = torch.tensor(header.info["class_counts"])
        runs.append(Run(name, tensors["logits"], tensors["labels"], counts, snapshots))
    if any(not torch.equal(run.labels, runs[0].labels) for run in runs):
        raise ArtifactError("compare", "the files hold different labels", "evaluate them again")
    return runs


def _names(headers: list[Header]) -> list[str]:
    """Return the row of each file: equal for runs that differ in their seeds alone.

    A row is named after the file of its first run, without ``evaluate-``.
    """
    keys = [header.info["recipe"] for header in headers]
    stems = [header.path.stem.removeprefix("evaluate-") for header in headers]
    return [stems[keys.index(key)] for key in keys]


def heads(level: float) -> list[str]:
    """Return the heads of the table, for intervals of a level in 0..1."""
    return [
        "method",
        "runs",
        "accuracy %",
        f"{100 * level:g} % interval",
        "many",
        "medium",
        "few",
        "balanced",
        "NLL",
        "ECE",
        "vs first",
        f"{100 * level:g} % interval",
        "",
        "best*",
    ]


def cells(row: "Row") -> list[str]:
    """Return one line of the table."""
    difference, between, verdict = "", "", ""
    if row.difference is not None and row.difference_interval is not None:
        difference = f"{100 * row.difference:+.2f}"
        low, high = row.difference_interval
        between = f"{100 * low:+.2f} .. {100 * high:+.2f}"
        verdict = "tie" if row.tie else ("better" if row.difference > 0 else "worse")
    groups = [_percent(row.groups[name]) for name in ("many", "medium", "few")]
    return [
        row.name,
        str(row.runs),
        _percent(row.accuracy),
        f"{_percent(row.interval[0])} .. {_percent(row.interval[1])}",
        *groups,
        _percent(row.balanced),
        f"{row.nll:.3f}",
        _percent(row.ece),
        difference,
        between,
        verdict,
        _percent(row.best_on_test),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _print_plain(table: list[list[str]], header: Header) -> None:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        shown = [line[0].ljust(widths[0])]
        shown += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        typer.echo("  ".join(shown).rstrip())
    typer.echo(note(header))


def note(header: Header) -> str:
    """Return the line below the table: what was scored, and what best* is."""
    images = f"{header.size('labels', 0):,} {header.info['on']} images, last epoch."
    return f"{images} best*: epoch chosen on these images, not a result."


def _print_markdown(table: list[list[str]]) -> None:
    typer.echo("| " + " | ".join(table[0]) + " |")
    typer.echo("|---|" + "---:|" * (len(table[0]) - 1))
    for line in table[1:]:
        typer.echo("| " + " | ".join(line) + " |")


def _print_csv(rows: "list[Row]") -> None:
    flat = [_flat(asdict(row)) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    sys.stdout.write(text.getvalue())


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    groups: dict[str, Any] = values.pop("groups")
    for name in ("interval", "difference_interval"):
        low, high = values.pop(name) or (None, None)
        values |= {f"{name}_low": low, f"{name}_high": high}
    return values | groups


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("compare", help=help_of(compare))(compare)
