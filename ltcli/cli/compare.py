"""compare: one table of several classifiers on the same images, with intervals."""

import math
from pathlib import Path
from typing import Annotated

import typer

from ltcli.artifacts.folder import read_folder
from ltcli.artifacts.header import Header, read_header
from ltcli.cli.commands import help_of
from ltcli.core.errors import ParamError
from ltcli.data.published import Published
from ltcli.report import comparison_table as table
from ltcli.report.inputs import check_groups, predictions_on_test, replaced_models
from ltcli.stages.comparison import (
    check_same_images,
    compare_files,
    published_beside,
)
from ltcli.stages.league import read_provenance

_BEYOND = 2  # resamples beyond each end of an interval, at least
_MOST_RESAMPLES = 10**6
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
    score: Annotated[
        str, typer.Option(help="What rows are judged by: accuracy or balanced (mean over classes).")
    ] = "accuracy",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    published: Annotated[
        bool,
        typer.Option("--published", help="Add what papers and their code print for this setting."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table.")
    ] = False,
) -> None:
    r"""Compare classifiers on the same images, with intervals and paired differences.

    Runs that differ in nothing but their seed share a row. The first row is what the others are
    compared with: name it first, or it is the pre-trained model, of several the one by
    cross-entropy. All differences are judged together; one whose interval holds 0 is a tie. Rows
    with other parameters, epochs, augmentation, training or extra images than the first stand
    apart. best* is the best kept epoch chosen on the test images themselves, as most papers report;
    it is not a result.

    \b
    Examples:
      ltcli compare -d artifacts/digits
      ltcli compare --published -d artifacts/c10
      ltcli compare --markdown artifacts/digits/evaluate-*.safetensors
    """
    if as_json + as_csv + as_markdown > 1:
        raise ParamError("compare", f"at most {_FLAG} may be given")
    if score not in ("accuracy", "balanced"):
        raise ParamError("compare", f"score must be accuracy or balanced, got {score}")
    check_groups("compare", many_above, few_below)
    _check_ranges(level, resamples, seed)
    if files:
        headers = [read_header(path) for path in files]
    else:
        there = read_folder(folder, "remove it, or name files")
        headers = predictions_on_test(folder, there)
        for line in replaced_models(headers, there):
            typer.echo(f"compare: {line}", err=True)
    check_same_images(headers)
    rows = compare_files(
        headers,
        level=level,
        resamples=resamples,
        many_above=many_above,
        few_below=few_below,
        seed=seed,
        score="balanced" if score == "balanced" else "accuracy",
    )
    papers = _papers(headers) if published else []
    if as_json:
        table.print_json(rows, papers, level)
    elif as_csv:
        table.print_csv(rows, papers)
    else:
        images = f"{headers[0].size('labels', 0):,} {headers[0].info['on']} images"
        show = table.print_markdown if as_markdown else table.print_plain
        show(rows, papers, level, images)


def _check_ranges(level: float, resamples: int, seed: int) -> None:
    if not 0 < level < 1:
        raise ParamError("compare", f"level must be between 0 and 1, got {level:g}")
    if not 100 <= resamples <= _MOST_RESAMPLES:
        rule = f"resamples must be between 100 and {_MOST_RESAMPLES}, got {resamples}"
        raise ParamError("compare", rule)
    # Rounded, as 1 - 0.9999 is a little less than it should be.
    least = math.ceil(round(2 * _BEYOND / (1 - level), 6))
    if resamples < least:
        rule = f"resamples must be at least {least} for level {level:g}, got {resamples}"
        raise ParamError("compare", rule, f"so that {_BEYOND} lie beyond each end of an interval")
    if seed < 0:
        raise ParamError("compare", f"seed must be at least 0, got {seed}")


def _papers(headers: list[Header]) -> list[Published]:
    """Return the published figures that fit, and say on standard error if there are none."""
    on = headers[0].info["on"]
    papers = published_beside(headers) if on == "test" else []
    if not papers:
        settings = dict.fromkeys(str(read_provenance(header)[1]) for header in headers)
        where = "" if on == "test" else f", {on} images"
        message = f"compare: no published figures for {' or '.join(settings)}{where}"
        typer.echo(message, err=True)
    return papers


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("compare", help=help_of(compare))(compare)
