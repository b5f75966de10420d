"""Rules for the metadata of an artifact: the type and the range of each value, in words.

A digest only tells that a file is whole. Whoever forges a file gives it a right digest, so every
value that a stage reads has a rule here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

# No sound value comes near: larger ones would overflow a tensor, or work for ever.
MOST_COUNT, MOST_NUMBER = 2**40, 1e6


@dataclass(frozen=True)
class Rule:
    """Rule of one JSON value.

    Attributes:
        sound: Whether a value keeps the rule.
        words: The rule, behind "must be".
        axes: Axis letters, and the sizes that a sound value sets; see ``ltcli.artifacts.kinds``.
        required: Whether the value must be there.
    """

    sound: Callable[[Any], bool]
    words: str
    axes: Callable[[Any], Mapping[str, int]] = field(default=lambda _value: {})
    required: bool = True

    def fault(self, name: str, value: object) -> str | None:
        """Return the broken rule as a message; None where the value keeps it."""
        return None if self.sound(value) else f"{name} must be {self.words}, got {value!r:.80}"


@dataclass(frozen=True)
class Record:
    """Rules of a mapping with these keys and no others.

    Attributes:
        rules: Rule of each key.
        whole: Broken rule of several values together; None where there is none.
        required: Whether the mapping must be there.
    """

    rules: "Mapping[str, Rule | Record]"
    whole: Callable[[Mapping[str, Any]], str | None] = lambda _values: None
    required: bool = True

    def axes(self, value: Mapping[str, Any]) -> Mapping[str, int]:
        """Return the sizes of axes that a sound mapping sets."""
        sizes: dict[str, int] = {}
        for key in value:
            sizes |= self.rules[key].axes(value[key])
        return sizes

    def sound(self, value: object) -> bool:
        """Return whether a value keeps the rules."""
        return self.fault("", value) is None

    def fault(self, name: str, value: object) -> str | None:
        """Return the first broken rule as a message; see ``Rule.fault``."""
        needed = {key for key, rule in self.rules.items() if rule.required}
        if not isinstance(value, dict) or not needed <= set(value) <= set(self.rules):
            return f"{name} must be a mapping of {', '.join(self.rules)}"
        parts = (self.rules[key].fault(f"{key} of the {name}", value[key]) for key in value)
        return next(filter(None, parts), None) or self.whole(value)


_R = TypeVar("_R", Rule, Record)


def is_count(value: object, least: int = 0, most: int = MOST_COUNT) -> bool:
    """Return whether a value is a whole number in a range."""
    # Not isinstance: True is an int.
    return type(value) is int and least <= value <= most


def is_number(value: object, least: float = -MOST_NUMBER, most: float = MOST_NUMBER) -> bool:
    """Return whether a value is a number in a range."""
    # Bounds refuse NaN and infinity too, and JSON's whole numbers that no float holds.
    return isinstance(value, int | float) and type(value) is not bool and least <= value <= most


def optional(rule: _R) -> _R:
    """Return a rule for a key that may be missing."""
    return replace(rule, required=False)


def count(least: int = 0, most: int = MOST_COUNT) -> Rule:
    """Return the rule of a whole number."""
    words = f"a whole number in {least} ... {most}"
    if most == MOST_COUNT:
        words = "a count" if least == 0 else f"a whole number of at least {least}"
    return Rule(lambda value: is_count(value, least, most), words)


def number(least: float = -MOST_NUMBER, most: float = MOST_NUMBER) -> Rule:
    """Return the rule of a number."""
    return Rule(lambda value: is_number(value, least, most), f"a number in {least:g} ... {most:g}")


def one_of(*words: str) -> Rule:
    """Return the rule of a word among some."""
    # A list or a mapping is in no tuple of text, so every type may be asked for.
    return Rule(lambda value: value in words, " or ".join([", ".join(words[:-1]), words[-1]]))


def listed(each: Rule | Record, words: str, *, length: int | str = "", empty: bool = False) -> Rule:
    """Return the rule of a list, of a fixed length or of that of an axis; or of none if empty."""

    def sound(value: Any) -> bool:
        if not isinstance(value, list) or not all(map(each.sound, value)):
            return False
        if not value:
            return empty
        return not isinstance(length, int) or len(value) == length

    def axes(value: Any) -> Mapping[str, int]:
        return {length: len(value)} if isinstance(length, str) and length else {}

    return Rule(sound, words, axes)


def nullable(rule: Rule) -> Rule:
    """Return a rule that null keeps, too."""
    return replace(
        rule, sound=lambda value: value is None or rule.sound(value), words=f"{rule.words} or null"
    )


TEXT = Rule(lambda value: isinstance(value, str), "a text")
MAPPING = Rule(lambda value: isinstance(value, dict), "a mapping")
FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
