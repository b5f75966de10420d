"""Declare parameters once: frozen dataclasses of ``param`` fields.

The command line, the YAML parameter file and the provenance in an artifact's header all derive from
such a dataclass, so that the same value written in any of the three gives the same bytes.
"""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ltcli.core.errors import ParamError, nearest

_RULES: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "greater than"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "less than"),
}


def param(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    identity: bool = True,
    positional: bool = False,
) -> Any:
    """Declare one field: its default, its help line, and its range.

    Args:
        default: The default; without one the parameter must be given.
        help: One line for ``--help``, with the unit.
        ge: Lowest allowed value.
        gt: Value that must be exceeded.
        le: Highest allowed value.
        lt: Value that must not be reached.
        identity: Whether the value belongs in the header of what is made with it. A path does not;
            a word of a ``Literal`` beside it does.
        positional: Whether it stands on the command line without an option name.
    """
    metadata = {"help": help, "identity": identity, "positional": positional}
    metadata |= {"ge": ge, "gt": gt, "le": le, "lt": lt}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is known of one declared parameter.

    Attributes:
        name: Field name, snake_case.
        base: One of int, float, str, bool, or tuple for a comma-separated list.
        item: Type of the members of a tuple.
        optional: Whether None is allowed.
        choices: Allowed values of a Literal, else empty.
        words: Values of a Literal that are allowed beside those of another type.
        default: The default, or ``dataclasses.MISSING``.
        help: The help line.
        positional: Whether it stands on the command line without an option name.
        bounds: ge, gt, le, lt where given.
    """

    name: str
    base: type
    item: type | None
    optional: bool
    choices: tuple[str, ...]
    words: tuple[str, ...]
    default: Any
    help: str
    positional: bool
    bounds: Mapping[str, float]

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is dataclasses.MISSING

    @property
    def flag(self) -> str:
        """The command-line option."""
        return "--" + self.name.replace("_", "-")

    @property
    def metavar(self) -> str:
        """What stands behind the option in ``--help``."""
        if self.choices:
            return "|".join(self.choices)
        names = {int: "INT", float: "NUMBER", str: "TEXT", tuple: "A,B,...", bool: ""}
        return "|".join((*self.words, names[self.base]))


def specs(params: type) -> tuple[Spec, ...]:
    """Return the declared parameters of a frozen dataclass, in order."""
    hints = typing.get_type_hints(params)
    return tuple(_spec(field, hints[field.name]) for field in dataclasses.fields(params))


def _spec(field: "dataclasses.Field[Any]", hint: Any) -> Spec:
    optional = False
    words: tuple[str, ...] = ()
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        if len(members) > 1:
            (literal,) = (member for member in members if typing.get_origin(member) is Literal)
            words = typing.get_args(literal)
            members.remove(literal)
        (hint,) = members
    choices: tuple[str, ...] = ()
    item: type | None = None
    if typing.get_origin(hint) is Literal:
        choices, hint = typing.get_args(hint), str
    elif typing.get_origin(hint) is tuple:
        item, hint = typing.get_args(hint)[0], tuple
    bounds = {k: field.metadata[k] for k in _RULES if field.metadata[k] is not None}
    return Spec(
        field.name,
        hint,
        item,
        optional,
        choices,
        words,
        field.default,
        field.metadata["help"],
        field.metadata["positional"],
        bounds,
    )


def build(params: type, values: Mapping[str, Any], where: str) -> Any:
    """Make a parameter record from values given on a command line or in a file.

    Args:
        params: The frozen dataclass.
        values: Name to value; strings are read as the declared type.
        where: What an error names as its place.

    Raises:
        ParamError: An unknown or missing name, a value of the wrong type or out of range.
    """
    known = {spec.name: spec for spec in specs(params)}
    for name in values:
        if name not in known:
            raise ParamError(where, f"no parameter '{name}'", nearest(name, list(known)))
    for spec in known.values():
        if spec.required and spec.name not in values:
            raise ParamError(where, f"{spec.name} must be given")
    return params(**{name: coerce(known[name], value, where) for name, value in values.items()})


def coerce(spec: Spec, value: Any, where: str) -> Any:
    """Return a value as the declared type, range-checked.

    Raises:
        ParamError: The value cannot be read as the type or is out of range.
    """
    if value is None or (spec.optional and value == "none"):
        if spec.optional:
            return None
        raise ParamError(where, f"{spec.name} must be {_article(spec)}, got nothing")
    if value in spec.words:
        return value
    if spec.base is tuple:
        parts = (value.split(",") if value else []) if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            parts = [parts]
        return tuple(_scalar(spec, spec.item or str, part, where) for part in parts)
    return _scalar(spec, spec.base, value, where)


def _article(spec: Spec) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return "a list" if spec.base is tuple else names[spec.base]


def _scalar(spec: Spec, base: type, value: Any, where: str) -> Any:
    if base is bool:
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return value == "true"
        raise ParamError(where, f"{spec.name} must be true or false, got {value}")
    if base is str:
        if isinstance(value, float):
            # 1.10 would arrive as 1.1.
            raise ParamError(where, f"{spec.name} must be text, got {value}", "quote it")
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise ParamError(where, f"{spec.name} must be text, got {value}")
        text = str(value)
        if spec.choices and text not in spec.choices:
            rule = f"{spec.name} must be one of {', '.join(spec.choices)}, got {text}"
            raise ParamError(where, rule, nearest(text, spec.choices))
        return text
    number = _number(spec, base, value, where)
    _check_bounds(spec, number, where)
    return number


def _number(spec: Spec, base: type, value: Any, where: str) -> Any:
    wanted = " or ".join((*spec.words, "a whole number" if base is int else "a number"))
    wrong = ParamError(where, f"{spec.name} must be {wanted}, got {value}")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong
    try:
        number = float(value)
        if base is int:
            if not math.isfinite(number) or number != int(number):
                raise wrong
            return _exact_int(value, number)
    except (ValueError, OverflowError):
        raise wrong from None
    if not math.isfinite(number):
        raise ParamError(where, f"{spec.name} must be finite, got {value}")
    return number


def _exact_int(value: int | float | str, number: float) -> int:
    """Return a whole number: from its digits, exact beyond 2^53, or from a text such as 1e3."""
    try:
        return int(number) if isinstance(value, float) else int(value)
    except ValueError:
        return int(number)


def _shown(number: float) -> str:
    """Return a number without a trailing .0, and without hiding what makes it break a rule."""
    short = f"{number:g}"
    return short if isinstance(number, float) and float(short) == number else str(number)


def _check_bounds(spec: Spec, number: float, where: str) -> None:
    for key, bound in spec.bounds.items():
        holds, words = _RULES[key]
        if not holds(number, bound):
            rule = f"{spec.name} must be {words} {_shown(bound)}, got {_shown(number)}"
            raise ParamError(where, rule)


def as_dict(record: Any) -> dict[str, Any]:
    """Return a parameter record as plain JSON values, without those that are not identity."""
    values = {}
    words = {spec.name: spec.words for spec in specs(type(record))}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if not field.metadata["identity"] and value not in words[field.name]:
            continue
        values[field.name] = list(value) if isinstance(value, tuple) else value
    return values
