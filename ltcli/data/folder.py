"""Images in folders: one sub-folder per class, or ``train``, ``val`` and ``test`` with such.

The folder may be messy or hostile. Each file left out is listed with a reason, and is either
harmless (a text file among images) or bad (an image that will be missed).
"""

import os
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np

from ltcli.core.errors import DataError
from ltcli.core.text import nfc
from ltcli.data.class_names import Labels, used_classes
from ltcli.data.data_files import find_images, with_test
from ltcli.data.formats import is_image
from ltcli.data.listed import Listed, Rows
from ltcli.data.source_table import PART_NAMES, PARTS, Request
from ltcli.data.walk import Found, Left, entries, join, left_out

_OWN_FOLDER = "the images of each class must be in a sub-folder of their own"


def read(request: Request) -> Listed:
    """Return the images of a folder, ordered by class and path.

    Classes are the sub-folders of the root, sorted by name; or, if it holds a folder ``train`` of
    such, the sub-folders of that. Then ``val`` and ``test`` are the other parts, under any of their
    names, and need not have all classes.

    Raises:
        DataError: The folder is not of this form, or a class has test images and no training image.
    """
    root, seen = request.root, Found({})
    parts = _parts(root, seen)
    folders = {part: _classes(root, part, folder, seen) for part, folder in parts.items()}
    found = find_images(root, [path for paths in folders.values() for path in paths.values()])
    seen.harmless.extend(found.harmless)
    seen.bad.extend(found.bad)
    declared = sorted({name for paths in folders.values() for name in paths})
    files: dict[str, list[str]] = {}
    labels: dict[str, Labels] = {}
    for part, paths in folders.items():
        by_class = [sorted(found.files.get(paths.get(name, ""), ())) for name in declared]
        if part == "train" or any(by_class):
            files[part] = list(chain(*by_class))
            labels[part] = np.repeat(np.arange(len(declared)), list(map(len, by_class)))
    names, labels = used_classes(declared, labels, root)
    if len(names) < 2 and (request.on_bad_image == "skip" or not seen.bad):
        rule = f"number of class folders with images must be at least 2, got {len(names)}"
        raise DataError(root, rule, _OWN_FOLDER)
    rows = {part: Rows(files[part], labels[part]) for part in files}
    return Listed(names, with_test(rows, root), tuple(seen.harmless), tuple(seen.bad))


def _parts(root: Path, seen: Found) -> dict[str, str]:
    """Return the folder that holds the classes of each part; the root itself is ''."""
    top = Found({})
    names = list_folders(root, "", top)
    told = {name: PART_NAMES[name.casefold()] for name in names if name.casefold() in PART_NAMES}
    alone, several = len(told) == len(names), "train" in told.values() and len(told) > 1
    if not told or not (alone or several or any(_holds_classes(root / name) for name in told)):
        return {"train": ""}
    seen.harmless.extend(top.harmless)
    seen.bad.extend(top.bad)
    parts: dict[str, str] = {}
    for name, part in told.items():
        if part in parts:
            rule = f"{part} images must be in one folder, got '{parts[part]}' and '{name}'"
            raise DataError(root, rule, "merge them, or move one out of this folder")
        parts[part] = name
    if "train" not in parts:
        got = " and ".join(f"'{name}'" for name in told)
        hint = "rename them, or give the folder that holds the classes as --root"
        raise DataError(root, f"folders must be named train, val and test, got {got}", hint)
    for name in names:
        if name not in told:
            _require_no_images(root, name, seen)
    return {part: parts[part] for part in PARTS if part in parts}


def _holds_classes(folder: Path) -> bool:
    """Return whether a folder holds folders and no images, as one with the classes of a part."""
    with suppress(OSError):
        inside = [entry for entry in entries(folder) if left_out(entry.name) is None]
        return any(entry.is_dir() for entry in inside) and not any(
            is_image(entry.name) for entry in inside
        )
    return False


def _require_no_images(root: Path, name: str, seen: Found) -> None:
    """Refuse a folder of images beside those of the parts, as no label of theirs is known."""
    if number := len(find_images(root, [name]).files[name]):
        rule = f"folders beside train must be val and test, got '{name}' with {number} images"
        raise DataError(root, rule, "move it out of this folder; images without labels have no use")
    seen.harmless.append(Left(name, "is no part of the data set, and has no images"))


def _classes(root: Path, part: str, folder: str, seen: Found) -> dict[str, str]:
    """Return the folder of each class of a part, by the name of the class."""
    names = list_folders(root, folder, seen)
    # A class may lack test and validation images, but there is nothing to tell one class from.
    least = 2 if part == "train" else 1
    if len(names) < least:
        rule = f"number of class folders must be at least {least}, got {len(names)}"
        raise DataError(root / folder, rule, _OWN_FOLDER)
    classes: dict[str, str] = {}
    folded: dict[str, str] = {}
    for name in names:
        # Systems spell one accented name in two ways, so that train and test may differ in it.
        normal = nfc(name)
        # macOS and Windows take such names for one and the same folder.
        other = folded.setdefault(normal.casefold(), name)
        if other != name:
            rule = f"class names must differ in more than case, got '{other}' and '{name}'"
            raise DataError(root / folder, rule, "merge or rename the folders")
        classes[normal] = join(folder, name)
    return classes


def list_folders(root: Path, folder: str, seen: Found) -> list[str]:
    """Return the names of the sub-folders that are classes or parts; the root itself is ''.

    Loose files are harmless; a link that leads nowhere and a name that cannot be printed are bad,
    as a whole class would be lost.
    """
    names = []
    for entry in entries(root / folder):
        path = join(folder, entry.name)
        reason = left_out(entry.name)
        if reason is not None:
            seen.harmless.append(Left(path, reason))
        elif not os.path.exists(entry.path):
            seen.bad.append(Left(path, "is a link that leads nowhere"))
        elif not entry.is_dir():
            seen.harmless.append(Left(path, "is not in a class folder"))
        elif _is_artifacts(entry.path):
            seen.harmless.append(Left(path, "holds artifacts and no images"))
        elif not entry.name.isprintable():
            seen.bad.append(Left(path, "is a class name that cannot be printed"))
        else:
            names.append(entry.name)
    return names


def _is_artifacts(folder: str) -> bool:
    """Return whether a folder holds artifacts, which people write beside the images."""
    ours = False
    with suppress(OSError), os.scandir(folder) as inside:
        for entry in inside:
            # The first entry of a class is mostly an image, so a class costs no long search.
            if entry.is_dir() or is_image(entry.name):
                return False
            ours = ours or entry.name.endswith((".safetensors", ".safetensors.lock"))
        return ours
    return False
