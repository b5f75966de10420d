"""Words, names and numbers as users write and read them."""

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

from ltcli.core.errors import ParamError

# YAML 1.1 also has yes, no, on and off, which people mean as text.
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_NUMBER = re.compile(r"[-+]?((\.\d+|\d+(\.\d*)?)(e[-+]?\d+)?|\.inf|\.nan)", re.ASCII | re.I)
# More digits than an int64 holds are names, not numbers.
_WHOLE = re.compile(r"-?[0-9]{1,18}(\.0*)?")
# Besides control characters: lone surrogates, and line breaks that not every program knows.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def plural(count: int, noun: str) -> str:
    """Return ``1 class``, ``2 classes``: a count with its noun."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"


def printable(text: str) -> str:
    """Return a text in one line, with characters that a terminal obeys escaped as in JSON."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def nfc(name: str) -> str:
    """Return a name in Unicode's form NFC: macOS and Linux may write one name in two ways."""
    return unicodedata.normalize("NFC", name)


def is_whole(name: str) -> bool:
    """Return whether a name is a whole number of at most 18 digits, perhaps written as a float."""
    return _WHOLE.fullmatch(name) is not None


def plain_names(texts: Iterable[str]) -> dict[str, str]:
    """Return the class name that each text stands for; texts of one name are one class.

    Names are in Unicode's form NFC. Whole numbers written as floats, such as 1.0, are written as
    whole numbers if all texts are whole: pandas makes floats of a column that once had a gap.
    """
    names = {text: nfc(text) for text in set(texts)}
    if all(map(is_whole, names.values())):
        return {text: name.partition(".")[0] for text, name in names.items()}
    return names


def first_few(shown: Sequence[str]) -> str:
    """Return ``a, b and 3 more``: at most 5 entries of a list, and the number of the others."""
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return ", ".join(shown[:5]) + more


def lacking(names: Sequence[str], counts: Iterable[int], noun: str) -> str | None:
    """Return ``1 of 5 classes have no NOUN: 'gnu'``, of at most 5 named ones; None for none."""
    without = [f"'{printable(n)}'" for n, count in zip(names, counts, strict=True) if count == 0]
    return (
        f"{len(without)} of {len(names)} classes have no {noun}: {first_few(without)}"
        if without
        else None
    )


def clipped(text: str, width: int = 60) -> str:
    """Return a printable text, with single spaces, that is short enough for a message."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= width else f"{line[: width - 3]}..."


def plain_value(text: str, where: object) -> bool | int | float | str | None:
    """Return the value of an unquoted text: true, false, null, a decimal number, or the text.

    Raises:
        ParamError: It is a number that others read in another way, or that no tensor holds.
    """
    if not _NUMBER.fullmatch(text):
        return _WORDS.get(text, text)
    whole = text.lstrip("+-").isdigit()
    if whole and re.match(r"[-+]?0\d", text):
        # YAML 1.1 reads 010 as 8, YAML 1.2 as 10.
        rule = "integer must have no leading zero"
    elif whole and (len(text) > 20 or not -(2**63) <= int(text) < 2**63):
        # The length comes first, as int() refuses thousands of digits with a ValueError.
        rule = "integer must fit in 64 bits"
    elif not whole and (text[-1].isalpha() or not math.isfinite(float(text))):
        rule = "number must be finite"
    else:
        return int(text) if whole else float(text)
    raise ParamError(where, f"{rule}, got {clipped(text)}", "quote it for text")


def refuse_control(text: str, path: object, line: int = 1) -> None:
    """Raise ParamError for a character that a terminal obeys or an editor hides.

    Tabs and line breaks are allowed. The text starts on this line of the file, from 1.
    """
    if found := _CONTROL.search(text):
        where = f"{path}:{line + text.count(chr(10), 0, found.start())}"
        raise ParamError(where, f"must have no control character, got U+{ord(found[0]):04X}")
