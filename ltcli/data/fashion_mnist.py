"""Fashion-MNIST, from its four IDX files, plain or compressed with gzip.

Source: Xiao, Rasul and Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms, 2017, arXiv 1708.07747; the IDX format is described at
http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import logging
import struct
import zlib
from pathlib import Path

import torch

from ltcli.core.errors import DataError
from ltcli.data.download import downloading
from ltcli.data.pool import Part, Pool

logger = logging.getLogger(__name__)

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 28
# An IDX magic number is two zeros, the type code 8 for uint8, and the number of axes.
IMAGES_MAGIC, LABELS_MAGIC = 0x0803, 0x0801
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NUM_TRAINING, NUM_TEST = 60_000, 10_000
DAMAGED = "the file is damaged or is another one; fetch it again"


def load_fashion_mnist(root: Path, download: bool) -> Pool:
    """Load Fashion-MNIST, its grey repeated in three channels.

    Args:
        root: The folder that holds ``FashionMNIST/raw`` or the files themselves.
        download: Whether to fetch what is missing into ``root/FashionMNIST/raw``.

    Returns:
        A pool with images uint8 [N, 28, 28, 3] and labels int64 [N]; the published set has 60,000
        training and 10,000 test images.

    Raises:
        DataError: The data set is missing or damaged, or the download failed.
        ResourceError: The disk is full.
    """
    if root.exists() and not root.is_dir():
        raise DataError(root, "root of fashion-mnist must be a folder, got a file")
    folder = root / "FashionMNIST" / "raw"
    if any((root / f"{name}{suffix}").is_file() for name in FILES for suffix in ("", ".gz")):
        folder = root
    paths = [_find(folder, name) for name in FILES]
    if None in paths and download:
        # torchvision takes a second to import.
        from torchvision import datasets

        with downloading(root):
            datasets.FashionMNIST(root, download=True)
        folder = root / "FashionMNIST" / "raw"
        paths = [_find(folder, name) for name in FILES]
    found = []
    for name, path in zip(FILES, paths, strict=True):
        if path is None:
            hint = "name the folder that holds it with --root, or add --download"
            raise DataError(folder / name, "no such file, with .gz or without", hint)
        found.append(path)
    images, labels = _read_part(found[0], found[1])
    test_images, test_labels = _read_part(found[2], found[3])
    if (len(images), len(test_images)) != (NUM_TRAINING, NUM_TEST):
        logger.warning(
            "%s: fashion-mnist has %d training and %d test images, the published set %d and %d",
            root,
            len(images),
            len(test_images),
            NUM_TRAINING,
            NUM_TEST,
        )
    return Pool(CLASS_NAMES, Part(images, labels), test=Part(test_images, test_labels))


def _find(folder: Path, name: str) -> Path | None:
    """Return the plain file if it is there, else the compressed one, else None."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read_part(images_path: Path, labels_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 [N, 28, 28, 3] and int64 [N]."""
    grey = _read_idx(images_path, IMAGES_MAGIC, (SIDE, SIDE))
    labels = _read_idx(labels_path, LABELS_MAGIC, ()).long()
    if len(labels) != len(grey):
        raise DataError(labels_path, f"labels must be {len(grey)}, as images, got {len(labels)}")
    if labels.max() >= len(CLASS_NAMES):
        position = int((labels >= len(CLASS_NAMES)).nonzero()[0])
        value = int(labels[position])
        rule = f"labels must be from 0 to 9, got {value} at position {position}"
        raise DataError(labels_path, rule, DAMAGED)
    return grey[..., None].repeat(1, 1, 1, 3), labels


def _read_idx(path: Path, magic: int, item_shape: tuple[int, ...]) -> torch.Tensor:
    """Return uint8 [N, *item_shape]; no more is unpacked than the published set can need."""
    num_axes = 1 + len(item_shape)
    item_size = SIDE * SIDE if item_shape else 1
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * num_axes)
            content = file.read(NUM_TRAINING * item_size + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(path, "content must be one whole gzip stream, got less", DAMAGED) from error
    if len(header) < 4 + 4 * num_axes:
        rule = f"header must be {4 + 4 * num_axes} bytes, got {len(header)}"
        raise DataError(path, rule, DAMAGED)
    found, count, *shape = struct.unpack(f">{1 + num_axes}I", header)
    if found != magic:
        rule = f"magic number must be 0x{magic:08x}, got 0x{found:08x}"
        raise DataError(path, rule, DAMAGED)
    if tuple(shape) != item_shape:
        raise DataError(path, f"images must be {SIDE} x {SIDE}, got {shape[0]} x {shape[1]}")
    if not 1 <= count <= NUM_TRAINING:
        raise DataError(path, f"number of items must be from 1 to {NUM_TRAINING}, got {count}")
    if len(content) != count * item_size:
        size = "more" if len(content) > count * item_size else str(len(content))
        rule = f"content must be {count * item_size} bytes after the header, got {size}"
        raise DataError(path, rule, DAMAGED)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(count, *item_shape)
