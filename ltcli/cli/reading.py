"""Commands that only read: show, lineage, methods, doctor."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ltcli import methods
from ltcli.artifacts.folder import list_folder
from ltcli.artifacts.header import Header, verify
from ltcli.artifacts.kinds import KINDS
from ltcli.cli import doctor as checks
from ltcli.cli.commands import help_of, plain, written
from ltcli.core.errors import ArtifactError, LtcliError, ParamError, nearest
from ltcli.core.params import Spec, build, specs
from ltcli.core.text import printable
from ltcli.methods.method import Method
from ltcli.stages import finetune
from ltcli.stages.stage import OUTSIDE

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def show(
    file: Annotated[Path, typer.Argument(help="The artifact.", metavar="FILE")],
    as_json: _Json = False,
) -> None:
    r"""Print what an artifact is, what it holds and what it was made from.

    \b
    Examples:
      ltcli show artifacts/digits/split.safetensors
      ltcli show --json artifacts/digits/pretrain.safetensors
    """
    header = verify(file)
    meanings = {spec.name: spec.meaning for spec in KINDS[header.kind].tensors}
    if as_json:
        tensors = {n: {"dtype": d, "shape": list(s)} for n, (d, s) in header.tensors.items()}
        facts = {
            "path": str(header.path),
            "kind": header.kind,
            "kind_version": header.kind_version,
            "stage": header.stage,
            "ltcli": header.writer,
            "digest": header.digest,
            "parameters": header.parameters,
            "inputs": header.inputs,
            "info": header.info,
            "tensors": tensors,
        }
        typer.echo(json.dumps(facts, sort_keys=True))
        return
    typer.echo(f"{header.path}: {header.kind} ({KINDS[header.kind].summary})")
    typer.echo(f"made by {header.stage} of ltcli {header.writer}, sha256 {header.digest}")
    _block("inputs", header.inputs)
    _block("parameters", {name: written(value) for name, value in header.parameters.items()})
    _block("info", {name: _short(value) for name, value in header.info.items()})
    lines = {}
    for name, (dtype, shape) in sorted(header.tensors.items()):
        lines[name] = f"{dtype} {list(shape)}  {meanings.get(name, '')}".rstrip()
    _block("tensors", lines)


def _block(title: str, values: dict[str, str]) -> None:
    typer.echo(f"{title}:")
    shown = {printable(name): value for name, value in values.items()}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        typer.echo(f"  {name:<{width}}  {value}")


def _short(value: Any) -> str:
    text = written(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def lineage(
    file: Annotated[Path, typer.Argument(help="The artifact.", metavar="FILE")],
    folder: Annotated[
        list[Path] | None,
        typer.Option("--dir", "-d", help="Also look here for ancestors, not only beside FILE."),
    ] = None,
    as_json: _Json = False,
) -> None:
    r"""Print the tree of an artifact's ancestors, each verified by its hash.

    \b
    Examples:
      ltcli lineage artifacts/digits/finetune-crt.safetensors
      ltcli lineage --json artifacts/digits/evaluate-pretrain.safetensors
    """
    root = verify(file)
    found, damaged = _scan([file.parent, *(folder or [])], root)
    tree = _node("", root.digest, found)
    document = {"tree": tree, "damaged": damaged}
    missing = _missing(tree)
    if not as_json:
        _print_tree(tree, "")
    elif not missing:
        typer.echo(json.dumps(document, sort_keys=True))
    if missing:
        error = _not_found(file, missing[0], damaged)
        error.found = document
        raise error


def _not_found(file: Path, node: dict[str, Any], damaged: dict[str, str]) -> ArtifactError:
    """Return an error about the damaged file that an ancestor may be, or about the ancestor."""
    if damaged:
        path, message = next(iter(damaged.items()))
        return ArtifactError(path, message, "it may be one of the ancestors: make it again")
    rule = f"ancestor '{node['role']}' is missing or was altered: {node['digest']}"
    return ArtifactError(file, rule, "name its folder with --dir, or make it again")


def _scan(folders: list[Path], root: Header) -> tuple[dict[str, Header], dict[str, str]]:
    """Return the sound artifacts of some folders by digest, and what is wrong with the others."""
    found, damaged = {root.digest: root}, {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for path in list_folder(folder):
            try:
                header = verify(path)
                found.setdefault(header.digest, header)
            except LtcliError as error:
                damaged[str(path)] = error.message
    return found, damaged


def _node(role: str, digest: str, found: dict[str, Header]) -> dict[str, Any]:
    header = found.get(digest)
    if header is None:
        status = "outside" if role in OUTSIDE else "missing"
        return {"role": role, "digest": digest, "status": status, "inputs": []}
    inputs = [_node(name, value, found) for name, value in sorted(header.inputs.items())]
    return {
        "role": role,
        "digest": digest,
        "status": "verified",
        "path": str(header.path),
        "stage": header.stage,
        "inputs": inputs,
    }


def _print_tree(node: dict[str, Any], indent: str) -> None:
    role = f"{node['role']}: " if node["role"] else ""
    name = f"{node['path']} ({node['stage']})" if "path" in node else "?"
    typer.echo(f"{indent}{role}{name} {node['digest'][:12]} {node['status']}")
    for child in node["inputs"]:
        _print_tree(child, indent + "  ")


def _missing(node: dict[str, Any]) -> list[dict[str, Any]]:
    here = [node] if node["status"] == "missing" else []
    return here + [found for child in node["inputs"] for found in _missing(child)]


def list_methods(
    name: Annotated[
        str | None, typer.Argument(help="Only this one.", metavar="[NAME]", show_default=False)
    ] = None,
    as_json: _Json = False,
) -> None:
    r"""Print the methods: where they are used, their parameters and their source.

    \b
    Examples:
      ltcli methods
      ltcli methods tau-norm
    """
    chosen = methods.METHODS
    if name is not None:
        if name not in chosen:
            raise ParamError("methods", f"no method '{name}'", nearest(name, list(chosen)))
        chosen = {name: chosen[name]}
    table = {key: _method_facts(method) for key, method in chosen.items()}
    if as_json:
        typer.echo(json.dumps(table, sort_keys=True))
        return
    for key, facts in table.items():
        typer.echo(f"{key}: {facts['summary']}")
        typer.echo(f"  for {' and '.join(facts['stages'])}; needs {facts['needs']}")
        typer.echo(f"  {facts['source']}")
        for stage, defaults in facts["defaults"].items():
            own = [_as_option(option, value) for option, value in defaults.items()]
            typer.echo(f"  in {stage}: {' '.join(own)}")
        for option, spec in facts["parameters"].items():
            default = _default_text(spec["default"])
            typer.echo(f"  {option} [default: {default}]  {spec['help']}")


def _as_option(name: str, value: Any) -> str:
    """Return a parameter as it is written on the command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {plain(value)}"


def _method_facts(method: Method[Any]) -> dict[str, Any]:
    parameters = {
        spec.flag: {"default": _default(method, spec), "help": spec.help}
        for spec in specs(method.options)
    }
    needs = "a trained classifier and features" if method.solve else "labels"
    more = _reads(method)
    return {
        "summary": method.summary,
        "source": method.source,
        "stages": list(method.stages),
        "needs": ", ".join([needs, *more]),
        "defaults": {stage: dict(values) for stage, values in method.defaults.items()},
        "parameters": parameters,
    }


def _default(method: Method[Any], spec: Spec) -> Any:
    """Return a parameter's default, or stage to default where its stages have different ones."""
    own = {s: method.defaults.get(s, {}).get(spec.name, spec.default) for s in method.stages}
    first, *others = own.values()
    return own if any(value != first for value in others) else first


def _default_text(default: Any) -> str:
    if isinstance(default, dict):
        return ", ".join(f"{plain(value)} in {stage}" for stage, value in default.items())
    return plain(default)


def _reads(method: Method[Any]) -> list[str]:
    """Return what a method reads in finetune with its default parameters."""
    if "finetune" not in method.stages:
        return []
    stage = finetune.STAGE
    words = {
        "covariances": "covariances",
        "confusion": "a confusion graph",
        "generator": "a generator of stg-train",
        "maps": "feature maps",
        "held-out": "held-out samples",
    }
    defaults = {**stage.defaults, **method.defaults.get("finetune", {})}
    params = build(
        finetune.Params, {"method": ""}, "methods", options=method.options, defaults=defaults
    )
    run = finetune.run_of(params, {})
    return [words[role] for role in method.reads(params.options, run)]


def doctor(
    folder: Annotated[Path, typer.Option("--dir", "-d", help="Folder to test for writing.")] = Path(
        "artifacts"
    ),
    as_json: _Json = False,
) -> None:
    r"""Check the installation: torch and torchvision, devices, disk, and a test write.

    \b
    Examples:
      ltcli doctor
      ltcli doctor --json -d artifacts
    """
    findings = checks.examine(folder)
    error = checks.first_error(findings)
    document = {"findings": [finding.__dict__ for finding in findings]}
    if not as_json:
        for finding in findings:
            typer.echo(f"{'ok' if finding.ok else 'FAILED':<7} {finding.name}: {finding.text}")
    elif error is None:
        typer.echo(json.dumps(document, sort_keys=True))
    else:
        error.found = document
    if error is not None:
        raise error


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for name, command in (
        ("show", show),
        ("lineage", lineage),
        ("methods", list_methods),
        ("doctor", doctor),
    ):
        app.command(name, help=help_of(command))(command)
