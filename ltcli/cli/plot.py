"""plot: figures of a diagnosis, from its artifact alone."""

import io
import json
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltcli.artifacts.folder import make_folder, read_folder
from ltcli.artifacts.header import Header, read_header
from ltcli.cli import figures_classes, figures_samples
from ltcli.cli.commands import help_of
from ltcli.cli.figure_parts import Facts
from ltcli.core.errors import ArtifactError, ParamError, ResourceError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ltcli.cli.figure_parts import Array


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
    _require_extra()
    made = [path for header in headers for path in _draw(header, out, dpi)]
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


def _require_extra() -> None:
    for name, package in (("matplotlib", "matplotlib"), ("sklearn", "scikit-learn")):
        if find_spec(name) is None:
            hint = "pip install 'ltcli[plots]'"
            raise ResourceError("plot", f"figures need {package}, which is not installed", hint)


def _draw(header: Header, out: Path | None, dpi: int) -> list[Path]:
    from ltcli.artifacts.store import open_artifact, save_bytes

    with open_artifact(header.path) as artifact:
        tensors = {name: tensor.numpy() for name, tensor in artifact.load("*").items()}
    folder = header.path.parent if out is None else out
    make_folder(folder, folder)
    made = []
    for name, figure in _figures(_facts(tensors, header.info)):
        path, content = folder / f"{header.path.stem}-{name}.png", io.BytesIO()
        # Long names on an axis may reach beyond the figure that was planned.
        figure.savefig(content, format="png", dpi=dpi, bbox_inches="tight")
        save_bytes(path, content.getvalue())
        made.append(path)
    return made


def _facts(tensors: "Mapping[str, Array]", info: Mapping[str, Any]) -> Facts:
    # Between two dollars Matplotlib reads mathematics.
    names = [name.replace("$", r"\$") for name in info["class_names"]]
    counts, tail = info["class_counts"], set(info["tables"]["tail"])
    order = sorted(range(len(names)), key=lambda c: (c in tail, -counts[c], c))
    return Facts(tensors, info["tables"], names, counts, order, len(names) - len(tail))


def _figures(facts: Facts) -> "Iterator[tuple[str, Figure]]":
    """Yield the names and figures of what a diagnosis holds."""
    yield "spectrum", figures_classes.spectra(facts)
    yield "classes", figures_classes.classes(facts)
    if facts.tables["errors"]:
        yield "confusion", figures_classes.confusion(facts)
    yield "tsne", figures_samples.tsne(facts)
    yield "neighbours", figures_samples.neighbours(facts)
    if "divergences" in facts.tensors:
        yield "divergences", figures_samples.divergences(facts)
    yield "donors", figures_classes.donors(facts)
    if "pictures.sample" in facts.tensors:
        yield "pictures", figures_samples.pictures(facts)


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("plot", help=help_of(plot))(plot)
