"""Commands made from declarations: of a stage, or of a command that makes no artifact."""

from __future__ import annotations

import inspect
import itertools
import json
import logging
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import typer

from ltcli import methods
from ltcli.artifacts.header import Header, read_folder, read_header
from ltcli.compute.environment import processes
from ltcli.core.errors import ArtifactError, LtcliError, ParamError, StopError
from ltcli.core.params import NoOptions, Spec, Value, build, checked, param, specs
from ltcli.core.text import printable
from ltcli.core.yaml_file import read_lines, read_mapping
from ltcli.stages.run import Job, Opened, planned, run
from ltcli.stages.stage import Input, Stage

# Parameters of which a command line may name several values, for a run each.
_LISTS = ("method", "seed")
INPUTS = ("Inputs, in --dir unless named", "Inputs, read if named")

P = TypeVar("P")
"""The frozen dataclass of a command's parameters."""


@dataclass(frozen=True)
class Command(Generic[P]):
    """A command that makes no artifact, with the fields of a stage that it needs.

    ``run`` does the work, from the parameters and whether to print one JSON document; ``details``
    is a paragraph, and ``group`` the heading, for ``--help``.
    """

    name: str
    summary: str
    params: type[P]
    run: Callable[[P, bool], None]
    examples: tuple[str, ...]
    details: str = ""
    group: str = "After training"


@dataclass(frozen=True)
class Usage:
    """The command that a command line calls, as Typer and ``--help`` read it.

    Attributes:
        called: The stage or command.
        details: A paragraph, or nothing.
        specs: Its options and arguments, in the order of ``--help``.
        defaults: Defaults by name, instead of the declared ones.
        call: Runs it from name to text of what was given.
        own: Options of the method that is called, where the command has methods.
        method: Name of that method.
    """

    called: Stage[Any] | Command[Any]
    details: str
    specs: tuple[Spec, ...]
    defaults: Mapping[str, Value]
    call: Callable[[dict[str, Any]], None]
    own: tuple[Spec, ...] = ()
    method: str = ""


@dataclass(frozen=True)
class Common:
    """Options that every command takes."""

    config: Path | None = param(None, "YAML file of parameters; options win", group="Common")
    json: bool = param(False, "print one JSON document", group="Common")


@dataclass(frozen=True)
class Running(Common):
    """Options that every stage takes beside its parameters."""

    dir: Path = param(Path("artifacts"), "folder of inputs and output", group="Common", short="d")
    out: Path | None = param(None, "output file", group="Common")
    device: str = param("auto", "auto, cpu, cuda, cuda:N or mps", group="Common")
    force: bool = param(False, "redo, replace any file", group="Common")
    dry_run: bool = param(False, "check everything, then stop", group="Common")
    verbose: bool = param(False, "more log", group="Common", short="v")
    quiet: bool = param(False, "less log", group="Common", short="q")


def usage_of(command: Command[P]) -> Usage:
    """Usage of a command that makes no artifact."""

    def call(given: dict[str, Any]) -> None:
        common = build(Common, _taken(specs(Common), given), command.name)
        command.run(_record(command.params, given, common.config, command.name), common.json)

    return Usage(command, command.details, (*specs(command.params), *specs(Common)), {}, call)


def typer_function(usage: Usage) -> Callable[..., None]:
    """Function whose signature Typer turns into the command."""

    def command(**values: Any) -> None:
        # Typer gives an empty list for files that were not named.
        usage.call({name: value for name, value in values.items() if value not in (None, [])})

    signature = inspect.Signature(list(map(_parameter, (*usage.own, *usage.specs))))
    command.__signature__ = signature  # type: ignore[attr-defined]
    return command


def _parameter(spec: Spec) -> inspect.Parameter:
    # The declarations read the values, so that here all but switches are text. Files are named one
    # by one, as their names may hold commas.
    kind: Any = bool if spec.base is bool else list[str] if spec.item is Path else str
    flag = spec.flag
    if spec.base is bool:
        # The command line can switch off what a parameter file or a method switches on.
        flag = f"{flag}/--no-{flag[2:]}"
    if spec.positional:
        info: Any = typer.Argument(metavar=spec.name.upper())
    else:
        flags = (flag, f"-{spec.short}") if spec.short else (flag,)
        info = typer.Option(*flags, autocompletion=lambda: list(spec.choices))
    annotation, keyword = Annotated[kind | None, info], inspect.Parameter.KEYWORD_ONLY
    # None tells a value that was not given from one that equals the default.
    return inspect.Parameter(spec.name, keyword, default=None, annotation=annotation)


def _taken(declared: Sequence[Spec], given: dict[str, Any]) -> dict[str, Any]:
    """Take the values of some options out of what was given."""
    return {spec.name: given.pop(spec.name) for spec in declared if spec.name in given}


def _record(
    params: type[P],
    given: Mapping[str, object],
    config: Path | None,
    where: str,
    options: type = NoOptions,
    defaults: Mapping[str, Value] | None = None,
    left_out: Collection[str] = (),
) -> P:
    """Parameters of a command from its options and a parameter file; see ``build``.

    Values of the file are not read if they are ``left_out``, or lists of which a run has one part.
    """
    values = given
    if config is not None:
        in_file: dict[str, Value] = {}
        for name, (line, value) in read_lines(config).items():
            if name not in left_out and not (name in _LISTS and name in given):
                # Checked one by one, so that an error names the line.
                in_file |= checked(params, {name: value}, f"{config}:{line}", options)
        values = {**in_file, **given}
    return build(params, values, where, options=options, defaults=defaults)


def usage_of_stage(stage: Stage[P], argv: Sequence[str]) -> Usage:
    """Usage of a stage, with the options of the methods that a command line names."""
    details, names, own, defaults = "", [""], dict[str, Spec](), dict(stage.defaults)
    if stage.has_methods:
        of_method = f"Options of a method: ltcli {stage.name} --method NAME --help."
        details = f"{of_method} Methods: ltcli methods"
        given = _value_of("method", argv)
        if given is not None:
            names = _listed(given)
            about = [(name, methods.find(name, stage.name).summary) for name in names]
            details = " ".join(f"{name}: {summary}." for name, summary in about)
        elif "method" in stage.defaults:
            names = [stage.defaults["method"]]
        for name in filter(None, names):
            method = methods.find(name, stage.name)
            own |= {spec.name: spec for spec in specs(method.options)}
            # Help of several methods shows the defaults that they share.
            defaults |= method.defaults.get(stage.name, {}) if len(names) == 1 else {}
    files = tuple(map(_input_spec, stage.inputs))

    def call(given: dict[str, Any]) -> None:
        running = build(Running, _taken(specs(Running), given), stage.name)
        speaks = processes()[0] == 0
        log_to_stderr(running.verbose - running.quiet, first=speaks)
        if names == [""] and stage.has_methods:
            known = ", ".join(methods.names(stage.name))
            raise ParamError(stage.name, "method must be given", f"--method is one of {known}")
        named = _taken(files, given)
        # All values are read before the first run: a misspelt one must not come up after hours.
        variants = list(_variants(stage, names, tuple(own), given, running.config))
        jobs = [
            job
            for params, suffix in variants
            for job in _jobs(stage, params, named, running, suffix)
        ]
        if running.out is not None and len(variants) > 1:  # The outputs would replace each other.
            rule = "--out needs one method and one seed, as there is one output for each"
            raise ParamError(stage.name, rule)
        several = len(jobs) > 1 or stage.for_each is not None
        results, codes = [], []
        with ExitStack() as stack:
            opened = Opened(stack)
            for job in jobs:
                try:
                    results.append(_done(job, opened, running.dry_run))
                    if speaks and not running.json:
                        _show(stage, results[-1])
                except LtcliError as error:
                    # Nothing goes on after a signal, and a single variant ends the command itself.
                    if len(variants) == 1 or isinstance(error, StopError):
                        raise
                    codes.append(error.exit_code)
                    found = fail(str(error), error.hint, error.exit_code)
                    results.append({"stage": stage.name, "out": str(job.out), **found})
        if speaks and running.json:
            typer.echo(json.dumps(results if several else results[0], sort_keys=True))
        if codes:
            raise typer.Exit(codes[0])

    described = (*specs(stage.params), *files, *specs(Running))
    method_names = ", ".join(names)
    return Usage(stage, details, described, defaults, call, tuple(own.values()), method_names)


class _Shown(logging.Formatter):
    """Messages in which what a terminal obeys is escaped, as in names of classes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a message."""
        return "\n".join(map(printable, super().format(record).split("\n")))


def fail(message: str, hint: str | None, code: int) -> dict[str, Any]:
    """Print a message and its hint on standard error; return them for a JSON document."""
    # A file's name need not be text, and may hold what a terminal obeys.
    message = printable(message.replace("\n", " "))
    typer.echo(f"error: {message}", err=True)
    if hint is not None:
        typer.echo(f"hint: {hint}", err=True)
    return {"error": {"code": code, "message": message, "hint": hint}}


def _variants(
    stage: Stage[P],
    names: Sequence[str],
    own: Collection[str],
    given: Mapping[str, Any],
    config: Path | None,
) -> Iterator[tuple[P, str]]:
    """Parameters of each run of a command line, and what its output has behind its name.

    There is one run for every method and every seed. A run takes the options that its method reads,
    if another one of the list reads the rest; ``own`` are those of the methods themselves.
    """
    seeds = [""]
    unread_by_all = set(stage.unread(names[0])).intersection(*map(stage.unread, names))
    if any(spec.name == "seed" for spec in specs(stage.params)):
        seeds = _listed(given["seed"] if "seed" in given else _in_file("seed", config) or "")
    for name, seed in itertools.product(names, seeds):
        options, defaults, left_out = NoOptions, dict(stage.defaults), set[str]()
        if stage.has_methods:
            method = methods.find(name, stage.name)
            options = method.options
            defaults |= method.defaults.get(stage.name, {})
            left_out = set(own) - {spec.name for spec in specs(options)}
            # What no method of the list reads is refused, as with one method.
            left_out |= set(stage.unread(name)) - unread_by_all
        values = {key: value for key, value in given.items() if key not in left_out}
        values |= {"method": name} if len(names) > 1 else {}
        values |= {"seed": seed} if len(seeds) > 1 else {}
        suffix = f"-seed{seed}" if len(seeds) > 1 else ""
        yield _record(stage.params, values, config, stage.name, options, defaults, left_out), suffix


def _listed(text: str) -> list[str]:
    """The parts of a list, each once."""
    return list(dict.fromkeys(text.split(",")))


def _input_spec(role: Input) -> Spec:
    group = INPUTS[role.file is None]
    return Spec(role.name, Path, None, True, (), (), None, role.help, False, False, group, "", {})


def log_to_stderr(verbosity: int, *, first: bool = True) -> None:
    """Send the package's log to stderr; library code only calls ``getLogger``.

    ``verbosity`` is -1 for warnings only, 0 for one line per stage and epoch, 1 for everything. Of
    several processes those that are not ``first`` log warnings alone.
    """
    level = logging.INFO if first else logging.WARNING
    if verbosity != 0:
        level = logging.WARNING if verbosity < 0 else logging.DEBUG
    # Standard output is for results, which scripts read.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Shown("%(message)s"))
    logger = logging.getLogger("ltcli")
    # A second command in one process replaces the handler of the first.
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False  # A handler of the root logger would repeat every line.


def _value_of(name: str, argv: Sequence[str]) -> str | None:
    """An option's value on a command line, else in the parameter file that it names."""
    # The method decides which options there are, so it is read before them.
    flag, found, config = f"--{name}", None, None
    for word, following in zip(argv, (*argv[1:], None), strict=True):
        option, equals, value = word.partition("=")
        given = value if equals else following
        if option == flag:
            found = given
        elif option == "--config":
            config = given
    if found is None and config is not None:
        found = _in_file(name, Path(config))
    return found


def _in_file(name: str, config: Path | None) -> str | None:
    """Text of a value in a parameter file, as it is written on a command line."""
    found = None if config is None else read_mapping(config).get(name)
    if found is None:
        return None
    return ",".join(map(str, found if isinstance(found, list) else [found]))


def _jobs(
    stage: Stage[P], params: P, named: Mapping[str, str], running: Running, suffix: str
) -> Iterator[Job[P]]:
    """Jobs with the same parameters: one, or one for each model of ``evaluate``."""
    reads = None if stage.needs is None else stage.needs(params)
    inputs = {}
    for role in stage.inputs:
        if reads is not None and role.name not in reads:
            if role.name in named:  # A reader would take it for part of the result.
                raise ParamError(stage.name, f"{role.name} is not read with these parameters")
        elif role.name in named:
            inputs[role.name] = Path(named[role.name])
        elif role.file is not None:
            inputs[role.name] = running.dir / f"{role.file}.safetensors"
    choices = [inputs]
    if stage.for_each is not None and stage.for_each not in named:
        if running.out is not None:  # The outputs would replace each other.
            rule = f"--out needs --{stage.for_each}, as there is one output for each"
            raise ParamError(stage.name, rule)
        choices = [{**inputs, stage.for_each: path} for path in _all_of_kind(stage, running.dir)]
    for chosen in choices:
        stem = stage.name if stage.output_stem is None else stage.output_stem(params, chosen)
        out = running.out or running.dir / f"{stem}{suffix}.safetensors"
        if out.suffix != ".safetensors":  # Listings find artifacts by this suffix.
            raise ParamError(stage.name, f"out must end in .safetensors, got {out}")
        yield Job(stage, params, chosen, out, running.device, running.force)


def _all_of_kind(stage: Stage[P], folder: Path) -> list[Path]:
    """Files that ``for_each`` can be, the one with the default name first."""
    entry = next(entry for entry in stage.inputs if entry.name == stage.for_each)
    headers = read_folder(folder, f"remove it, or name one with --{entry.name}")
    found = [header.path for header in headers if header.kind == entry.kind]
    if not found:
        rule = f"has no artifact of kind {entry.kind}"
        raise ArtifactError(folder, rule, "run the stage that makes it first")
    return sorted(found, key=lambda path: (path.stem != entry.file, path.name))


def _done(job: Job[P], files: Opened, dry_run: bool) -> dict[str, Any]:
    """Outcome of a job, or of its checks alone, for people and programs."""
    about: dict[str, Any] = {"stage": job.stage.name, "out": str(job.out)}
    if not dry_run:
        made, digest = run(job, files)
        return about | {"status": "made" if made else "up to date", "digest": digest}
    plan = planned(job, files)
    for path in job.inputs.values():
        files.check(path)
    return about | {
        "status": "up to date" if plan.reason is None else f"would run: {plan.reason}",
        "inputs": {role: str(path) for role, path in job.inputs.items()},
        "parameters": plan.parameters,
        "preview": [*plan.preview, *plan.checked.warnings],
    }


def _show(stage: Stage[P], result: dict[str, Any]) -> None:
    is_dry = "preview" in result
    if result["status"] != "made":
        # What a dry run would do is its result; what a run did not do is a remark.
        typer.echo(f"{stage.name}: {result['status']}", err=not is_dry)
    typer.echo(result["out"])
    if is_dry:
        lines = [f"  {name}: {written(value)}" for name, value in result["parameters"].items()]
        typer.echo("\n".join([*lines, *result["preview"]]))
    elif stage.show is not None:
        typer.echo("\n".join(stage.show(read_header(Path(result["out"])))))


def written(value: object) -> str:
    """A value as JSON, of which every character can be shown on a terminal."""
    return printable(json.dumps(value, ensure_ascii=False))


def read_kind(path: Path, kind: str, hint: str) -> Header:
    """Header of an artifact of a kind; ``hint`` is the remedy for another kind."""
    header = read_header(path)
    if header.kind != kind:
        raise ArtifactError(path, f"must be of kind {kind}, got {header.kind}", hint)
    return header
