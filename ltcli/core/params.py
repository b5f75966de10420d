"""Parameters, declared once as frozen dataclasses of ``param`` fields.

The command line, the YAML parameter file and the provenance in an artifact's header all derive from
such a dataclass, so that one value gives the same bytes whichever of the three it came from.
"""

import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from ltcli.core.errors import ParamError, nearest

_T = TypeVar("_T")
_Scalar = bool | int | float | str | Path
Value = _Scalar | tuple[_Scalar, ...] | None

_RULES: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "greater than"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "less than"),
}
_METAVARS = {int: "N", float: "X", str: "TEXT", tuple: "A,B", bool: "", Path: "PATH"}
_WANTED = {
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list",
    bool: "true or false",
    Path: "a path",
}


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """A method without options of its own."""


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
    group: str = "",
    short: str = "",
) -> Any:
    """Declare one field: its default, its help line with the unit, and its range.

    Args:
        default: Value where none is given; without it the parameter must be given.
        help: One line for ``--help``.
        ge: Lowest allowed value.
        gt: Value that must be exceeded.
        le: Highest allowed value.
        lt: Value that must not be reached.
        identity: Whether the value is stored in the header. Paths are not; keywords of a
            ``Literal`` beside a path, such as ``uniform``, always are.
        positional: Whether it stands on the command line without an option name.
        group: Heading in ``--help``.
        short: Letter of a short option, ``d`` for ``-d``.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata = {
        "help": help,
        "identity": identity,
        "positional": positional,
        "group": group,
        "short": short,
        "bounds": {rule: bound for rule, bound in bounds.items() if bound is not None},
    }
    return dataclasses.field(default=default, metadata=metadata)


def nested() -> Any:
    """Declare the field that holds the options of a stage's method, a frozen dataclass itself."""
    return dataclasses.field(default=NoOptions(), metadata={"nested": True})


@dataclasses.dataclass(frozen=True)
class Spec:
    """One declared parameter: its type, and the arguments of ``param``.

    Attributes:
        name: Field name, snake_case.
        base: One of int, float, str, bool, Path, or tuple for a list.
        item: Type of the members of a tuple.
        optional: Whether None is allowed.
        choices: Allowed values of a Literal, else empty.
        words: Keywords of a Literal that are allowed beside values of another type.
        default: The default, or ``dataclasses.MISSING``.
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
    identity: bool
    positional: bool
    group: str
    short: str
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
        """The placeholder behind the option in ``--help``."""
        if self.choices:
            return "NAME"
        kind = Path if self.item is Path else self.base
        return "|".join((*self.words, _METAVARS[kind]))


def _specs(params: type) -> tuple[Spec, ...]:
    hints = typing.get_type_hints(params)
    found = []
    for field in dataclasses.fields(params):
        if "nested" not in field.metadata:
            found.append(_spec(field, hints[field.name]))
    return tuple(found)


# Reading annotations is slow, and all records of one class have the same declarations.
specs: Callable[[type], tuple[Spec, ...]] = functools.cache(_specs)
"""Return the declared parameters of a frozen dataclass, in order, without nested ones."""


def _spec(field: "dataclasses.Field[Any]", hint: Any) -> Spec:
    optional = False
    words: tuple[str, ...] = ()
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = list(typing.get_args(hint))
        optional = type(None) in members
        if optional:
            members.remove(type(None))
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
    return Spec(field.name, hint, item, optional, choices, words, field.default, **field.metadata)


def build(
    params: type[_T],
    values: Mapping[str, object],
    where: str,
    *,
    options: type = NoOptions,
    defaults: Mapping[str, Value] | None = None,
) -> _T:
    """Return a parameter record of values from a command line or a file.

    Args:
        params: Frozen dataclass of the record.
        values: Name to value; strings are read as the declared type. Names of ``options`` stand
            beside those of ``params``, as they do on the command line.
        where: Command or file that errors name.
        options: Frozen dataclass of the field that ``params`` declares as ``nested``.
        defaults: A method's own defaults for fields of both, instead of the declared ones.

    Raises:
        ParamError: An unknown or missing name, a value of the wrong type or out of range.
    """
    # Later entries win: given values before a method's defaults before the declared ones.
    chosen = {**(defaults or {}), **checked(params, values, where, options)}
    for spec in (*specs(params), *specs(options)):
        if spec.required and spec.name not in chosen:
            raise ParamError(where, f"{spec.name} must be given")
    own = {spec.name: chosen.pop(spec.name) for spec in specs(options) if spec.name in chosen}
    arguments: dict[str, object] = {**chosen}
    for field in dataclasses.fields(params):  # type: ignore[arg-type]
        if "nested" in field.metadata:
            arguments[field.name] = options(**own)
    make: Callable[..., _T] = params  # mypy does not know the fields of a type variable.
    return make(**arguments)


def checked(
    params: type, values: Mapping[str, object], where: str, options: type = NoOptions
) -> dict[str, Value]:
    """Return values by name as the declared types, range-checked; see ``build``."""
    known = {spec.name: spec for spec in (*specs(params), *specs(options))}
    found: dict[str, Value] = {}
    for name, value in values.items():
        if name not in known:
            raise ParamError(where, f"no parameter '{name}'", nearest(name, list(known)))
        found[name] = coerce(known[name], value, where)
    return found


def as_dict(record: object) -> dict[str, Any]:
    """Return the identity of a record as flat JSON values, nested options beside the others."""
    values: dict[str, Any] = {}
    for spec in specs(type(record)):
        value = getattr(record, spec.name)
        if spec.identity or value in spec.words:
            values[spec.name] = list(value) if isinstance(value, tuple) else value
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        if "nested" in field.metadata:
            values |= as_dict(getattr(record, field.name))
    return values


def coerce(spec: Spec, value: object, where: str) -> Value:
    """Return a value as the declared type, or raise ParamError for another type or range."""
    # Command lines have no null: the word none stands for it.
    if value is None or (spec.optional and value == "none"):
        if spec.optional:
            return None
        raise ParamError(where, f"{spec.name} must be {_WANTED[spec.base]}, got nothing")
    if isinstance(value, str) and value in spec.words:
        return value
    if spec.base is not tuple:
        return _scalar(spec, spec.base, value, where)
    # An empty text is an empty list, not a list of one empty text.
    parts = (value.split(",") if value else []) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]  # A list of one needs no brackets in YAML.
    return tuple(_scalar(spec, spec.item or str, part, where) for part in parts)


def _scalar(spec: Spec, base: type, value: object, where: str) -> _Scalar:
    if base in (int, float):
        return _number(spec, base, value, where)
    if base is bool:
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return value == "true"
    elif isinstance(value, Path) and base is Path:
        return value
    # A folder called 2024 is a number in YAML.
    elif isinstance(value, str | int) and not isinstance(value, bool):
        text = str(value)
        if spec.choices and text not in spec.choices:
            rule = f"{spec.name} must be one of {', '.join(spec.choices)}, got {text}"
            raise ParamError(where, rule, nearest(text, spec.choices))
        return Path(text) if base is Path else text
    # YAML reads 1.10 as 1.1, so its text is lost.
    hint = "quote it" if isinstance(value, float) and base is not bool else None
    raise ParamError(where, f"{spec.name} must be {_WANTED[base]}, got {value}", hint)


def _number(spec: Spec, base: type, value: object, where: str) -> int | float:
    number: int | float | None = None
    # Python reads 1_0 and digits of other scripts, which no other program does.
    plain = not isinstance(value, str) or (value.isascii() and "_" not in value)
    # True is an int in Python.
    if plain and isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            found = float(value)
            if base is float:
                number = found
            elif found == int(found):
                number = int(found)
                # Digits are exact beyond 2^53; int() does not read 1e3 or 5.0 from a text.
                with suppress(ValueError):
                    number = int(value)
    if number is None:
        wanted = " or ".join((*spec.words, _WANTED[base]))
        raise ParamError(where, f"{spec.name} must be {wanted}, got {value}")
    # NaN passes every comparison that asks for the opposite, so it is refused first.
    if not math.isfinite(number):
        raise ParamError(where, f"{spec.name} must be finite, got {value}")
    for rule, bound in spec.bounds.items():
        holds, words = _RULES[rule]
        if not holds(number, bound):
            got = f"{_shown(bound)}, got {_shown(number)}"
            raise ParamError(where, f"{spec.name} must be {words} {got}")
    return number


def _shown(number: float) -> str:
    """Return a number without a trailing .0, with all the digits that make it break a rule."""
    short = f"{number:g}"
    return short if isinstance(number, float) and float(short) == number else str(number)
