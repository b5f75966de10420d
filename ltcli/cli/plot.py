"""plot: figures of a diagnosis, from its artifact alone."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ltcli.artifacts.folder import read_folder
from ltcli.artifacts.header import Header, read_header
from ltcli.cli import figures_classes, figures_samples
from ltcli.cli.commands import Command
from ltcli.cli.figure_parts import Facts
from ltcli.core.errors import ArtifactError, ResourceError
from ltcli.core.params import param

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ltcli.cli.figure_parts import Array


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
    _require_extra()
    made = [path for header in headers for path in _draw(header, params.out, params.dpi)]
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


COMMAND = Command(
    name="plot",
    summary="Draw the measurements of ltcli diagnose, one PNG file per figure.",
    details=(
        "Figures whose inputs the diagnosis did not have are left out. Files of the same name are"
        " replaced."
    ),
    params=Params,
    run=run,
    examples=(
        "ltcli plot -d artifacts/c10-100",
        "ltcli plot artifacts/c10-100/diagnose.safetensors --out figures",
    ),
)
