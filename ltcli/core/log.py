"""Logging to stderr, set up once by the command line; library code only calls ``getLogger``."""

import logging
import sys


def setup(verbosity: int, *, first: bool = True) -> None:
    """Send the package's log to stderr.

    Args:
        verbosity: -1 warnings only, 0 one line per stage and epoch, 1 everything.
        first: Whether this is the first of several processes; the others log only warnings.
    """
    level = logging.INFO if first else logging.WARNING
    if verbosity != 0:
        level = logging.WARNING if verbosity < 0 else logging.DEBUG
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("ltcli")
    # In place of old handlers: one process may run several commands, and each line comes once.
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
