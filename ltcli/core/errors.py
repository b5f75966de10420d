"""The errors a user can cause, and the exit code of each.

    LtcliError
    ├── ParamError      2  a parameter or a parameter file
    ├── ArtifactError   3  an artifact that is missing, damaged or does not fit
    ├── NumericalError  4  a loss or a statistic that is not finite
    ├── DataError       5  a data set that is missing or damaged
    ├── ResourceError   6  disk, memory, device or lock
    └── StopError       130 or 143  Ctrl-C or SIGTERM, after the state was saved

Anything else that escapes is a bug: it keeps its traceback and exits with 1.
"""

import errno
from collections.abc import Mapping
from typing import Any


class LtcliError(Exception):
    """An expected failure: one line that names the fault, and one that names the remedy.

    Args:
        where: File, command or stage at fault.
        message: Broken rule and the value that breaks it, lower case, no full stop.
        hint: Remedy, if there is one.

    Attributes:
        found: Results of a command before it failed, for its JSON document: key to plain value.
    """

    exit_code = 1

    def __init__(self, where: object, message: str, hint: str | None = None) -> None:
        """Keep the parts; the text is ``where: message``."""
        self.where, self.message, self.hint = str(where), message, hint
        self.found: Mapping[str, Any] = {}
        super().__init__(f"{self.where}: {message}")


class ParamError(LtcliError):
    """A parameter, a combination of parameters, or a parameter file is wrong."""

    exit_code = 2


class ArtifactError(LtcliError):
    """An artifact is missing, damaged, of the wrong kind, or does not fit the others."""

    exit_code = 3


class NumericalError(LtcliError):
    """A loss or a statistic is not finite."""

    exit_code = 4


class DataError(LtcliError):
    """A data set is missing, damaged or unsuitable."""

    exit_code = 5


class ResourceError(LtcliError):
    """Disk, memory, device or lock is missing or exhausted."""

    exit_code = 6


class StopError(LtcliError):
    """A signal asked to stop; the state was saved."""

    def __init__(self, where: object, signal_number: int, hint: str | None = None) -> None:
        """Take the exit code of the signal, as shells do: 128 plus its number."""
        super().__init__(where, "interrupted", hint)
        self.exit_code = 128 + signal_number


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str | None:
    """Return ``did you mean 'x'?`` where a known word is close, else ``known: a, b, c``.

    No hint is given for no words, and for more than a few lines hold.
    """
    # difflib takes a while to import, and only errors need it.
    import difflib

    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(sorted(known)) if 0 < len(known) <= 100 else None


def cause(error: Exception) -> str:
    """Return the system's words for a failure, in lower case, to end a message with."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def disk_full(error: Exception) -> bool:
    """Return whether a full disk, a quota or the limit of a file's size stopped a write."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
