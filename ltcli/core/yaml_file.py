"""Read a YAML parameter file strictly: what is written is what arrives, or an error names the line.

YAML 1.1 turns ``no`` into False, ``010`` into 8, ``1:30`` into 90, leaves ``1e-3`` a text and lets
the last of two equal keys win. A parameter file read that way trains something else than it says.
Values are therefore made from the parser's events, by the rules of this module alone; no YAML
constructor, resolver or composer takes part, so no tag can build an object and no nesting can
exhaust the stack.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltcli.core.errors import ParamError, cause
from ltcli.core.text import clipped

MAX_BYTES = 1_000_000
MAX_DEPTH = 5

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
# Control characters, and the ones that some programs count as a line break and others do not.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_UNSAFE = re.compile(_CONTROL.pattern[:-1] + "\r\ud800-\udfff]")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the parameters in a YAML file; an empty file has none.

    Plain ``true`` and ``false`` are the only booleans; ``null``, ``~`` and nothing are None;
    decimal integers and floats (``1e-3``, ``.5``) are numbers; everything else, and all that is
    quoted, is text. Values are lists and mappings of these, at most five deep.

    Args:
        path: A UTF-8 file of at most 1 MB that holds one YAML mapping.

    Raises:
        ParamError: The file cannot be read, is not such a mapping, or uses what this module
            refuses: duplicate keys, keys that are not text, merge keys, tags, anchors, aliases,
            directives, several documents, integers with a leading zero, numbers that are not
            finite, control characters.
    """
    text = _decode(path, _read(path))
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        return _Reader(path, iter(loader.get_event, None)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # An unclosed bracket is noticed behind the end: name the last line that holds something.
        last = len(_LINE_BREAK.findall(text.rstrip()))
        line = min(mark.line if mark else loader.line, last) + 1
        message = f"must be YAML: {clipped(error.problem or error.context or '', 120)}"
        hint = "indent with spaces, not tabs" if "'\\t'" in message else None
        raise _wrong(path, line, message, hint) from None
    except (yaml.YAMLError, ValueError, OverflowError, IndexError):
        # The scanner converts escapes such as "\UFFFFFFFF" and directive numbers unchecked.
        message = "must be YAML: an escape or a number is out of range"
        raise _wrong(path, loader.line + 1, message) from None


def _wrong(path: Path, line: int, message: str, hint: str | None = None) -> ParamError:
    return ParamError(f"{path}:{line}", message, hint)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ParamError(path, "no such parameter file") from None
    except IsADirectoryError:
        raise ParamError(path, "parameter file must be a file, got a directory") from None
    except (OSError, ValueError) as error:
        raise ParamError(path, f"parameter file must be readable: {cause(error)}") from None
    if len(data) > MAX_BYTES:
        raise ParamError(path, "parameter file must be at most 1 MB")
    return data


def _decode(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"must be UTF-8 text, got byte 0x{data[error.start]:02x}"
        raise _wrong(path, line, message, "save the file as UTF-8") from None
    found = _CONTROL.search(text)
    if found:
        line = len(_LINE_BREAK.findall(text, 0, found.start())) + 1
        raise _wrong(path, line, f"must have no control character, got {_code(found)}")
    return text


def _code(found: re.Match[str]) -> str:
    return f"U+{ord(found[0]):04X}"


class _Reader:
    """Makes plain values from the events of a YAML parser.

    Attributes:
        line: Line of the latest event, from 1.
    """

    def __init__(self, path: Path, events: Iterator[Any]) -> None:
        self.path = path
        self.events = events
        self.line = 1

    def document(self) -> dict[str, Any]:
        """Return the only document of the stream."""
        import yaml

        self.next()
        start = self.next()
        if isinstance(start, yaml.StreamEndEvent):
            return {}
        if start.version or start.tags:
            raise self.wrong("directives are not allowed", "remove the line that starts with %")
        event = self.next()
        value = self.value(event, depth=1)
        if isinstance(event, yaml.ScalarEvent) and event.value == "" and event.implicit[0]:
            value = {}
        if not isinstance(value, dict):
            self.line = event.start_mark.line + 1
            got = "a list" if isinstance(value, list) else clipped(event.value or "empty text")
            raise self.wrong(f"must be a mapping of parameters, got {got}", "write name: value")
        self.next()
        if not isinstance(self.next(), yaml.StreamEndEvent):
            raise self.wrong("must hold one document, got a second", "remove the line with ---")
        return value

    def next(self) -> Any:
        event = next(self.events)
        self.line = event.start_mark.line + 1
        return event

    def wrong(self, message: str, hint: str | None = None) -> ParamError:
        return _wrong(self.path, self.line, message, hint)

    def value(self, event: Any, depth: int) -> Any:
        import yaml

        if isinstance(event, yaml.AliasEvent):
            alias = clipped(event.anchor or "")
            raise self.wrong(f"aliases are not allowed, got *{alias}", "repeat the value")
        if event.anchor is not None:
            raise self.wrong(f"anchors are not allowed, got &{clipped(event.anchor)}", "remove it")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise self.wrong(f"tags are not allowed, got {clipped(tag)}", "remove it")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if depth > MAX_DEPTH:
            raise self.wrong(f"values must be nested at most {MAX_DEPTH} deep")
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(depth)
        values = []
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            values.append(self.value(event, depth + 1))
        return values

    def mapping(self, depth: int) -> dict[str, Any]:
        import yaml

        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            key = self.key(event)
            if key in lines:
                message = f"key '{clipped(key)}' must be given once, first on line {lines[key]}"
                raise self.wrong(message, "remove one of the two")
            lines[key] = self.line
            values[key] = self.value(self.next(), depth + 1)
        return values

    def key(self, event: Any) -> str:
        import yaml

        if isinstance(event, yaml.CollectionStartEvent):
            got = "a mapping" if isinstance(event, yaml.MappingStartEvent) else "a list"
            raise self.wrong(f"key must be text, got {got}")
        key = self.value(event, depth=1)
        if not isinstance(key, str):
            got = event.value or "nothing"
            raise self.wrong(f"key must be text, got {clipped(got)}")
        if key == "<<" and event.implicit[0]:
            raise self.wrong("merge keys are not allowed, got <<", "repeat the values")
        if not key.isprintable():
            raise self.wrong(f"key must be one line of printable text, got {clipped(key)}")
        return key

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if found := _UNSAFE.search(text):
            raise self.wrong(f"text must have no control character, got {_code(found)}")
        if not event.implicit[0]:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _LEADING_ZERO.fullmatch(text):
            plain = text.lstrip("+-0") or "0"
            sign = "-" if text[0] == "-" else ""
            hint = f"write {clipped(sign + plain)}, or quote it for text"
            raise self.wrong(f"integer must have no leading zero, got {clipped(text)}", hint)
        if _INTEGER.fullmatch(text):
            # The length comes first: int() refuses thousands of digits with a ValueError.
            if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
                raise self.wrong(f"integer must fit in 64 bits, got {clipped(text)}")
            return int(text)
        if _NOT_FINITE.fullmatch(text):
            raise self.wrong(f"number must be finite, got {text}", "quote it for text")
        if _FLOAT.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                raise self.wrong(f"number must be finite, got {clipped(text)}")
            return number
        return text
