"""Load any source of the table into a pool that has been checked."""

from pathlib import Path
from typing import Literal

from ltcli.core.errors import DataError, ParamError, nearest
from ltcli.data import pool as pools
from ltcli.data.cifar import load_cifar10, load_cifar100
from ltcli.data.digits import load_digits
from ltcli.data.fashion_mnist import load_fashion_mnist
from ltcli.data.folder import load_folder
from ltcli.data.pool import Pool
from ltcli.data.source_table import SOURCES, require_root

__all__ = ["SOURCES", "load_source"]


def load_source(
    name: str,
    root: Path | None,
    *,
    download: bool,
    image_size: int,
    on_bad_image: Literal["fail", "skip"],
) -> Pool:
    """Read a data set whole.

    Args:
        name: A name of the table.
        root: The folder that holds the data set; not used by a source that comes with the package.
        download: Whether a missing data set may be fetched into ``root``.
        image_size: Side of the images in pixels; used by ``folder`` only.
        on_bad_image: What to do with unreadable files; used by ``folder`` only.

    Returns:
        The images, labels and class names, checked.

    Raises:
        ParamError: The source is unknown, or it needs a root and got none.
        DataError: The data set is missing, damaged or unsuitable.
        ResourceError: The decoded images would not fit in memory, or the disk is full.
    """
    if name not in SOURCES:
        raise ParamError("split", f"there is no source '{name}'", nearest(name, tuple(SOURCES)))
    require_root(name, root)
    where: object = name if root is None else root
    try:
        pool = _load(name, root or Path(), download, image_size, on_bad_image)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(error.filename or where, f"cannot be read: {reason}") from error
    pools.check(pool, where if SOURCES[name].needs_root else name)
    return pool


def _load(
    name: str, root: Path, download: bool, image_size: int, on_bad_image: Literal["fail", "skip"]
) -> Pool:
    match name:
        case "cifar10":
            return load_cifar10(root, download)
        case "cifar100":
            return load_cifar100(root, download)
        case "fashion-mnist":
            return load_fashion_mnist(root, download)
        case "digits":
            return load_digits()
        case _:
            return load_folder(root, image_size, on_bad_image)
