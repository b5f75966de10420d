"""Load any source of the table into a pool that has been checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ltcli.core.errors import DataError, ParamError, cause, nearest
from ltcli.data import pool as pools
from ltcli.data.annotations import load_annotations
from ltcli.data.cifar import load_cifar10, load_cifar100
from ltcli.data.digits import load_digits
from ltcli.data.embeddings import load_embeddings
from ltcli.data.fashion_mnist import load_fashion_mnist
from ltcli.data.folder import list_folder
from ltcli.data.image_files import OnBadImage, load_files
from ltcli.data.list_files import load_lists, load_table
from ltcli.data.listed import Listed, check_counts
from ltcli.data.parquet import load_parquet
from ltcli.data.pool import Pool
from ltcli.data.source_table import PARTS, SOURCES, files_of, require_root

__all__ = ["SOURCES", "load_source"]


def load_source(
    name: str,
    root: Path | None,
    *,
    named: Mapping[str, str],
    download: bool,
    store: Literal["auto", "images", "files"],
    image_size: int,
    on_bad_image: OnBadImage,
    partial: bool,
    verify: bool = False,
) -> Pool:
    """Read a data set whole.

    Args:
        name: A name of the table.
        root: The folder that holds the data set; not used by a source that comes with the package.
        named: Files that describe the data set, by parameter.
        download: Whether a missing data set may be fetched into ``root``.
        store: Whether image files are decoded; used by sources of image files.
        image_size: Side of the images in pixels; used where images are decoded to one size.
        on_bad_image: What to do with unreadable images; used by the user's own data sets.
        partial: Whether a published data set may be a part of the published one.
        verify: Whether image files that are not decoded now are to be looked at all the same.

    Returns:
        The samples, labels and class names, checked.

    Raises:
        ParamError: The source is unknown, or it needs a root and got none.
        DataError: The data set is missing, damaged or unsuitable.
        ResourceError: The decoded images would not fit in memory, or the disk is full.
    """
    if name not in SOURCES:
        raise ParamError("split", f"there is no source '{name}'", nearest(name, tuple(SOURCES)))
    require_root(name, root)
    where: object = name if root is None else root
    folder = root or Path()
    try:
        if SOURCES[name].of_files:
            listed = _list(name, folder, named, on_bad_image, partial)
            if store == "auto" and SOURCES[name].counts is not None:
                store = "files"
            pool = load_files(
                folder,
                listed,
                store=store,
                image_size=image_size,
                on_bad_image=on_bad_image,
                verify=verify,
            )
        else:
            pool = _load(name, folder, named, download, image_size, on_bad_image)
    except OSError as error:
        raise DataError(error.filename or where, f"cannot be read: {cause(error)}") from error
    pools.check(pool, where if SOURCES[name].needs_root else name)
    return pool


def _list(
    name: str, root: Path, named: Mapping[str, str], on_bad_image: OnBadImage, partial: bool
) -> Listed:
    if name == "folder":
        return list_folder(root, on_bad_image)
    if not root.is_dir():
        raise DataError(root, "no such folder", "name the folder of the paths with --root")
    files = _existing(name, root, named)
    if "table" in files:
        listed = load_table(files["table"])
    elif "train_json" in files:
        listed = load_annotations(files["train_json"], files.get("val_json"))
    else:
        lists = {part: files[f"{part}_list"] for part in PARTS if f"{part}_list" in files}
        listed = load_lists(lists, files.get("class_names"))
    counts = SOURCES[name].counts
    if counts is not None and not partial:
        check_counts(listed, counts, root)
    return listed


def _existing(name: str, root: Path, named: Mapping[str, str]) -> dict[str, Path]:
    """Return the files that describe a data set, all of which are there."""
    files = files_of(name, root, named)
    for option, path in files.items():
        if not path.is_file():
            hint = f"name the file with --{option.replace('_', '-')}"
            raise DataError(path, "no such file", hint)
    return files


def _load(
    name: str,
    root: Path,
    named: Mapping[str, str],
    download: bool,
    image_size: int,
    on_bad_image: OnBadImage,
) -> Pool:
    match name:
        case "cifar10":
            return load_cifar10(root, download)
        case "cifar100":
            return load_cifar100(root, download)
        case "fashion-mnist":
            return load_fashion_mnist(root, download)
        case "parquet":
            return load_parquet(root, image_size, on_bad_image)
        case "embeddings":
            files = _existing(name, root, named)
            return load_embeddings(root, files.get("labels"), files.get("class_names"))
        case _:
            return load_digits()
