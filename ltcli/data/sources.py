"""Any source of the table, loaded into a pool and checked."""

import logging
from importlib import import_module

from ltcli.core.errors import DataError, cause
from ltcli.data import pool as pools
from ltcli.data.image_files import load_files, look_at_bits
from ltcli.data.listed import Listed
from ltcli.data.pool import Pool
from ltcli.data.source_table import PARTS, SOURCES, Request

logger = logging.getLogger(__name__)


def load_source(request: Request) -> Pool:
    """Return the samples, labels and class names of a data set.

    Raises:
        DataError: The data set is missing, damaged or unsuitable.
        ResourceError: The decoded images would not fit in memory, or the disk is full.
    """
    source, root = SOURCES[request.source], request.root
    where: object = root if source.needs_root else source.name
    # Imported by name, so that a new source needs no line here.
    reader = import_module(f"ltcli.data.{source.module}")
    try:
        if source.needs_root and not source.suffixes and root.exists() and not root.is_dir():
            raise DataError(root, f"root of {source.name} must be a folder, got a file")
        if source.of_files and not root.exists():
            raise DataError(root, "no such folder", "name the folder of images with --root")
        pool: Pool | Listed = reader.read(request)
        _check_counts(request, pool)
        if isinstance(pool, Listed):
            pool = load_files(request, pool)
            if pool.store == "files":
                look_at_bits(root, pool.train.files)
    except OSError as error:
        raise DataError(error.filename or where, f"cannot be read: {cause(error)}") from error
    # Here for all sources, so that no reader has to check by itself.
    return pools.checked(pool, where)


def _check_counts(request: Request, found: Pool | Listed) -> None:
    """Refuse a part of a published data set of image files, and warn of one of small images."""
    counts = SOURCES[request.source].counts
    if counts is None or request.partial:
        return
    parts = found.parts if isinstance(found, Listed) else {p: getattr(found, p) for p in PARTS}
    sizes = {name: len(part.labels) for name, part in parts.items() if part is not None}
    difference = counts.difference(len(found.class_names), sizes)
    if difference is None:
        return
    if isinstance(found, Listed):
        hint = "take the published files, or a part with --partial"
        raise DataError(request.root, difference, hint)
    # Cut copies of CIFAR are common in tests and courses, so they are not refused.
    logger.warning("%s: is not the published %s: %s", request.root, request.source, difference)
