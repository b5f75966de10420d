"""Build one command per stage from its declaration."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ltcli import methods
from ltcli.artifacts.header import read_header
from ltcli.cli import jobs
from ltcli.compute.processes import processes
from ltcli.core import log
from ltcli.core.params import Spec, as_dict, specs
from ltcli.core.text import printable
from ltcli.stages import STAGES
from ltcli.stages.run import Job, plan
from ltcli.stages.run import run as run_job
from ltcli.stages.stage import Input, Stage


def add_to(app: typer.Typer) -> None:
    """Add every stage to the program."""
    for stage in STAGES:
        app.command(stage.name, help=_help(stage), no_args_is_help=False)(_command(stage))


def _help(stage: Stage) -> str:
    examples = "\n".join(f"  {line}" for line in stage.examples)
    return f"{stage.summary}\n\n\b\nExamples:\n{examples}"


def _command(stage: Stage) -> Callable[..., None]:
    """Return a function whose signature Typer turns into the stage's command."""

    def command(**values: Any) -> None:
        speaks = processes()[0] == 0
        log.setup(values.pop("verbose") - values.pop("quiet"), first=speaks)
        as_json, dry_run = values.pop("as_json"), values.pop("dry_run")
        results = []
        for job in jobs.from_options(stage, values):
            results.append(_dry(job) if dry_run else _run(job))
            if not as_json and speaks:
                _show(stage, results[-1], dry_run)
        if as_json and speaks:
            typer.echo(json.dumps(results if stage.for_each else results[0], sort_keys=True))

    parameters = [_parameter(spec) for spec in specs(stage.params)]
    parameters += [_method_parameter(used) for used in _method_options(stage).values()]
    parameters += [_input_parameter(entry) for entry in stage.inputs]
    parameters += _COMMON
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__name__ = stage.name.replace("-", "_")
    return command


def _run(job: Job) -> dict[str, Any]:
    made = run_job(job)
    # On the disk of another machine it may be seen a little later.
    digest = read_header(job.out).digest if processes()[0] == 0 else None
    return {
        "stage": job.stage.name,
        "out": str(job.out),
        "status": "made" if made else "up to date",
        "digest": digest,
    }


def _dry(job: Job) -> dict[str, Any]:
    planned = plan(job)
    reason = planned.reason
    return {
        "stage": job.stage.name,
        "out": str(job.out),
        "status": "up to date" if reason is None else f"would run: {reason}",
        "inputs": {role: str(path) for role, path in job.inputs.items()},
        "parameters": as_dict(job.params),
        "preview": planned.preview,
    }


def _show(stage: Stage, result: dict[str, Any], dry_run: bool) -> None:
    if result["status"] != "made":
        typer.echo(f"{stage.name}: {result['status']}", err=not dry_run)
    typer.echo(result["out"])
    if dry_run:
        for name, value in result["parameters"].items():
            typer.echo(f"  {name}: {written(value)}")
        for line in result["preview"]:
            typer.echo(line)
    elif stage.show is not None:
        typer.echo("\n".join(stage.show(read_header(Path(result["out"])))))


def _parameter(spec: Spec) -> inspect.Parameter:
    if spec.positional:
        argument = typer.Argument(help=f"{_text(spec)}: {spec.metavar}", metavar=spec.name.upper())
        return _keyword(spec.name, Annotated[str | None, argument], None)
    return _option(spec, _text(spec))


def _option(spec: Spec, text: str) -> inspect.Parameter:
    if spec.base is bool:
        flags = f"{spec.flag}/--no-{spec.flag[2:]}"
        switch = typer.Option(flags, help=text, show_default=False)
        return _keyword(spec.name, Annotated[bool | None, switch], None)
    option = typer.Option(
        spec.flag,
        help=text,
        metavar=spec.metavar,
        show_default=False,
        autocompletion=(lambda: list(spec.choices)) if spec.choices else None,
    )
    return _keyword(spec.name, Annotated[str | None, option], None)


def _text(spec: Spec) -> str:
    default = "" if spec.required or spec.default is None else f" [default: {plain(spec.default)}]"
    return f"{spec.help}{default}"


def help_of(command: Callable[..., None]) -> str:
    """Return a command's docstring with the mark before paragraphs whose lines stay as they are."""
    return inspect.cleandoc(command.__doc__ or "").replace("\\b\n", "\b\n")


def plain(value: Any) -> str:
    """Return a default as it is written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def written(value: Any) -> str:
    """Return a value as JSON, of which every character can be shown on a terminal."""
    return printable(json.dumps(value, ensure_ascii=False))


def _method_options(stage: Stage) -> dict[str, list[tuple[str, Spec]]]:
    """Return option name to the methods that have it, with their declarations and defaults."""
    found: dict[str, list[tuple[str, Spec]]] = {}
    if stage.has_methods:
        for name in methods.names(stage.name):
            method = methods.METHODS[name]
            defaults = method.defaults.get(stage.name, {})
            for spec in specs(method.options):
                own = dataclasses.replace(spec, default=defaults.get(spec.name, spec.default))
                found.setdefault(spec.name, []).append((name, own))
    return found


def _method_parameter(used: list[tuple[str, Spec]]) -> inspect.Parameter:
    by_text: dict[str, list[str]] = {}
    for method, spec in used:
        by_text.setdefault(_text(spec), []).append(method)
    text = "; ".join(f"({', '.join(names)}) {text}" for text, names in by_text.items())
    choices = tuple(dict.fromkeys(choice for _, spec in used for choice in spec.choices))
    return _option(dataclasses.replace(used[0][1], choices=choices), text)


def _input_parameter(entry: Input) -> inspect.Parameter:
    default = "optional" if entry.file is None else "default: from --dir"
    option = typer.Option(f"--{entry.name}", help=f"{entry.help} [{default}]", show_default=False)
    return _keyword(f"input_{entry.name}", Annotated[Path | None, option], None)


def _keyword(name: str, kind: Any, default: Any) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=kind)


_COMMON = [
    _keyword(
        "folder",
        Annotated[Path, typer.Option("--dir", "-d", help="Folder of inputs and output.")],
        Path("artifacts"),
    ),
    _keyword("out", Annotated[Path | None, typer.Option("--out", help="File to write.")], None),
    _keyword(
        "config",
        Annotated[
            Path | None, typer.Option("--config", help="YAML file of parameters; options win.")
        ],
        None,
    ),
    _keyword(
        "device", Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")], "auto"
    ),
    _keyword(
        "force", Annotated[bool, typer.Option("--force", help="Redo; replace any file.")], False
    ),
    _keyword(
        "dry_run",
        Annotated[
            bool,
            typer.Option("--dry-run", help="Check all that can be before the work, then stop."),
        ],
        False,
    ),
    _keyword(
        "as_json", Annotated[bool, typer.Option("--json", help="Print one JSON document.")], False
    ),
    _keyword(
        "verbose", Annotated[int, typer.Option("--verbose", "-v", count=True, help="More log.")], 0
    ),
    _keyword(
        "quiet", Annotated[int, typer.Option("--quiet", "-q", count=True, help="Less log.")], 0
    ),
]
