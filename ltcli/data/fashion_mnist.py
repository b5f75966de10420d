"""Fashion-MNIST, by torchvision, from its four IDX files, plain or compressed with gzip.

Source: Xiao, Rasul and Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms, 2017, arXiv 1708.07747.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ltcli.core.errors import DataError
from ltcli.data.data_files import downloading
from ltcli.data.pool import Part, Pool
from ltcli.data.source_table import Request

DAMAGED = "the file is damaged or is another one; fetch it again"


def read(request: Request) -> Pool:
    """Return the grey images, in three equal channels uint8 [N, 28, 28, 3], and labels int64 [N].

    The root holds ``FashionMNIST/raw`` as torchvision makes it, or the four files themselves.

    Raises:
        DataError: The data set is missing or damaged, or the download failed.
    """
    # torchvision takes a second to import.
    from torchvision.datasets import FashionMNIST

    checksums = dict(FashionMNIST.resources)
    raw = request.root / "FashionMNIST" / "raw"
    folder = request.root if any(_find(request.root, name) for name in checksums) else raw
    if request.download and not all(_find(folder, name) for name in checksums):
        with downloading(request.root):
            FashionMNIST(request.root, download=True)
        folder = raw
    images, labels, test_images, test_labels = (
        _read_array(folder, name, checksum) for name, checksum in checksums.items()
    )
    train = Part(images[..., None].repeat(1, 1, 1, 3), labels)
    test = Part(test_images[..., None].repeat(1, 1, 1, 3), test_labels)
    return Pool(tuple(FashionMNIST.classes), train, test=test)


def _find(folder: Path, name: str) -> Path | None:
    """Return the plain file if there is one, else the compressed one, else None."""
    paths = (folder / name.removesuffix(".gz"), folder / name)
    return next((path for path in paths if path.is_file()), None)


def _read_array(folder: Path, name: str, checksum: str) -> torch.Tensor:
    """Return grey values uint8 [N, 28, 28], or labels int64 [N]."""
    from torchvision.datasets import mnist, utils

    path = _find(folder, name)
    if path is None:
        hint = "name the folder that holds it with --root, or add --download"
        path = folder / name.removesuffix(".gz")
        raise DataError(path, "no such file, with .gz or without", hint)
    packed = path.suffix == ".gz"
    # The published checksums are those of the compressed files.
    if packed and not utils.check_integrity(path, checksum):
        raise DataError(path, "must have the published checksum, got another", DAMAGED)
    noun = "images" if "images" in name else "labels"
    read_file = mnist.read_image_file if noun == "images" else mnist.read_label_file
    try:
        with TemporaryDirectory() as temporary:
            plain = utils.extract_archive(path, temporary) if packed else path
            array: torch.Tensor = read_file(plain)
    # torchvision leaves it to Python to notice that a file has another form.
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(path, f"must be an IDX file of {noun}, got another", DAMAGED) from error
    if array.ndim == 3 and array.shape[1:] != (28, 28):
        got = " x ".join(map(str, array.shape[1:]))
        raise DataError(path, f"images must be 28 x 28, got {got}")
    return array
