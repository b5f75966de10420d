"""plot: figures of a diagnosis, from its artifact alone."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import typer

from ltcli.artifacts.header import read_folder
from ltcli.cli.commands import Command, read_kind
from ltcli.core.errors import ArtifactError, ResourceError
from ltcli.core.params import param
from ltcli.stages.run import check_writable


@dataclass(frozen=True)
class Params:
    """Parameters of plot."""

    files: tuple[Path, ...] = param(
        (), "diagnoses to draw; without any, all of --dir", positional=True
    )
    dir: Path = param(Path("artifacts"), "folder of diagnoses", short="d")
    out: Path | None = param(None, "folder of the figures; without it, the diagnosis's own")
    dpi: int = param(120, "dots per inch", ge=20, le=1200)


def run(params: Params, as_json: bool) -> None:
    """Write the figures."""
    hint = "run ltcli diagnose first"
    headers = [read_kind(path, "diagnosis", hint) for path in params.files]
    if not headers:
        there = read_folder(params.dir, "remove it, or name the diagnosis")
        headers = [header for header in there if header.kind == "diagnosis"]
    if not headers:
        raise ArtifactError(params.dir, "has no diagnosis", hint)
    # Only t-SNE needs the extra, but a folder without it would pass for complete.
    if find_spec("sklearn") is None:
        rule = "figures need scikit-learn, which is not installed"
        raise ResourceError("plot", rule, "pip install 'ltcli[plots]'")
    for header in headers:
        # Before the first figure is drawn, which takes seconds.
        check_writable((params.out or header.path.parent) / f"{header.path.stem}-spectrum.png")
    from ltcli.report.figures import write_figures

    made = [path for header in headers for path in write_figures(header, params.out, params.dpi)]
    paths = list(map(str, made))
    typer.echo(json.dumps({"figures": paths}) if as_json else "\n".join(paths))


COMMAND = Command(
    name="plot",
    summary="Draw the measurements of ltcli diagnose as PNG files.",
    details="Leaves out figures whose inputs the diagnosis lacks. Replaces files of the same name.",
    group="Looking",
    params=Params,
    run=run,
    examples=(
        "ltcli plot -d artifacts/c10-100",
        "ltcli plot artifacts/c10-100/diagnose.safetensors --out figures",
    ),
)
