"""methods: the table of methods, or the parameters and the source of one."""

import json
from dataclasses import dataclass
from typing import Any

import typer

from ltcli.cli.commands import Command
from ltcli.cli.help import plain, rows
from ltcli.core.errors import ParamError, nearest
from ltcli.core.params import Spec, build, param, specs
from ltcli.core.table import aligned
from ltcli.methods import METHODS
from ltcli.methods.method import Method
from ltcli.stages import finetune

_WORDS = {
    "covariances": "covariances",
    "confusion": "a confusion graph",
    "generator": "a generator of stg-train",
    "maps": "feature maps",
    "held-out": "held-out samples",
}


@dataclass(frozen=True)
class Params:
    """Parameters of methods."""

    name: str | None = param(
        None, "method to describe; without one, all are listed", positional=True
    )


def run(params: Params, as_json: bool) -> None:
    """Print the table of methods, or one of them."""
    name, chosen = params.name, METHODS
    if name is not None:
        if name not in METHODS:
            raise ParamError("methods", f"no method '{name}'", nearest(name, list(METHODS)))
        chosen = {name: METHODS[name]}
    if as_json:
        document = {key: _facts(key, method) for key, method in chosen.items()}
        typer.echo(json.dumps(document, sort_keys=True))
    elif name is not None:
        _describe(name, METHODS[name])
    else:
        _list()


def _list() -> None:
    # One width for all groups.
    width = max(map(len, METHODS))
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for name, method in METHODS.items():
        groups.setdefault(method.stages, []).append([name.ljust(width), method.summary])
    for stages, members in groups.items():
        typer.echo(f"For {' and '.join(stages)}:")
        typer.echo("\n".join(aligned(members, left=range(2), indent=2, width=80)))
    typer.echo("\nOne method: ltcli methods NAME. Its options: ltcli finetune --method NAME --help")


def _describe(name: str, method: Method[Any]) -> None:
    facts = _facts(name, method)
    use = f"for {' and '.join(method.stages)}; needs {facts['needs']}"
    lines = [f"{name}: {method.summary}", f"  {use}", f"  {method.source}"]
    for stage, defaults in method.defaults.items():
        own = [_as_option(option, value) for option, value in defaults.items()]
        lines.append(f"  in {stage}: {' '.join(own)}")
    for spec in specs(method.options):
        default = facts["parameters"][spec.flag]["default"]
        if isinstance(default, dict):
            # Pre-training and fine-tuning have different defaults.
            default = ", ".join(f"{plain(value)} in {stage}" for stage, value in default.items())
        lines += rows(spec, {spec.name: default})
    typer.echo("\n".join(lines))


def _facts(name: str, method: Method[Any]) -> dict[str, Any]:
    needs = "a trained classifier and features" if method.solve else "labels"
    return {
        "summary": method.summary,
        "source": method.source,
        "stages": list(method.stages),
        "needs": ", ".join([needs, *_reads(name, method)]),
        "defaults": method.defaults,
        "parameters": {
            spec.flag: {"default": _default(method, spec), "help": spec.help}
            for spec in specs(method.options)
        },
    }


def _default(method: Method[Any], spec: Spec) -> Any:
    """A parameter's default, or stage to default where its stages have different ones."""
    own = {s: method.defaults.get(s, {}).get(spec.name, spec.default) for s in method.stages}
    first, *others = own.values()
    return own if any(value != first for value in others) else first


def _reads(name: str, method: Method[Any]) -> list[str]:
    """Inputs of a method in finetune with its default parameters, in words."""
    if "finetune" not in method.stages:
        return []
    defaults = {**finetune.STAGE.defaults, **method.defaults.get("finetune", {})}
    given = {"method": name}
    params = build(finetune.Params, given, "methods", options=method.options, defaults=defaults)
    found = method.reads(params.options, finetune.run_of(params, {}))
    return [_WORDS[role] for role in found]


def _as_option(name: str, value: object) -> str:
    """A parameter as it is written on the command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {plain(value)}"


COMMAND = Command(
    name="methods",
    summary="List the methods, or print options and source of one.",
    group="Looking",
    params=Params,
    run=run,
    examples=("ltcli methods", "ltcli methods tau-norm"),
)
