"""plot: figures of a diagnosis, from its artifact alone."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import typer

from ltcli.artifacts.header import Header, read_folder, read_header
from ltcli.cli.commands import Command
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
    headers = _diagnoses(params)
    # Only t-SNE needs the extra, but a folder without it would pass for complete.
    if find_spec("sklearn") is None:
        hint = "pip install 'ltcli[plots]'"
        raise ResourceError("plot", "figures need scikit-learn, which is not installed", hint)
    for header in headers:
        # Before the first figure is drawn, which takes seconds.
        folder = params.out or header.path.parent
        check_writable(folder / f"{header.path.stem}-spectrum.png")
    from ltcli.report.figures import write_figures

    made = [path for header in headers for path in write_figures(header, params.out, params.dpi)]
    if as_json:
        typer.echo(json.dumps({"figures": [str(path) for path in made]}))
    else:
        typer.echo("\n".join(map(str, made)))


def _diagnoses(params: Params) -> list[Header]:
    hint = "run ltcli diagnose first"
    if params.files:
        headers = [read_header(path) for path in params.files]
        for header in headers:
            if header.kind != "diagnosis":
                rule = f"must be of kind diagnosis, got {header.kind}"
                raise ArtifactError(header.path, rule, hint)
        return headers
    headers = read_folder(params.dir, "remove it, or name the diagnosis")
    found = [header for header in headers if header.kind == "diagnosis"]
    if not found:
        raise ArtifactError(params.dir, "has no diagnosis", hint)
    return found


COMMAND = Command(
    name="plot",
    summary="Draw the measurements of ltcli diagnose as PNG files.",
    details=(
        "Figures whose inputs the diagnosis did not have are left out. Files of the same name are"
        " replaced."
    ),
    group="Looking",
    params=Params,
    run=run,
    examples=(
        "ltcli plot -d artifacts/c10-100",
        "ltcli plot artifacts/c10-100/diagnose.safetensors --out figures",
    ),
)
