"""The program: the commands, and one place where failures become lines and exit codes."""

import errno
import gc
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ltcli import __version__
from ltcli.cli import compare, doctor, export, help, methods, plot, predict, reading, report
from ltcli.cli.commands import Command, fail, typer_function, usage_of, usage_of_stage
from ltcli.core.errors import DataError, LtcliError, ResourceError, cause, disk_full
from ltcli.stages import STAGES
from ltcli.stages.stage import Stage

COMMANDS: tuple[Stage[Any] | Command[Any], ...] = (
    *STAGES,
    compare.COMMAND,
    report.COMMAND,
    predict.COMMAND,
    export.COMMAND,
    plot.COMMAND,
    methods.COMMAND,
    doctor.COMMAND,
    reading.SHOW,
    reading.LINEAGE,
)
GROUPS = {
    heading: [one for one in COMMANDS if one.group == heading]
    for heading in ("The chain", "After training", "Looking", "Artifacts")
}
_SUMMARY = "Long-tailed image classification, with numbers that can be checked."
_NOTES = (
    "Options of a command: ltcli COMMAND --help. Options of a method: ltcli finetune --method NAME"
    " --help. --version prints the version; --install-completion makes the shell complete names.",
    "Exit codes: 2 parameters, 3 artifacts, 4 numerics, 5 data set, 6 resources, 130 interrupted,"
    " 143 terminated, 1 a bug.",
)
_NO_MEMORY = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")
# Modules whose C++ code names all that is not collected at the exit.
_COMPLAIN = {"onnx", "triton"}
_HELP = {"help_option_names": ["-h", "--help"]}
# Brackets in help are defaults, not markup; a bug keeps Python's own traceback, for reports.
_PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}


def _format_help(self: Any, ctx: Any, formatter: Any) -> None:
    """Write the text of ``--help``, which is complete, as it is."""
    formatter.write(self.help)


class _Program(TyperGroup):
    """The program with its own text of ``--help``."""

    format_help = _format_help


class _Called(TyperCommand):
    """A command with its own text of ``--help``."""

    format_help = _format_help


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


def build(argv: list[str]) -> tuple[Callable[..., Any], list[str], str]:
    """Program that a command line calls, its arguments, and its name.

    Where the first word names a command, that command alone is the program: building all of them
    takes longer than most have to do, and Typer's own options make it load pydantic.
    """
    if "_LTCLI_COMPLETE" not in os.environ:
        for one in COMMANDS:
            if argv and one.name == argv[0]:
                app = typer.Typer(add_completion=False, **_PLAIN)
                _add(app, one, argv)
                return get_command(app), argv[1:], f"ltcli {one.name}"
    return _program(), argv, "ltcli"


def _program() -> Callable[..., Any]:
    """Program of all commands, for help, completion and misspelt names."""
    text = help.of_program(_SUMMARY, GROUPS, _NOTES)
    app = typer.Typer(name="ltcli", cls=_Program, no_args_is_help=True, **_PLAIN)
    app.callback(help=text, context_settings=_HELP)(_options)
    # The shell hands the line that it completes over in a variable of its own.
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    words = line.split()[1:]
    for one in COMMANDS:
        if words and one.name == words[0]:
            _add(app, one, words)
        else:
            # Help and completion need no more than the name.
            app.command(one.name, help=one.summary)(_options)
    return get_command(app)


def _add(app: typer.Typer, one: Stage[Any] | Command[Any], argv: list[str]) -> None:
    usage = usage_of_stage(one, argv) if isinstance(one, Stage) else usage_of(one)
    # Only where somebody reads it.
    text = help.of_command(usage) if {"-h", "--help"} & set(argv) else one.summary
    command = app.command(one.name, cls=_Called, help=text, context_settings=_HELP)
    command(typer_function(usage))


def run(argv: list[str]) -> int:
    """Exit code of a command line, after running it.

    Expected failures are printed as ``error:`` and ``hint:`` lines; with ``--json`` standard output
    gets one document in that case too. Anything unexpected is a bug and keeps its traceback.
    """
    try:
        return _called(argv)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to say.
        _drop(sys.stdout)
        return 141  # 128 + SIGPIPE, as shells report it.
    except OSError as error:
        # Whatever writes a file names it and says so itself; only standard output has no name.
        if error.filename is not None or not disk_full(error):
            raise
        _drop(sys.stdout)
        reason = ResourceError("standard output", "the disk is full", "free some space")
        return _fail([], str(reason), reason.hint, reason.exit_code)


def _drop(stream: TextIO) -> None:
    # What is still in the buffer must not fail once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Messages(io.TextIOWrapper):
    """Standard error that loses its lines where the disk is full, as they are no result."""

    def write(self, text: str) -> int:
        """Write a text, or lose it and all later ones."""
        try:
            return super().write(text)
        except OSError as error:
            if not disk_full(error):
                raise
            _drop(self)
            return len(text)


def _called(argv: list[str]) -> int:
    name = "ltcli"
    try:
        program, words, name = build(argv)
        # Standalone, Typer would print errors and exit by itself.
        code = program(words, prog_name=name, standalone_mode=False)
        # Typer's answer to Ctrl-C in a command.
        if code == 130:
            raise KeyboardInterrupt
    except LtcliError as error:
        return _fail(argv, str(error), error.hint, error.exit_code, error.found)
    except KeyboardInterrupt:
        return _fail(argv, "interrupted", None, 130)  # 128 + SIGINT, as shells report it.
    except OSError as error:
        # Looking at a path may fail too; whatever opens or writes a file says so itself.
        known = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
        if error.filename is None or error.errno not in known:
            raise
        refused = DataError(os.fsdecode(error.filename), f"cannot be read: {cause(error)}")
        return _fail(argv, str(refused), None, refused.exit_code)
    except (ImportError, MemoryError) as error:
        # The loader's words for a limit of memory that torch's own code passes.
        if isinstance(error, ImportError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        lacking = ResourceError(name, "out of memory", "raise the limit of memory: see ulimit -v")
        return _fail(argv, str(lacking), lacking.hint, lacking.exit_code)
    except SystemExit as left:
        # Typer's answer to a broken pipe.
        if isinstance(left.__context__, BrokenPipeError):
            raise left.__context__ from None
        raise
    except Exception as error:
        # Typer's own usage errors; their class lives in a private module.
        if not hasattr(error, "format_message"):
            raise
        return _usage_error(argv, name, error)
    return code if isinstance(code, int) else 0


def _usage_error(argv: list[str], command: str, error: Any) -> int:
    message = str(error.format_message())
    if type(error).__name__ == "NoArgsIsHelpError":  # Its message is the whole help.
        typer.echo(message, err=True)
        return 2
    # Our errors have neither capitals nor full stops.
    message = f"{message[0].lower()}{message[1:]}"
    text, _, suggestion = message.rstrip(".").partition(". Did you mean ")
    text, _, options = text.partition(" (Possible options: ")
    if suggestion or options:
        hint = f"did you mean {suggestion.rstrip('?') or options.rstrip(')')}?"
    else:
        hint = f"see {command} --help"
    return _fail(argv, f"{command}: {text}", hint, 2)


def _fail(
    argv: list[str], message: str, hint: str | None, code: int, found: Mapping[str, Any] = {}
) -> int:
    document = {**found, **fail(message, hint, code)}
    if "--json" in argv:  # Among the words, as the failure may have come before their parsing.
        typer.echo(json.dumps(document, sort_keys=True))
    return code


def main() -> None:
    """Entry point of the console script."""
    # The name of a file need not be text; standard error escapes what is not by itself.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if type(sys.stderr) is io.TextIOWrapper:  # Not what a program put in its place.
        encoding = sys.stderr.encoding
        sys.stderr = _Messages(
            sys.stderr.detach(), encoding, "backslashreplace", line_buffering=True
        )
    # Importing torch makes a hundred thousand objects that live to the end. To look through them
    # for garbage as often as Python does, and again at the exit, takes a quarter of a short run.
    gc.set_threshold(5000)
    code = run(sys.argv[1:])
    if _COMPLAIN.isdisjoint(sys.modules):
        gc.freeze()
    sys.exit(code)
