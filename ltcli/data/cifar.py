"""CIFAR-10 and CIFAR-100: the binary layout is read here, the python layout by torchvision.

The binary layout is preferred where both lie in the root. The python layout consists of pickles;
torchvision compares their checksums before it opens them.

Files in the published order are recognised by their checksums, in either layout: LDAM-DRW and those
after it draw images by their positions, which say nothing in another order.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html (the layouts).
"""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ltcli.core.errors import DataError
from ltcli.core.files import read_text
from ltcli.data.data_files import downloading
from ltcli.data.pool import Part, Pool
from ltcli.data.source_table import Request

SIDE = 32
DAMAGED = "the file is damaged or is another one; unpack the archive again"


@dataclass(frozen=True)
class _Layout:
    """The files of one of the sets; a binary record is the label bytes, then the pixels.

    Checksums are the SHA-1 of the published files of the binary layout, as many libraries list
    them: those of training, and the test file's.
    """

    num_classes: int
    binary: str
    training_files: tuple[str, ...]
    test_file: str
    checksums: tuple[str, ...]
    names_file: str
    label_bytes: int
    python: str


_LAYOUTS = {
    "cifar10": _Layout(
        num_classes=10,
        binary="cifar-10-batches-bin",
        training_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test_file="test_batch.bin",
        checksums=(
            "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
            "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
            "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
            "aab85764eb3584312d3c7f65fd2fd016e36a258e",
            "26e2849e66a845b7f1e4614ae70f4889ae604628",
            "67eb016db431130d61cd03c7ad570b013799c88c",
        ),
        names_file="batches.meta.txt",
        label_bytes=1,
        python="cifar-10-batches-py",
    ),
    # The label bytes are the coarse and the fine label; the last one is used.
    "cifar100": _Layout(
        num_classes=100,
        binary="cifar-100-binary",
        training_files=("train.bin",),
        test_file="test.bin",
        checksums=(
            "e207cd2e05b73b1393c74c7f5e7bea451d63e08e",
            "8fb6623e830365ff53cf14adec797474f5478006",
        ),
        names_file="fine_label_names.txt",
        label_bytes=2,
        python="cifar-100-python",
    ),
}


def read(request: Request) -> Pool:
    """Return the images uint8 [N, 32, 32, 3] and the labels int64 [N], the fine ones of CIFAR-100.

    The root holds the folder of a layout, or is that folder itself.

    Raises:
        DataError: The data set is missing or damaged, or the download failed.
    """
    layout, root = _LAYOUTS[request.source], request.root
    binary = root / layout.binary
    # CIFAR-100 calls its batches train.bin and test.bin: common names, but then with .bin.
    if any((root / name).is_file() for name in (*layout.training_files, layout.test_file)):
        binary = root
    if binary.is_dir():
        return _read_binary(layout, binary)
    inside = root.absolute().name == layout.python
    python = root.absolute() if inside else root / layout.python
    if not python.is_dir() and not request.download:
        raise DataError(
            root,
            f"{request.source} must be in {layout.binary} or {layout.python}, got neither",
            f"looked for {binary} and {python}; "
            "name the folder that holds one of them with --root, or add --download",
        )
    return _read_python(layout, python, request.download)


def _read_binary(layout: _Layout, folder: Path) -> Pool:
    for name in (*layout.training_files, layout.test_file, layout.names_file):
        if not (folder / name).is_file():
            hint = f"complete the folder, or remove {folder} and use --download"
            raise DataError(folder / name, "no such file", hint)
    path = folder / layout.names_file
    names = tuple(line.strip() for line in read_text(path, DataError).split("\n") if line.strip())
    if len(names) != layout.num_classes:
        raise DataError(path, f"class names must be {layout.num_classes} lines, got {len(names)}")
    files = [folder / name for name in (*layout.training_files, layout.test_file)]
    *batches, (test, last) = [_read_batch(layout, path) for path in files]
    images = torch.cat([part.data for part, _ in batches])
    labels = torch.cat([part.labels for part, _ in batches])
    published = (*(checksum for _, checksum in batches), last) == layout.checksums
    return Pool(names, Part(images, labels), test=test, published=published)


def _read_batch(layout: _Layout, path: Path) -> tuple[Part, str]:
    """Return the images of a file and its SHA-1."""
    record = layout.label_bytes + 3 * SIDE * SIDE
    content = path.read_bytes()
    if not content or len(content) % record:
        rule = f"size must be a positive multiple of the record size {record}"
        raise DataError(path, f"{rule}, got {len(content)} bytes", DAMAGED)
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = torch.from_numpy(rows[:, layout.label_bytes - 1].astype(np.int64))
    if labels.max() >= layout.num_classes:
        position = int((labels >= layout.num_classes).nonzero()[0])
        rule = f"labels must be from 0 to {layout.num_classes - 1}"
        raise DataError(path, f"{rule}, got {labels[position]} in record {position}", DAMAGED)
    # A record holds all red pixels, then all green, then all blue.
    planes = rows[:, layout.label_bytes :].reshape(-1, 3, SIDE, SIDE)
    images = torch.from_numpy(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
    return Part(images, labels), hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _read_python(layout: _Layout, folder: Path, download: bool) -> Pool:
    # torchvision takes a second to import.
    from torchvision import datasets

    dataset = getattr(datasets, f"CIFAR{layout.num_classes}")
    if download:
        with downloading(folder.parent):
            dataset(folder.parent, download=True)
    try:
        with warnings.catch_warnings():
            # The pickles are of 2009, and numpy has since deprecated the way they name a dtype.
            warnings.simplefilter("ignore")
            found = [dataset(folder.parent, train=train) for train in (True, False)]
    except RuntimeError as error:
        rule = "files must have the published checksums, got others, or some are missing"
        hint = f"remove {folder} and use --download, or unpack the archive again"
        raise DataError(folder, rule, hint) from error
    # torchvision hands out a view of the pixels with the channels moved last.
    images = [torch.from_numpy(np.ascontiguousarray(part.data)) for part in found]
    train, test = (Part(i, torch.tensor(p.targets)) for i, p in zip(images, found, strict=True))
    # torchvision has compared the checksums of all files.
    return Pool(tuple(found[0].classes), train, test=test, published=True)
