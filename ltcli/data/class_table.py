"""One number per class from a CSV file of the user: ``class,share`` or ``class,cost``."""

import math
from collections.abc import Sequence
from pathlib import Path

from ltcli.core.errors import ParamError, nearest
from ltcli.core.files import read_table
from ltcli.core.text import clipped, plain_names


def read_class_table(path: Path, column: str, class_names: Sequence[str]) -> list[float]:
    """Return one number above zero for each class, in the order of the classes.

    The CSV file has the header ``class,COLUMN`` and a line for every class, in any order. Names may
    be spelled as ``plain_names`` allows.

    Raises:
        ParamError: The file cannot be read, a class is unknown, missing or listed twice, or a
            number is not finite and greater than 0.
    """
    lines = read_table(path, ParamError)
    _, header = next(lines, (0, []))
    if header != ["class", column]:
        rule = f"must have the columns class,{column}, got {clipped(','.join(header)) or 'none'}"
        matrix = "a matrix of costs is no fixed change of logits; give one cost for each class"
        raise ParamError(path, rule, matrix if column == "cost" and len(header) > 2 else None)
    # Names, not line numbers, say the class: a table made for another split must not fit by chance.
    rows = list(lines)
    known = {plain: name for name, plain in plain_names(class_names).items()}
    known |= {name: name for name in class_names}
    for given, plain in plain_names(cells[0] for _, cells in rows).items():
        if plain in known:
            known.setdefault(given, known[plain])
    values: dict[str, float] = {}
    for number, cells in rows:
        where = f"{path}:{number}"
        if len(cells) != 2:
            raise ParamError(where, f"must have 2 columns, got {len(cells)}")
        given, text = cells
        if given not in known:
            hint = nearest(given, list(class_names))
            raise ParamError(where, f"no class '{clipped(given)}'", hint)
        name = known[given]
        if name in values:
            raise ParamError(where, f"class '{clipped(name)}' must be there once, got it again")
        values[name] = _positive(where, column, text)
    for name in class_names:
        if name not in values:
            raise ParamError(path, f"must have every class, got none of '{clipped(name)}'")
    return [values[name] for name in class_names]


def read_shares(path: Path, class_names: Sequence[str]) -> list[float]:
    """Return the share of each class from a table ``class,share``; they sum to 1.

    Raises:
        ParamError: As for ``read_class_table``, or the sum is off by more than 0.001.
    """
    shares = read_class_table(path, "share", class_names)
    total = math.fsum(shares)
    # People round to three digits; a count or a percentage is off by far more.
    if abs(total - 1) > 1e-3:
        hint = "each is a part of 1, not a count or a percentage"
        raise ParamError(path, f"shares must sum to 1, got {total:.6g}", hint)
    return [share / total for share in shares]


def _positive(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ParamError(where, f"{column} must be a number, got {clipped(text)}") from None
    if not (math.isfinite(value) and value > 0):
        hint = "a class that never comes gets a small share" if value == 0 else None
        rule = f"{column} must be finite and greater than 0, got {text.strip()}"
        raise ParamError(where, rule, hint if column == "share" else None)
    return value
