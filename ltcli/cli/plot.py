"""plot: figures of a diagnosis, from its artifact alone."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ltcli.artifacts.folder import read_folder
from ltcli.artifacts.header import Header, read_header
from ltcli.cli.commands import help_of
from ltcli.core.errors import ArtifactError, ParamError, ResourceError


def plot(
    place: Annotated[
        Path, typer.Argument(help="A diagnosis, or a folder of them.", metavar="FILE_OR_DIR")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the figures [default: the artifact's].")
    ] = None,
    dpi: Annotated[int, typer.Option(help="Dots per inch.")] = 120,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    r"""Draw what ltcli diagnose measured, one PNG file per figure.

    Figures whose inputs the diagnosis did not have are left out. Files of the same name are
    replaced.

    \b
    Examples:
      ltcli plot artifacts/c10-100/diagnose.safetensors
      ltcli plot artifacts/c10-100 --out figures
    """
    if not 20 <= dpi <= 1200:
        raise ParamError("plot", f"dpi must be from 20 to 1200, got {dpi}")
    headers = _found(place)
    # Only t-SNE needs the extra, but a folder without it would pass for complete.
    if find_spec("sklearn") is None:
        hint = "pip install 'ltcli[plots]'"
        raise ResourceError("plot", "figures need scikit-learn, which is not installed", hint)
    from ltcli.report.figures import write_figures

    made = [path for header in headers for path in write_figures(header, out, dpi)]
    if as_json:
        typer.echo(json.dumps({"figures": [str(path) for path in made]}))
    else:
        typer.echo("\n".join(map(str, made)))


def _found(place: Path) -> list[Header]:
    hint = "run ltcli diagnose first"
    if not os.path.isdir(place):
        header = read_header(place)
        if header.kind != "diagnosis":
            raise ArtifactError(place, f"must be of kind diagnosis, got {header.kind}", hint)
        return [header]
    headers = read_folder(place, "remove it, or name the diagnosis")
    found = [header for header in headers if header.kind == "diagnosis"]
    if not found:
        raise ArtifactError(place, "has no diagnosis", hint)
    return found


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("plot", help=help_of(plot))(plot)
