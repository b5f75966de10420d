"""show and lineage: what an artifact holds, and the artifacts that it was made from."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from ltcli.artifacts.header import Header, list_folder, read_folder, verify
from ltcli.artifacts.kinds import KINDS
from ltcli.cli.commands import Command, written
from ltcli.core.errors import ArtifactError, LtcliError
from ltcli.core.params import param
from ltcli.core.table import aligned
from ltcli.core.text import printable
from ltcli.stages.stage import OUTSIDE


@dataclass(frozen=True)
class ShowParams:
    """Parameters of show."""

    file: Path | None = param(
        None, "artifact to show; without one, --dir is listed", positional=True
    )
    dir: Path = param(Path("artifacts"), "folder to list", short="d")


def show(params: ShowParams, as_json: bool) -> None:
    """Print what an artifact is, holds and was made from, or the artifacts of a folder."""
    if params.file is None:
        headers = read_folder(params.dir, "remove it, or name a file")
        if as_json:
            typer.echo(json.dumps(list(map(_document, headers)), sort_keys=True))
            return
        rows = [["file", "kind", "made by", "sha256"]]
        # Twelve digits tell files apart, and leave room for names.
        rows += [[printable(h.path.name), h.kind, h.stage, h.digest[:12]] for h in headers]
        typer.echo("\n".join(aligned(rows, left=range(4))))
        return
    # Every byte is compared with the digest: what is shown is what stages would read.
    header = verify(params.file)
    if as_json:
        typer.echo(json.dumps(_document(header), sort_keys=True))
        return
    kind = KINDS[header.kind]
    typer.echo(f"{printable(str(header.path))}: {header.kind} ({kind.summary})")
    typer.echo(f"made by {header.stage} of ltcli {header.writer}, sha256 {header.digest}")
    meanings = {spec.name: spec.meaning for spec in kind.tensors}
    lines = {}
    for name, (dtype, shape) in sorted(header.tensors.items()):
        lines[name] = f"{dtype} {list(shape)}  {meanings.get(name, '')}".rstrip()
    blocks = {
        "inputs": header.inputs,
        "parameters": {name: written(value) for name, value in header.parameters.items()},
        "info": {name: _short(value) for name, value in header.info.items()},
        "tensors": lines,
    }
    for title, values in blocks.items():
        typer.echo(f"{title}:")
        if values:
            rows = [[printable(name), value] for name, value in values.items()]
            typer.echo("\n".join(aligned(rows, left=range(2), indent=2)))


def _document(header: Header) -> dict[str, Any]:
    found = asdict(header)
    found["ltcli"] = found.pop("writer")
    tensors = {n: {"dtype": d, "shape": list(s)} for n, (d, s) in header.tensors.items()}
    return found | {"path": str(header.path), "tensors": tensors}


def _short(value: object) -> str:
    # Recipes and class names would fill the screen; --json has all of them.
    text = written(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


@dataclass(frozen=True, kw_only=True)
class LineageParams:
    """Parameters of lineage."""

    file: Path = param(help="artifact whose ancestors are looked for beside it", positional=True)
    dir: tuple[Path, ...] = param((), "another folder of ancestors; may be repeated", short="d")


def lineage(params: LineageParams, as_json: bool) -> None:
    """Print the tree of an artifact's ancestors."""
    root = verify(params.file)
    found, damaged = _scan([params.file.parent, *params.dir], root)
    tree = _node("", root.digest, found)
    document = {"tree": tree, "damaged": damaged}
    nodes = list(_flat(tree))
    missing = [node for _, node in nodes if node["status"] == "missing"]
    if not as_json:
        rows = []
        for depth, node in nodes:
            place = f"{printable(node['path'])} ({node['stage']})" if "path" in node else "?"
            role = f"{node['role']}: " if node["role"] else ""
            rows.append([node["digest"][:12], node["status"], "  " * depth + role + place])
        typer.echo("\n".join(aligned(rows, left=range(3))))
    elif not missing:  # Else the document of the error has the tree.
        typer.echo(json.dumps(document, sort_keys=True))
    if missing:
        # The error prints the document, if one was asked for.
        error = _not_found(params.file, missing[0], damaged)
        error.found = document
        raise error


def _scan(folders: list[Path], root: Header) -> tuple[dict[str, Header], dict[str, str]]:
    """Sound artifacts of some folders by digest, and the faults of the others by path."""
    found, damaged = {root.digest: root}, {}
    # Each folder once, as verifying reads every byte.
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for path in list_folder(folder):
            try:
                header = verify(path)
                # The artifact itself keeps the name that was given, whatever copies there are.
                found.setdefault(header.digest, header)
            except LtcliError as error:
                damaged[str(path)] = error.message
    return found, damaged


def _node(role: str, digest: str, found: Mapping[str, Header]) -> dict[str, Any]:
    node: dict[str, Any] = {"role": role, "digest": digest}
    header = found.get(digest)
    if header is None:
        # Data, weights and tables are no artifacts: their digests are all that is known.
        status = "outside" if role in OUTSIDE else "missing"
        return node | {"status": status, "inputs": []}
    inputs = [_node(name, value, found) for name, value in sorted(header.inputs.items())]
    about = {"status": "verified", "path": str(header.path), "stage": header.stage}
    return node | about | {"inputs": inputs}


def _flat(node: dict[str, Any], depth: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Nodes of a tree with their depth, parents first."""
    yield depth, node
    for child in node["inputs"]:
        yield from _flat(child, depth + 1)


def _not_found(file: Path, node: Mapping[str, Any], damaged: Mapping[str, str]) -> ArtifactError:
    """Error about the damaged file that an ancestor may be, or about the ancestor."""
    if damaged:
        path, message = next(iter(damaged.items()))
        return ArtifactError(path, message, "it may be one of the ancestors: make it again")
    rule = f"ancestor '{node['role']}' is missing or was altered: {node['digest']}"
    return ArtifactError(file, rule, "name its folder with --dir, or make it again")


SHOW = Command(
    name="show",
    summary="Print the content of an artifact, or list a folder.",
    group="Artifacts",
    params=ShowParams,
    run=show,
    examples=(
        "ltcli show -d artifacts/digits",
        "ltcli show artifacts/digits/split.safetensors",
        "ltcli show --json artifacts/digits/pretrain.safetensors",
    ),
)
LINEAGE = Command(
    name="lineage",
    summary="Print the tree of an artifact's verified ancestors.",
    group="Artifacts",
    params=LineageParams,
    run=lineage,
    examples=(
        "ltcli lineage artifacts/digits/finetune-crt.safetensors",
        "ltcli lineage --json artifacts/digits/evaluate-pretrain.safetensors",
    ),
)
