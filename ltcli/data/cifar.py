"""CIFAR-10 and CIFAR-100, from the binary layout or from the python layout.

The binary layout is read here and preferred where both lie in the root. The python layout consists
of pickles; it goes through torchvision, which compares their checksums before it opens them.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html (the layouts).
"""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltcli.core.errors import DataError
from ltcli.data.download import downloading
from ltcli.data.pool import Part, Pool

logger = logging.getLogger(__name__)

SIDE = 32
PIXELS = 3 * SIDE * SIDE
NUM_TRAINING, NUM_TEST = 50_000, 10_000


@dataclass(frozen=True)
class _Layout:
    """Where one of the sets keeps what; a binary record is the label bytes, then the pixels."""

    name: str
    num_classes: int
    binary_folder: str
    training_files: tuple[str, ...]
    test_file: str
    names_file: str
    label_bytes: int
    python_folder: str
    torchvision_class: str


_CIFAR10 = _Layout(
    name="cifar10",
    num_classes=10,
    binary_folder="cifar-10-batches-bin",
    training_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_file="test_batch.bin",
    names_file="batches.meta.txt",
    label_bytes=1,
    python_folder="cifar-10-batches-py",
    torchvision_class="CIFAR10",
)
# The label bytes are the coarse and the fine label; the last one is used.
_CIFAR100 = _Layout(
    name="cifar100",
    num_classes=100,
    binary_folder="cifar-100-binary",
    training_files=("train.bin",),
    test_file="test.bin",
    names_file="fine_label_names.txt",
    label_bytes=2,
    python_folder="cifar-100-python",
    torchvision_class="CIFAR100",
)


def load_cifar10(root: Path, download: bool) -> Pool:
    """Load CIFAR-10.

    Args:
        root: The folder that holds ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, or one of
            these itself.
        download: Whether to fetch the python layout into ``root`` if neither is there.

    Returns:
        A pool with images uint8 [N, 32, 32, 3] and labels int64 [N]; the published set has 50,000
        training and 10,000 test images.

    Raises:
        DataError: The data set is missing or damaged, or the download failed.
        ResourceError: The disk is full.
    """
    return _load(_CIFAR10, root, download)


def load_cifar100(root: Path, download: bool) -> Pool:
    """Load CIFAR-100 with its 100 fine labels.

    Args:
        root: The folder that holds ``cifar-100-binary`` or ``cifar-100-python``, or one of these
            itself.
        download: Whether to fetch the python layout into ``root`` if neither is there.

    Returns:
        A pool with images uint8 [N, 32, 32, 3] and labels int64 [N]; the published set has 50,000
        training and 10,000 test images.

    Raises:
        DataError: The data set is missing or damaged, or the download failed.
        ResourceError: The disk is full.
    """
    return _load(_CIFAR100, root, download)


def _load(layout: _Layout, root: Path, download: bool) -> Pool:
    if root.exists() and not root.is_dir():
        raise DataError(root, f"root of {layout.name} must be a folder, got a file")
    binary = root / layout.binary_folder
    batches = (*layout.training_files, layout.test_file)
    if any((root / name).is_file() for name in batches):
        # CIFAR-100 calls its batches train.bin and test.bin: common names, but then with .bin.
        binary = root
    if binary.is_dir():
        pool = _load_binary(layout, binary)
    else:
        inside = root.absolute().name == layout.python_folder
        python = root.absolute() if inside else root / layout.python_folder
        if not python.is_dir() and not download:
            raise DataError(
                root,
                f"{layout.name} must be in {layout.binary_folder} or {layout.python_folder}, "
                "got neither",
                f"looked for {binary} and {python}; "
                "name the folder that holds one of them with --root, or add --download",
            )
        pool = _load_python(layout, python, download)
    num_test = 0 if pool.test is None else len(pool.test.labels)
    if (len(pool.train.labels), num_test) != (NUM_TRAINING, NUM_TEST):
        logger.warning(
            "%s: %s has %d training and %d test images, the published set has %d and %d",
            root,
            layout.name,
            len(pool.train.labels),
            num_test,
            NUM_TRAINING,
            NUM_TEST,
        )
    return pool


def _load_binary(layout: _Layout, folder: Path) -> Pool:
    for name in (*layout.training_files, layout.test_file, layout.names_file):
        if not (folder / name).is_file():
            raise DataError(
                folder / name,
                "no such file",
                f"complete the folder, or remove {folder} and use --download",
            )
    class_names = _read_names(layout, folder / layout.names_file)
    parts = [_read_batch(layout, folder / name) for name in layout.training_files]
    test_images, test_labels = _read_batch(layout, folder / layout.test_file)
    images = torch.cat([images for images, _ in parts])
    labels = torch.cat([labels for _, labels in parts])
    return Pool(class_names, Part(images, labels), test=Part(test_images, test_labels))


def _read_names(layout: _Layout, path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(path, "class names must be UTF-8 text, got other bytes") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != layout.num_classes:
        raise DataError(path, f"class names must be {layout.num_classes} lines, got {len(names)}")
    return names


def _read_batch(layout: _Layout, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 [N, 32, 32, 3] and int64 [N]."""
    record = layout.label_bytes + PIXELS
    content = path.read_bytes()
    if not content or len(content) % record:
        raise DataError(
            path,
            f"size must be a positive multiple of the record size {record}, "
            f"got {len(content)} bytes",
            "the file is damaged or is another one; unpack the archive again",
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = torch.from_numpy(rows[:, layout.label_bytes - 1].astype(np.int64))
    if labels.max() >= layout.num_classes:
        position = int((labels >= layout.num_classes).nonzero()[0])
        raise DataError(
            path,
            f"labels must be from 0 to {layout.num_classes - 1}, "
            f"got {int(labels[position])} in record {position}",
            "the file is damaged or is another one; unpack the archive again",
        )
    # A record holds all red pixels, then all green, then all blue.
    planes = rows[:, layout.label_bytes :].reshape(-1, 3, SIDE, SIDE)
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(0, 2, 3, 1))), labels


def _load_python(layout: _Layout, folder: Path, download: bool) -> Pool:
    # torchvision takes a second to import.
    from torchvision import datasets

    dataset_class: Any = getattr(datasets, layout.torchvision_class)
    if download:
        with downloading(folder.parent):
            dataset_class(folder.parent, download=True)
    try:
        with warnings.catch_warnings():
            # The pickles are of 2009, and numpy has since deprecated the way they name a dtype.
            warnings.simplefilter("ignore")
            training, test = (dataset_class(folder.parent, train=part) for part in (True, False))
    except RuntimeError as error:
        raise DataError(
            folder,
            "files must have the published checksums, got others, or some are missing",
            f"remove {folder} and use --download, or unpack the archive again",
        ) from error
    parts = [
        Part(
            torch.from_numpy(np.ascontiguousarray(part.data)),
            torch.tensor(part.targets, dtype=torch.int64),
        )
        for part in (training, test)
    ]
    return Pool(tuple(training.classes), parts[0], test=parts[1])
