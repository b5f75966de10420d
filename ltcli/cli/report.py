"""report: one HTML file that shows a folder of runs, without a script and without the network."""

import json
from dataclasses import dataclass
from pathlib import Path

import typer

from ltcli.cli.commands import Command
from ltcli.core.errors import ParamError
from ltcli.core.params import param
from ltcli.report.inputs import Groups, check_groups, predictions_of
from ltcli.stages.comparison import check_same_images
from ltcli.stages.run import check_name, check_writable


@dataclass(frozen=True)
class Params(Groups):
    """Parameters of report."""

    dir: Path = param(Path("artifacts"), "folder of runs", short="d")
    out: Path | None = param(None, "file to write; without it, report.html in --dir")
    force: bool = param(False, "replace a file that is no report")


def run(params: Params, as_json: bool) -> None:
    """Write the page."""
    check_groups("report", params)
    target = params.out or params.dir / "report.html"
    if target.suffix != ".html":
        raise ParamError("report", f"out must end in .html, got {target}")
    found, headers = predictions_of("report", params.dir, "remove it")
    check_same_images(found)
    # Before the charts are drawn, which takes seconds.
    check_name(target, [])
    check_writable(target)
    # Loads matplotlib and Jinja2, which no refusal above needs.
    from ltcli.report.page import check_ours, page, write_page

    check_ours(target, params.force)
    text = page(params.dir, found, headers, params)
    write_page(target, text, params.force)
    typer.echo(json.dumps({"report": str(target)}) if as_json else str(target))


COMMAND = Command(
    name="report",
    summary="Show a folder of runs in one HTML file.",
    details=(
        "The comparison of the classifiers that were evaluated on the test set, accuracy by class"
        " size, reliability, confusion, learning curves, lineage and environment. The file needs"
        " no network and runs no script."
    ),
    params=Params,
    run=run,
    examples=(
        "ltcli report -d artifacts/digits",
        "ltcli report -d artifacts/c10-100 --out c10-100.html",
    ),
)
