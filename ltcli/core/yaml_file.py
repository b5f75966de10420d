"""Parameters of a YAML file, read strictly: a value arrives as written, or an error names the line.

YAML 1.1 turns ``no`` into False, ``010`` into 8, ``1:30`` into 90, leaves ``1e-3`` a text and lets
the last of two equal keys win. PyYAML therefore only parses; the values are made here.
"""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from ltcli.core.errors import ParamError
from ltcli.core.files import read_text
from ltcli.core.text import clipped, plain_value, refuse_control

_COLLECTIONS: dict[type, str] = {list: "a list", dict: "a mapping"}


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the parameters in a YAML file of at most 1 MB, or raise a ParamError."""
    return {name: value for name, (_, value) in read_lines(path).items()}


def read_lines(path: Path) -> dict[str, tuple[int, Any]]:
    """Return line, from 1, and value of each parameter in a YAML file; see ``read_mapping``."""
    import yaml

    text = read_text(path, ParamError, max_bytes=1_000_000)
    refuse_control(text, path)
    lines: dict[str, int] = {}
    loader = yaml.SafeLoader(text)
    events = iter(loader.get_event, None)
    try:
        roots = [(e, _value(path, e, events, lines)) for e in events if _is_node(e)]
    # The scanner converts escapes such as "\UFFFFFFFF" and directive numbers unchecked.
    except (yaml.YAMLError, ValueError, OverflowError, IndexError) as error:
        mark = getattr(error, "problem_mark", None) or loader.get_mark()
        # An unclosed bracket is noticed behind the end: name the last line that holds something.
        line = min(mark.line, text.rstrip().count("\n")) + 1
        problem = getattr(error, "problem", None) or "an escape or a number is out of range"
        hint = "indent with spaces, not tabs" if "'\\t'" in problem else None
        raise ParamError(f"{path}:{line}", f"must be YAML: {clipped(problem, 120)}", hint) from None
    filled = [(event, value) for event, value in roots if value is not None or event.value]
    if not filled:
        return {}
    event, value = filled[-1]
    if len(filled) > 1 or not isinstance(value, dict):
        got = _COLLECTIONS.get(type(value)) or clipped(event.value or "empty text")
        rule = f"must be one mapping of parameters, got {'another' if len(filled) > 1 else got}"
        raise ParamError(f"{path}:{event.start_mark.line + 1}", rule, "write name: value")
    return {name: (lines[name], found) for name, found in value.items()}


def _is_node(event: Any) -> bool:
    return hasattr(event, "anchor")


def _value(
    path: Path, event: Any, events: Iterator[Any], lines: dict[str, int], depth: int = 1
) -> Any:
    """Return the value that an event starts, and take the events within it.

    ``lines`` gets the line of each key of the outer mapping.
    """
    where = f"{path}:{event.start_mark.line + 1}"
    if event.anchor:
        kind, got = ("anchors", "&") if hasattr(event, "tag") else ("aliases", "*")
        rule = f"{kind} are not allowed, got {got}{clipped(event.anchor)}"
        raise ParamError(where, rule, "write the value itself")
    if event.tag:
        rule = f"tags are not allowed, got {clipped(event.tag.replace('tag:yaml.org,2002:', '!!'))}"
        raise ParamError(where, rule, "remove it")
    if hasattr(event, "value"):
        refuse_control(event.value, path, event.start_mark.line + 1)
        return plain_value(event.value, where) if event.implicit[0] else event.value
    if depth > 5:
        raise ParamError(where, "values must be nested at most 5 deep")
    inner = [(e, _value(path, e, events, {}, depth + 1)) for e in takewhile(_is_node, events)]
    if type(event).__name__ == "SequenceStartEvent":
        return [value for _, value in inner]
    values: dict[str, Any] = {}
    for (start, key), (_, value) in zip(inner[::2], inner[1::2], strict=True):
        where = f"{path}:{start.start_mark.line + 1}"
        # In quotes, << is a key like any other; without, YAML would merge mappings.
        merges = key == "<<" and start.implicit[0]
        if not isinstance(key, str) or not key.isprintable() or merges:
            got = _COLLECTIONS.get(type(key)) or clipped(start.value or "nothing")
            raise ParamError(where, f"key must be one line of text, got {got}")
        if key in values:
            rule = f"key '{clipped(key)}' must be given once, got it again"
            raise ParamError(where, rule, "remove one of the two")
        values[key], lines[key] = value, start.start_mark.line + 1
    return values
