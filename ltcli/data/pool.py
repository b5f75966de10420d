"""All samples of a data set, as a source hands them to ``split``, and the rules they must keep."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ltcli.core.errors import DataError
from ltcli.core.files import is_file_name
from ltcli.core.text import nfc
from ltcli.data.class_names import used_classes
from ltcli.data.duplicates import Looks

Store = Literal["images", "files", "features"]

# Dtype and axes of ``Part.data`` in each store.
_FORMS: dict[str, tuple[torch.dtype, tuple[str, ...]]] = {
    "images": (torch.uint8, ("N", "H", "W", "3")),
    "files": (torch.int64, ("N",)),
    "features": (torch.float32, ("N", "D")),
}


@dataclass(frozen=True)
class Part:
    """One part of a source.

    Attributes:
        data: Images uint8 [N, H, W, 3], RGB; sizes of the image files in bytes, int64 [N]; or
            features float32 [N, D], as the store of the pool says.
        labels: int64 [N], class of each sample, 0..C-1.
        files: Relative path of each image, with ``/``; empty where images have no files.
        groups: Name of the group of each image; empty where the source names none.
        looks: What the images look like, where they were verified.
    """

    data: torch.Tensor
    labels: torch.Tensor
    files: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    looks: Looks | None = None


@dataclass(frozen=True)
class Pool:
    """Everything a source offers; ``split`` cuts parts that it lacks out of the training part.

    Class names are all different and in label order. ``skipped`` has one line ``path: reason`` for
    each file left out. ``published`` is whether checksums say that the samples stand in the
    published order; None for a data set without such checksums.
    """

    class_names: tuple[str, ...]
    train: Part
    val: Part | None = None
    test: Part | None = None
    store: Store = "images"
    skipped: tuple[str, ...] = ()
    published: bool | None = None

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that the source has, by name."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in found.items() if part is not None}


def checked(pool: Pool, where: object) -> Pool:
    """Return a pool that can be split, trained on and scored: without classes that have no samples.

    A class may lack validation and test samples, as one with a single sample must.

    Raises:
        DataError: Fewer than two classes, equal or empty class names, no samples, a class without
            training samples, labels out of range, or tensors that do not fit each other.
    """
    pool = replace(pool, class_names=tuple(map(nfc, pool.class_names)))
    name, times = Counter(pool.class_names).most_common(1)[0]
    if times > 1:
        raise DataError(where, f"class names must all be different, got '{name}' twice")
    # Names are printed in tables, where an escape sequence would reach the terminal.
    for name in pool.class_names:
        if not name or not name.isprintable():
            raise DataError(where, f"class names must be printable text, got {name!a}")
    words = {"train": "training", "val": "validation", "test": "test"}
    parts = {name: part for name in words if (part := getattr(pool, name)) is not None}
    for name, part in parts.items():
        _check_part(part, pool, where, words[name])
    # Bad images that were left out may have been all of a class.
    labels = {name: part.labels.numpy() for name, part in parts.items()}
    class_names, labels = used_classes(pool.class_names, labels, where)
    if len(class_names) < 2:
        raise DataError(where, f"number of classes must be at least 2, got {len(class_names)}")
    numbered = {
        name: replace(part, labels=torch.from_numpy(labels[name])) for name, part in parts.items()
    }
    return replace(pool, class_names=class_names, **numbered)


def _check_part(part: Part, pool: Pool, where: object, word: str) -> None:
    dtype, axes = _FORMS[pool.store]
    data, labels, num_samples = part.data, part.labels, len(part.data)
    fits = data.dtype == dtype and data.ndim == len(axes) and 0 not in data.shape[1:]
    if not fits or (pool.store == "images" and data.shape[3] != 3):
        wanted = f"{_name(dtype)} [{', '.join(axes)}]"
        raise DataError(where, f"{word} {pool.store} must be {wanted}, got {_form(data)}")
    if labels.dtype != torch.int64 or labels.shape != data.shape[:1]:
        raise DataError(where, f"{word} labels must be int64 [{num_samples}], got {_form(labels)}")
    if num_samples == 0:
        raise DataError(where, f"number of {word} images must be at least 1, got 0")
    num_classes = len(pool.class_names)
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        rule = f"{word} labels must be from 0 to {num_classes - 1}, got {int(outside[0])}"
        raise DataError(where, rule)
    if data.shape[1:] != pool.train.data.shape[1:]:
        size, own = list(pool.train.data.shape[1:]), list(data.shape[1:])
        raise DataError(where, f"{word} {pool.store} must be {size} like the others, got {own}")
    if part.files and len(part.files) != num_samples:
        raise DataError(where, f"files must be one per {word} image, got {len(part.files)}")
    for name in part.files:
        if not is_file_name(name):
            raise DataError(where, f"names of files must be UTF-8 without NUL, got {name!a:.80}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _form(tensor: torch.Tensor) -> str:
    return f"{_name(tensor.dtype)} {list(tensor.shape)}"
