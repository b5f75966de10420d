"""Turn what goes wrong while torchvision downloads a data set into our errors."""

import contextlib
import errno
import http.client
import sys
from collections.abc import Iterator
from pathlib import Path

from ltcli.core.errors import DataError, ResourceError


@contextlib.contextmanager
def downloading(root: Path) -> Iterator[None]:
    """Guard a download into ``root``; whatever it prints goes to stderr, stdout is for results.

    Raises:
        DataError: The server cannot be reached, breaks off, or sends something else.
        ResourceError: The disk is full.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        # torchvision's messages have several lines, one per mirror.
        reason = " ".join(str(error).split()).removesuffix(".")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(root, f"download failed: {reason}", "free some space") from error
        raise DataError(
            root,
            f"download failed: {reason}",
            "check the network and try again, or put the files there by other means",
        ) from error
