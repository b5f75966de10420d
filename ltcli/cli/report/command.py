"""report: the command. Checks, reads, measures, and writes one page."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ltcli.artifacts.folder import make_folder, read_folder
from ltcli.artifacts.header import Header
from ltcli.cli import comparison_table as table
from ltcli.cli.commands import help_of
from ltcli.cli.compare import check_groups, predictions_on_test, warn_of_replaced
from ltcli.cli.report.files import lineage
from ltcli.cli.report.models import images_of_class, measure
from ltcli.cli.report.page import MARK, Facts, page
from ltcli.core.errors import ArtifactError, ParamError, cause
from ltcli.stages.comparison import check_same_images, place, read_runs
from ltcli.stages.run import check_output

# Of the intervals, as compare has it.
_LEVEL = 0.95


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of runs.", metavar="DIR")],
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write [default: DIR/report.html].")
    ] = None,
    many_above: Annotated[int, typer.Option(help="More training images are many.")] = 100,
    few_below: Annotated[int, typer.Option(help="Fewer training images are few.")] = 20,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is no report.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    r"""Show a folder of runs in one HTML file.

    The comparison of the classifiers that were evaluated on the test set, accuracy by class size,
    reliability, confusion, learning curves, lineage and environment. The file needs no network and
    runs no script.

    \b
    Examples:
      ltcli report artifacts/digits
      ltcli report artifacts/c10-100 --out c10-100.html
    """
    check_groups("report", many_above, few_below)
    target = out or folder / "report.html"
    if target.suffix != ".html":
        raise ParamError("report", f"out must end in .html, got {target}")
    headers = read_folder(folder, "remove it")
    found = predictions_on_test(folder, headers)
    warn_of_replaced("report", found, headers)
    check_same_images(found)
    check_output(target, [])
    _check_ours(target, force)
    _write(target, page(_facts(folder, found, headers, many_above, few_below)), force)
    typer.echo(json.dumps({"report": str(target)}) if as_json else str(target))


def _write(target: Path, text: str, force: bool) -> None:
    from ltcli.artifacts.store import locked, save_bytes

    make_folder(target.parent, target)
    with locked(target):
        # Another process may have written it since the first look.
        _check_ours(target, force)
        save_bytes(target, text.encode())


def _check_ours(target: Path, force: bool) -> None:
    """Check that what would be replaced is a report."""
    if force or not target.exists():
        return
    try:
        with target.open("rb") as file:
            ours = file.read(len(MARK)) == MARK.encode()
    except OSError as error:
        raise ArtifactError(target, f"cannot be read: {cause(error)}") from None
    if not ours:
        rule = "was not made by ltcli report"
        raise ArtifactError(target, rule, "--force replaces it, --out writes elsewhere")


def _facts(
    folder: Path, found: list[Header], headers: list[Header], many_above: int, few_below: int
) -> Facts:
    from ltcli.stats.comparison import compare as compare_runs

    runs = read_runs(found)
    rows = compare_runs(runs, level=_LEVEL, many_above=many_above, few_below=few_below)
    placed = place(found, rows)
    images = f"{found[0].size('labels', 0):,} {found[0].info['on']} images"
    return Facts(
        folder=folder.resolve().name,
        names=found[0].info["class_names"],
        test_counts=images_of_class(runs[0]),
        # Between two whole numbers, as both bounds belong to medium.
        bounds=(few_below - 0.5, many_above + 0.5),
        heads=table.heads(placed, _LEVEL),
        leagues=table.by_league(placed, [table.cells(one) for one in placed]),
        notes=table.footer(placed, _LEVEL, images),
        models=measure([one.row for one in placed], runs),
        files=lineage(found, headers),
    )


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("report", help=help_of(report))(report)
