"""Logging to stderr, set up once by the command line; library code only calls ``getLogger``."""

import logging
import sys


def setup(verbosity: int) -> None:
    """Send the package's log to stderr.

    Args:
        verbosity: -1 warnings only, 0 one line per stage and epoch, 1 everything.
    """
    level = logging.INFO
    if verbosity != 0:
        level = logging.WARNING if verbosity < 0 else logging.DEBUG
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("ltcli")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def plural(count: int, noun: str) -> str:
    """Return ``1 class``, ``2 classes``: a count with its noun."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"
