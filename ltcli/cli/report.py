"""report: one HTML file that shows a folder of runs, without a script and without the network."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ltcli.artifacts.folder import read_folder
from ltcli.cli.commands import help_of
from ltcli.core.errors import ParamError
from ltcli.report.inputs import check_groups, predictions_on_test, replaced_models
from ltcli.stages.comparison import check_same_images
from ltcli.stages.run import check_output


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
    for line in replaced_models(found, headers):
        typer.echo(f"report: {line}", err=True)
    check_same_images(found)
    check_output(target, [])
    # Loads matplotlib and Jinja2, which no refusal above needs.
    from ltcli.report.page import check_ours, page, write_page

    check_ours(target, force)
    write_page(target, page(folder, found, headers, many_above, few_below), force)
    typer.echo(json.dumps({"report": str(target)}) if as_json else str(target))


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("report", help=help_of(report))(report)
