"""Logging to stderr, set up once by the command line; library code only calls ``getLogger``."""

import logging
import sys

from ltcli.core.context import processes


def setup(verbosity: int) -> None:
    """Send the package's log to stderr.

    Args:
        verbosity: -1 warnings only, 0 one line per stage and epoch, 1 everything.
    """
    # Of several processes one speaks for all; warnings and errors may be of one alone.
    level = logging.INFO if processes()[0] == 0 else logging.WARNING
    if verbosity != 0:
        level = logging.WARNING if verbosity < 0 else logging.DEBUG
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("ltcli")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
