"""Turn what goes wrong while torchvision downloads a data set into our errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from ltcli.core.errors import DataError, ResourceError, disk_full


@contextmanager
def downloading(root: Path) -> Iterator[None]:
    """Guard a download into a folder.

    Raises:
        DataError: The server cannot be reached, breaks off, or sends something else.
        ResourceError: The disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, HTTPException) as error:
        # torchvision's messages have several lines, one per mirror.
        rule = f"download failed: {' '.join(str(error).split()).removesuffix('.')}"
        if disk_full(error):
            raise ResourceError(root, rule, "free some space") from error
        hint = "check the network and try again, or put the files there by other means"
        raise DataError(root, rule, hint) from error
