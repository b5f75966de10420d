"""The program: the commands, and one place where failures become lines and exit codes."""

import errno
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.main import get_command

from ltcli import __version__
from ltcli.cli import commands, compare, export, plot, predict, reading, report
from ltcli.core.errors import DataError, LtcliError, ResourceError, cause, disk_full

_EXIT_CODES = (
    "Exit codes: 2 parameters, 3 artifacts, 4 numerics, 5 data set, 6 resources,"
    " 130 interrupted, 143 terminated, 1 a bug."
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def build(argv: list[str]) -> Callable[..., Any]:
    """Return the program for one command line.

    Reading the program's own --help and completion options makes Typer load pydantic, which takes
    longer than all the rest. So they are there only where they can be meant: before a command.
    """
    before_command = not argv or argv[0].startswith("-")
    return _built(before_command, before_command or "_LTCLI_COMPLETE" in os.environ)


@functools.cache
def _built(with_help: bool, with_completion: bool) -> Callable[..., Any]:
    # Typer takes longer to build the commands than to read a command line.
    app = typer.Typer(
        name="ltcli",
        help="Long-tailed image classification, with numbers that can be checked.",
        epilog=_EXIT_CODES,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        add_help_option=with_help,
        add_completion=with_completion,
    )
    app.callback()(_options)
    for group in (commands, compare, plot, report, predict, export, reading):
        group.add_to(app)
    return get_command(app)


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code.

    Expected failures are printed as ``error:`` and ``hint:`` lines; with ``--json`` standard output
    gets one document in that case too. Anything unexpected is a bug and keeps its traceback.
    """
    try:
        return _called(argv)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to say.
        _drop_output()
        return 141
    except OSError as error:
        # Whatever writes a file names it and says so itself; only standard output has no name.
        if error.filename is not None or not disk_full(error):
            raise
        _drop_output()
        reason = ResourceError("standard output", "the disk is full", "free some space")
        return _fail([], str(reason), reason.hint, reason.exit_code)


def _drop_output() -> None:
    # What is still in the buffer must not fail once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _called(argv: list[str]) -> int:
    try:
        code = build(argv)(argv, prog_name="ltcli", standalone_mode=False)
        # What Typer makes of Ctrl-C in a command.
        if code == 130:
            raise KeyboardInterrupt
    except LtcliError as error:
        return _fail(argv, str(error), error.hint, error.exit_code, error.found)
    except KeyboardInterrupt:
        return _fail(argv, "interrupted", None, 130)
    except OSError as error:
        # Looking at a path may fail too; whatever opens or writes a file says so itself.
        known = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
        if error.filename is None or error.errno not in known:
            raise
        refused = DataError(os.fsdecode(error.filename), f"cannot be read: {cause(error)}")
        return _fail(argv, str(refused), None, refused.exit_code)
    except SystemExit as left:
        # What Typer makes of a broken pipe.
        if isinstance(left.__context__, BrokenPipeError):
            raise left.__context__ from None
        raise
    except Exception as error:
        # Typer's own usage errors; their class lives in a private module.
        if not hasattr(error, "format_message"):
            raise
        return _usage_error(argv, error)
    return code if isinstance(code, int) else 0


def _usage_error(argv: list[str], error: Any) -> int:
    message = str(error.format_message())
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message, err=True)
        return 2
    command = getattr(getattr(error, "ctx", None), "command_path", "ltcli")
    message = f"{message[0].lower()}{message[1:]}"
    text, _, suggestion = message.rstrip(".").partition(". Did you mean ")
    text, _, options = text.partition(" (Possible options: ")
    if suggestion or options:
        hint = f"did you mean {suggestion.rstrip('?') or options.rstrip(')')}?"
    else:
        hint = f"see {command} --help"
    return _fail(argv, f"{command}: {text}", hint, 2)


def _fail(
    argv: list[str],
    message: str,
    hint: str | None,
    code: int,
    found: Mapping[str, Any] | None = None,
) -> int:
    # A file's name need not be text.
    message = message.replace("\n", " ").encode(errors="backslashreplace").decode()
    typer.echo(f"error: {message}", err=True)
    if hint is not None:
        typer.echo(f"hint: {hint}", err=True)
    if "--json" in argv:
        document = {**(found or {}), "error": {"code": code, "message": message, "hint": hint}}
        typer.echo(json.dumps(document, sort_keys=True))
    return code


def main() -> None:
    """Entry point of the console script."""
    # The name of a file need not be text; standard error escapes what is not by itself.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))
