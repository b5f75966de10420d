"""compare: one table of several classifiers on the same images, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from ltcli.artifacts.header import Header, read_header
from ltcli.cli.commands import Command
from ltcli.core.errors import ParamError
from ltcli.core.params import param
from ltcli.data.published import Published
from ltcli.report import comparison_table as table
from ltcli.report.inputs import Groups, check_groups, predictions_of
from ltcli.stages.comparison import check_same_images, place, published_beside, read_runs
from ltcli.stages.league import read_provenance

# Resamples beyond each end of an interval, at least: fewer make its ends a matter of chance.
_BEYOND = 2


@dataclass(frozen=True)
class Params(Groups):
    """Parameters of compare."""

    files: tuple[Path, ...] = param(
        (), "predictions to compare; without any, all of --dir on test images", positional=True
    )
    dir: Path = param(Path("artifacts"), "folder of predictions", short="d")
    wide: bool = param(False, "show every column, in up to 170 columns of text")
    level: float = param(0.95, "confidence level of the intervals", gt=0, lt=1)
    resamples: int = param(2000, "draws of the bootstrap", ge=100, le=10**6)
    score: Literal["accuracy", "balanced"] = param(
        "accuracy", "score that rows are judged by; balanced is the mean over the classes"
    )
    seed: int = param(0, "seed of the bootstrap", ge=0)
    published: bool = param(False, "add the figures of papers and their code for this setting")
    csv: bool = param(False, "print comma-separated values")
    markdown: bool = param(False, "print a Markdown table")


def run(params: Params, as_json: bool) -> None:
    """Print the comparison."""
    if as_json + params.csv + params.markdown > 1:
        raise ParamError("compare", "at most one of --json, --csv and --markdown may be given")
    check_groups("compare", params)
    # Rounded, as 1 - 0.9999 is a little less than it should be.
    least = math.ceil(round(2 * _BEYOND / (1 - params.level), 6))
    if params.resamples < least:
        rule = f"resamples must be at least {least} for level {params.level:g}"
        hint = f"so that {_BEYOND} lie beyond each end of an interval"
        raise ParamError("compare", f"{rule}, got {params.resamples}", hint)
    headers = [read_header(path) for path in params.files]
    if not headers:
        headers, _ = predictions_of("compare", params.dir, "remove it, or name files")
    check_same_images(headers)
    # Loads torch, which no refusal above needs.
    from ltcli.stats.comparison import compare

    runs = read_runs(headers)
    rows = compare(
        runs,
        level=params.level,
        resamples=params.resamples,
        many_above=params.many_above,
        few_below=params.few_below,
        seed=params.seed,
        score=params.score,
    )
    placed = place(headers, rows)
    papers = _papers(headers) if params.published else []
    labels = runs[0].outcomes.labels
    images = table.images_of(headers[0], labels)
    if (as_json or params.csv) and (none := table.untested(headers[0], labels)):
        # These forms have no notes.
        typer.echo(f"compare: {none}", err=True)
    if as_json:
        table.print_json(placed, papers, params.level)
    elif params.csv:
        table.print_csv(placed, papers)
    elif params.markdown:
        table.print_markdown(placed, papers, params.level, images)
    else:
        table.print_plain(placed, papers, params.level, images, params.wide)


def _papers(headers: Sequence[Header]) -> list[Published]:
    """Published figures that fit; says on standard error if there are none."""
    on = headers[0].info["on"]
    papers = published_beside(headers) if on == "test" else []  # Papers report test images.
    if not papers:
        settings = dict.fromkeys(str(read_provenance(header)[1]) for header in headers)
        where = "" if on == "test" else f", {on} images"
        # Not among the results, which may be CSV or JSON.
        typer.echo(f"compare: no published figures for {' or '.join(settings)}{where}", err=True)
    return papers


COMMAND = Command(
    name="compare",
    summary="Compare classifiers on the same images, with intervals.",
    details=(
        "Runs that differ only in their seeds share a row. The others are compared with the first"
        " row: the file named first, else the pre-trained model by cross-entropy. All differences"
        " are judged together; one whose interval holds 0 is a tie. Rows with other parameters,"
        " epochs, augmentation, training or extra images than the first stand apart. best*, where"
        " epochs were kept, is the best epoch on the test images: what most papers report, but no"
        " result."
    ),
    params=Params,
    run=run,
    examples=(
        "ltcli compare -d artifacts/digits",
        "ltcli compare --published -d artifacts/c10",
        "ltcli compare --markdown artifacts/digits/evaluate-*.safetensors",
    ),
)
