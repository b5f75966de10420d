"""Words and names as users read them."""

import json


def plural(count: int, noun: str) -> str:
    """Return ``1 class``, ``2 classes``: a count with its noun."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"


def printable(text: str) -> str:
    """Return a text in one line that a terminal does not obey: the rest is escaped as in JSON."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def clipped(text: str, width: int = 60) -> str:
    """Return a printable text, with single spaces, that is short enough for a message."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= width else f"{line[: width - 3]}..."
