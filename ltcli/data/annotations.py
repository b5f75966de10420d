"""Annotations of iNaturalist, in the JSON form of COCO: one class for each image.

Images and annotations are joined by ``image_id``, as they may stand in any order.

Source: the iNaturalist competitions of 2017 and 2018 (Van Horn et al., CVPR 2018,
arXiv 1707.06642).
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ltcli.core.errors import DataError
from ltcli.core.text import nfc
from ltcli.data import listed
from ltcli.data.class_names import warn_of_unused
from ltcli.data.listed import Listed, checked
from ltcli.data.listed_paths import Entries
from ltcli.data.source_table import Request

FORM: Mapping[str, Mapping[str, type]] = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}


def read(request: Request) -> Listed:
    """Return the annotated images, or those of text lists where there are no annotations."""
    files = request.files()
    if "train_json" not in files:
        return listed.read(request)
    return load_annotations(files["train_json"], files.get("val_json"), request)


def load_annotations(train: Path, test: Path | None, request: Request) -> Listed:
    """Return the images of the classes that have training images, in the order of their numbers.

    Both files are JSON with ``images``, ``annotations`` and ``categories``. Without the one of the
    test images, ``split`` cuts a part of the training images.

    Raises:
        DataError: A file is not of this form, or an image has not exactly one annotation.
    """
    files = {"train": train} if test is None else {"train": train, "test": test}
    documents = {part: _read(path) for part, path in files.items()}
    categories = {part: _categories(document) for part, document in documents.items()}
    # Numbers of other years stand for other species: accuracies would be silently wrong.
    if test is not None and categories["test"] != categories["train"]:
        raise DataError(test, f"categories must be those of {train}, got others")
    joined = {part: _join(files[part], document) for part, document in documents.items()}
    found = checked(joined, None, request)
    unused = categories["train"].keys() - set(found.class_names)
    warn_of_unused([categories["train"][number] for number in sorted(unused, key=int)], train)
    names = [categories["train"][number] for number in found.class_names]
    times = Counter(names)
    # Two species of one name are told apart by their numbers.
    shown = (
        name if times[name] == 1 else f"{name} ({number})"
        for name, number in zip(names, found.class_names, strict=True)
    )
    return replace(found, class_names=tuple(shown))


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        document = json.loads(path.read_bytes())
    # Thousands of brackets exceed Python's recursion, and bytes that are no UTF-8 are ValueErrors.
    except (ValueError, RecursionError):
        raise DataError(path, "must be JSON, got something else") from None
    for group, keys in FORM.items():
        entries = document.get(group) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not entries:
            raise DataError(path, f"must have a list of {group}, got none")
        for place, entry in enumerate(entries):
            for key, wanted in keys.items():
                value = entry.get(key) if isinstance(entry, dict) else None
                if wanted is int and type(value) is float and value.is_integer():
                    # pandas writes whole numbers as floats where a column once had a gap.
                    value = entry[key] = int(value)
                # Not isinstance: True is an int.
                if type(value) is not wanted:
                    kind = "text" if wanted is str else "a whole number"
                    rule = f"{group}[{place}].{key} must be {kind}, got {value!r:.80}"
                    raise DataError(path, rule)
    return document  # type: ignore[no-any-return]


def _categories(document: Mapping[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {str(entry["id"]): nfc(entry["name"]) for entry in document["categories"]}


def _join(path: Path, document: Mapping[str, list[dict[str, Any]]]) -> Entries:
    """Return file name and category of each image, in the order of the images."""
    for group, key in (("images", "id"), ("annotations", "image_id"), ("categories", "id")):
        number, times = Counter(entry[key] for entry in document[group]).most_common(1)[0]
        if times > 1:
            rule = f"{group} must have each {key} once, got {number} {times} times"
            raise DataError(path, rule)
    category = {entry["image_id"]: str(entry["category_id"]) for entry in document["annotations"]}
    # Images without an annotation and annotations without an image are both a damaged file.
    if unmatched := category.keys() ^ {entry["id"] for entry in document["images"]}:
        number = min(unmatched)
        noun = "image" if number in category else "annotation"
        raise DataError(path, f"each annotation must be of one image, got no {noun} {number}")
    if unknown := set(category.values()) - _categories(document).keys():
        rule = f"category_id must be one of the categories, got {min(unknown)}"
        raise DataError(path, rule)
    images = document["images"]
    labels = [category[entry["id"]] for entry in images]
    return Entries(path, [entry["file_name"] for entry in images], labels)
