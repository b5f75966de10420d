"""The text of ``--help``: one line for an option wherever it fits into 80 columns."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from ltcli.cli.commands import INPUTS, Command, Usage
from ltcli.core.params import Spec, Value
from ltcli.stages.stage import Stage

_WIDTH = 80
# Groups that many commands share come last. Inputs and Common are much the same for all stages:
# they are paragraphs, so that the options of the command itself stay on one screen.
_LAST = ("Class sizes", "Running", *INPUTS, "Common")
_PARAGRAPHS = _LAST[2:]


def of_program(
    summary: str, groups: Mapping[str, Iterable[Stage[Any] | Command[Any]]], notes: Iterable[str]
) -> str:
    """Help of the program: its commands by group, names and summaries."""
    lines = ["Usage: ltcli COMMAND [OPTIONS]", "", summary]
    for heading, commands in groups.items():
        lines += ["", f"{heading}:"]
        for one in commands:
            lines += _wrapped(f"  {one.name:<17}  {one.summary}", indent=21)
    for note in notes:
        lines += ["", *_wrapped(note)]
    return "\n".join(lines) + "\n"


def of_command(usage: Usage) -> str:
    """Help of one command."""
    arguments = [spec for spec in usage.specs if spec.positional]
    groups: dict[str, list[Spec]] = {"Arguments": arguments} if arguments else {}
    if usage.own:
        groups[f"Options of {usage.method}"] = list(usage.own)
    for spec in usage.specs:
        if not spec.positional:
            groups.setdefault(spec.group or "Options", []).append(spec)
    words = ["Usage: ltcli", usage.called.name, "[OPTIONS]"]
    for spec in arguments:
        word = spec.name.upper() + ("..." if spec.base is tuple else "")
        words.append(word if spec.required else f"[{word}]")
    lines = [" ".join(words)]
    for text in filter(None, (usage.called.summary, usage.details)):
        lines += ["", *_wrapped(text)]
    lines.append("")
    # Sorting is stable: other groups keep the order of their declaration.
    for heading in sorted(groups, key=lambda name: _LAST.index(name) if name in _LAST else -1):
        if heading in _PARAGRAPHS:
            parts = [f"{_flags(spec)} ({_right(spec, usage.defaults)})" for spec in groups[heading]]
            lines += _wrapped(f"{heading}: {', '.join(parts)}", indent=2)
        else:
            lines.append(f"{heading}:")
            for spec in groups[heading]:
                lines += rows(spec, usage.defaults)
    lines += ["", "Examples:"]
    for example in usage.called.examples:
        # A line that goes on ends as the shell wants it.
        lines += " \\\n".join(_wrapped(f"  {example}", width=_WIDTH - 2)).splitlines()
    return "\n".join(lines) + "\n"


def rows(spec: Spec, defaults: Mapping[str, Value]) -> list[str]:
    """Lines of one option: its name, its help, its default in brackets."""
    left = spec.name.upper() if spec.positional else f"{_flags(spec)} {spec.metavar}".rstrip()
    return _wrapped(f"  {left:<16}  {_right(spec, defaults)}")


def _flags(spec: Spec) -> str:
    flag = spec.flag
    if spec.base is bool and spec.default is not False:
        flag = f"--[no-]{flag[2:]}"
    return f"-{spec.short}, {flag}" if spec.short else flag


def _right(spec: Spec, defaults: Mapping[str, Value]) -> str:
    text, default = spec.help, defaults.get(spec.name, spec.default)
    if spec.choices:
        text = f"{text}: {', '.join(spec.choices)}"
    if spec.required and spec.name not in defaults:
        return text if spec.positional else f"{text} [required]"
    # A switch that is off, an empty list or nothing is no news. Not "in": 0 equals False.
    is_news = default is not None and default is not False and default not in ((), "")
    return f"{text} [{plain(default)}]" if is_news else text


def plain(value: object) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(plain, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _wrapped(text: str, *, indent: int | None = None, width: int = _WIDTH) -> list[str]:
    """Lines of a text; all but the first are indented further if the first is."""
    if indent is None:
        indent = 6 if text.startswith(" ") else 0
    # An option broken at a hyphen could not be copied.
    return textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )
