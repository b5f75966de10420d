import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch
import torchvision

from ltcli.core.errors import DataError
from ltcli.data import fashion_mnist
from ltcli.data.source_table import Request

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
DAMAGED = "the file is damaged or is another one; fetch it again"


def images_file(count, seed=0, side=28):
    grey = np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)
    return struct.pack(">IIII", 0x803, count, side, side) + grey.tobytes()


def labels_file(labels):
    return struct.pack(">II", 0x801, len(labels)) + bytes(labels)


def write(folder, suffix="", monkeypatch=None):
    """Write a small set: 20 training and 10 test images; torchvision expects packed ones."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        TRAIN_IMAGES: images_file(20),
        TRAIN_LABELS: labels_file([k % 10 for k in range(20)]),
        "t10k-images-idx3-ubyte": images_file(10, seed=1),
        "t10k-labels-idx1-ubyte": labels_file(list(range(9, -1, -1))),
    }
    checksums = []
    for name, content in files.items():
        data = gzip.compress(content) if suffix else content
        (folder / f"{name}{suffix}").write_bytes(data)
        checksums.append((f"{name}.gz", hashlib.md5(data, usedforsecurity=False).hexdigest()))
    if suffix:
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", checksums)


def load(root, download=False):
    return fashion_mnist.read(Request("fashion-mnist", root, download=download))


def refuse(root, download=False):
    with pytest.raises(DataError) as caught:
        load(root, download)
    return [str(caught.value), caught.value.hint]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("inside", ["FashionMNIST/raw", "."])
def test_the_four_files_are_read_wherever_they_may_lie(tmp_path, monkeypatch, suffix, inside):
    write(tmp_path / inside, suffix, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    pool = load(tmp_path, download=True)
    assert (pool.train.data.dtype, pool.train.data.shape) == (torch.uint8, (20, 28, 28, 3))
    assert (pool.train.labels.dtype, pool.train.labels.tolist()) == (
        torch.int64,
        list(range(10)) * 2,
    )
    assert pool.test.labels.tolist() == list(range(9, -1, -1))
    grey = np.frombuffer(images_file(10, seed=1)[16:], np.uint8).reshape(10, 28, 28)
    for channel in range(3):
        assert (pool.test.data[..., channel].numpy() == grey).all()
    assert pool.class_names == tuple(torchvision.datasets.FashionMNIST.classes)
    assert sorted(tmp_path.rglob("*")) == before


def test_plain_files_are_preferred(tmp_path):
    write(tmp_path)
    (tmp_path / f"{TRAIN_IMAGES}.gz").write_bytes(b"not gzip")
    assert len(load(tmp_path).train.data) == 20


def test_a_missing_set_and_a_missing_file_are_named(tmp_path):
    hint = "name the folder that holds it with --root, or add --download"
    rule = "no such file, with .gz or without"
    folder = tmp_path / "FashionMNIST" / "raw"
    assert refuse(tmp_path) == [f"{folder}/{TRAIN_IMAGES}: {rule}", hint]
    write(tmp_path)
    (tmp_path / TRAIN_LABELS).unlink()
    assert refuse(tmp_path) == [f"{tmp_path}/{TRAIN_LABELS}: {rule}", hint]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (TRAIN_IMAGES, b""),
        (TRAIN_LABELS, b"\0\0\x08"),
        (TRAIN_IMAGES, labels_file(range(10)) * 9),
        (TRAIN_LABELS, images_file(1)),
        (TRAIN_IMAGES, images_file(20)[:-1]),
        (TRAIN_IMAGES, images_file(20) + b"\0"),
        (TRAIN_IMAGES, struct.pack(">IIII", 0x803, 2**32 - 1, 28, 28)),
        (TRAIN_IMAGES, struct.pack(">IIII", 0xF03, 1, 28, 28) + bytes(784)),
        (TRAIN_LABELS, labels_file([])),
    ],
    ids=[
        *("empty", "short", "labels-as-images", "images-as-labels", "cut", "longer", "count"),
        *("type", "none"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, content):
    write(tmp_path)
    (tmp_path / name).write_bytes(content)
    noun = "images" if name == TRAIN_IMAGES else "labels"
    rule = f"must be an IDX file of {noun}, got another"
    assert refuse(tmp_path) == [f"{tmp_path}/{name}: {rule}", DAMAGED]


def test_images_of_another_size_are_refused(tmp_path):
    write(tmp_path)
    (tmp_path / TRAIN_IMAGES).write_bytes(images_file(20, side=32))
    rule = "images must be 28 x 28, got 32 x 32"
    assert refuse(tmp_path) == [f"{tmp_path}/{TRAIN_IMAGES}: {rule}", None]


@pytest.mark.parametrize("damage", ["text", "cut", "flipped", "longer"])
def test_a_packed_file_with_another_checksum_is_refused_unpacked(tmp_path, monkeypatch, damage):
    write(tmp_path, ".gz", monkeypatch)
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    data = bytearray(path.read_bytes())
    cut = data[: len(data) // 2]
    flipped = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    longer = data + gzip.compress(bytes(2**20))
    damaged = {"text": b"hello", "cut": cut, "flipped": flipped, "longer": longer}
    path.write_bytes(damaged[damage])
    monkeypatch.setattr(torchvision.datasets.utils, "extract_archive", None)
    rule = "must have the published checksum, got another"
    assert refuse(tmp_path) == [f"{path}: {rule}", DAMAGED]


def test_a_download_that_fails_is_an_error_with_a_hint(tmp_path, monkeypatch, capsys):
    # Port 9 of this host discards or refuses; nothing leaves it.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert refuse(tmp_path, download=True) == [
        f"{tmp_path}: download failed: Error downloading {TRAIN_IMAGES}.gz: "
        "Tried http://127.0.0.1:9/, got: "
        "<urlopen error [Errno 111] Connection refused>",
        "check the network and try again, or put the files there by other means",
    ]
    assert capsys.readouterr().out == ""
