"""report: the command. Checks, reads, measures, and writes one page."""

import json
from dataclasses import dataclass
from pathlib import Path

import typer

from ltcli.artifacts.folder import read_folder
from ltcli.artifacts.header import Header
from ltcli.cli.commands import Command
from ltcli.cli.report.files import lineage
from ltcli.cli.report.models import images_of_class, measure
from ltcli.cli.report.page import MARK, Facts, page
from ltcli.core.errors import ArtifactError, ParamError, cause
from ltcli.core.params import param
from ltcli.report import comparison_table as table
from ltcli.report.inputs import Groups, check_groups, predictions_on_test, replaced_models
from ltcli.stages.comparison import check_same_images, place, read_runs
from ltcli.stages.run import check_name, check_writable

# Confidence level of the intervals, as in compare.
_LEVEL = 0.95


@dataclass(frozen=True)
class Params(Groups):
    """Parameters of report."""

    dir: Path = param(Path("artifacts"), "folder of runs", short="d")
    out: Path | None = param(None, "file to write; without it, report.html in --dir")
    force: bool = param(False, "replace a file that is no report")


def run(params: Params, as_json: bool) -> None:
    """Write the page."""
    check_groups("report", params)
    folder = params.dir
    target = params.out or folder / "report.html"
    if target.suffix != ".html":
        raise ParamError("report", f"out must end in .html, got {target}")
    headers = read_folder(folder, "remove it")
    found = predictions_on_test(folder, headers)
    for line in replaced_models(found, headers):
        typer.echo(f"report: {line}", err=True)
    check_same_images(found)
    check_name(target, [])
    check_writable(target)
    _check_ours(target, params.force)
    facts = _facts(folder, found, headers, params.many_above, params.few_below)
    _write(target, page(facts), params.force)
    typer.echo(json.dumps({"report": str(target)}) if as_json else str(target))


def _write(target: Path, text: str, force: bool) -> None:
    from ltcli.artifacts.store import locked, save_bytes

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
    heads, cells = table.table(placed, _LEVEL)
    images = f"{found[0].size('labels', 0):,} {found[0].info['on']} images"
    return Facts(
        folder=folder.resolve().name,
        names=found[0].info["class_names"],
        test_counts=images_of_class(runs[0]),
        # Between two whole numbers, as both bounds belong to medium.
        bounds=(few_below - 0.5, many_above + 0.5),
        heads=heads,
        leagues=table.by_league(placed, cells),
        notes=table.footer(placed, _LEVEL, images),
        models=measure([one.row for one in placed], runs),
        files=lineage(found, headers),
    )


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
