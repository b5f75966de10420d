import gzip
import logging
import struct

import numpy as np
import pytest
import torch
import torchvision

from ltcli.core.errors import DataError
from ltcli.data.fashion_mnist import CLASS_NAMES, load_fashion_mnist

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
DAMAGED = "the file is damaged or is another one; fetch it again"


def images_file(count, seed=0, side=28):
    grey = np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)
    return struct.pack(">IIII", 0x803, count, side, side) + grey.tobytes()


def labels_file(labels):
    return struct.pack(">II", 0x801, len(labels)) + bytes(labels)


def write(folder, suffix=""):
    """Write a small set: 20 training and 10 test images."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        TRAIN_IMAGES: images_file(20),
        TRAIN_LABELS: labels_file([k % 10 for k in range(20)]),
        "t10k-images-idx3-ubyte": images_file(10, seed=1),
        "t10k-labels-idx1-ubyte": labels_file(list(range(9, -1, -1))),
    }
    for name, content in files.items():
        data = gzip.compress(content) if suffix else content
        (folder / f"{name}{suffix}").write_bytes(data)


def refuse(root, download=False):
    with pytest.raises(DataError) as caught:
        load_fashion_mnist(root, download)
    return [str(caught.value), caught.value.hint]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("inside", ["FashionMNIST/raw", "."])
def test_the_four_files_are_read_wherever_they_may_lie(tmp_path, suffix, inside):
    write(tmp_path / inside, suffix)
    pool = load_fashion_mnist(tmp_path, download=True)
    assert (pool.train.data.dtype, pool.train.data.shape) == (torch.uint8, (20, 28, 28, 3))
    assert (pool.train.labels.dtype, pool.train.labels.tolist()) == (
        torch.int64,
        list(range(10)) * 2,
    )
    assert pool.test.labels.tolist() == list(range(9, -1, -1))
    grey = np.frombuffer(images_file(10, seed=1)[16:], np.uint8).reshape(10, 28, 28)
    for channel in range(3):
        assert (pool.test.data[..., channel].numpy() == grey).all()
    assert pool.class_names == CLASS_NAMES
    assert list(CLASS_NAMES) == torchvision.datasets.FashionMNIST.classes


def test_plain_files_are_preferred(tmp_path):
    write(tmp_path)
    (tmp_path / f"{TRAIN_IMAGES}.gz").write_bytes(b"not gzip")
    assert len(load_fashion_mnist(tmp_path, download=False).train.data) == 20


def test_other_sizes_than_the_published_ones_are_warned_of(tmp_path, caplog):
    write(tmp_path)
    with caplog.at_level(logging.WARNING):
        load_fashion_mnist(tmp_path, download=False)
    assert caplog.messages == [
        f"{tmp_path}: fashion-mnist has 20 training and 10 test images, "
        "the published set 60000 and 10000"
    ]


def test_a_missing_set_and_a_missing_file_are_named(tmp_path):
    hint = "name the folder that holds it with --root, or add --download"
    rule = "no such file, with .gz or without"
    folder = tmp_path / "FashionMNIST" / "raw"
    assert refuse(tmp_path) == [f"{folder}/{TRAIN_IMAGES}: {rule}", hint]
    write(tmp_path)
    (tmp_path / TRAIN_LABELS).unlink()
    assert refuse(tmp_path) == [f"{tmp_path}/{TRAIN_LABELS}: {rule}", hint]


def test_a_file_is_no_root(tmp_path):
    (tmp_path / "file").write_text("")
    line = f"{tmp_path}/file: root of fashion-mnist must be a folder, got a file"
    assert refuse(tmp_path / "file") == [line, None]


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        (TRAIN_IMAGES, b"", "header must be 16 bytes, got 0"),
        (TRAIN_LABELS, b"\0\0\x08", "header must be 8 bytes, got 3"),
        (
            TRAIN_IMAGES,
            labels_file(range(10)) * 9,
            "magic number must be 0x00000803, got 0x00000801",
        ),
        (TRAIN_LABELS, images_file(1), "magic number must be 0x00000801, got 0x00000803"),
        (
            TRAIN_IMAGES,
            images_file(20)[:-1],
            "content must be 15680 bytes after the header, got 15679",
        ),
        (
            TRAIN_IMAGES,
            images_file(20) + b"\0",
            "content must be 15680 bytes after the header, got more",
        ),
        (TRAIN_LABELS, labels_file([10] * 20), "labels must be from 0 to 9, got 10 at position 0"),
    ],
    ids=["empty", "short", "labels-as-images", "images-as-labels", "cut", "longer", "label-10"],
)
def test_a_damaged_file_is_refused(tmp_path, name, content, rule):
    write(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert refuse(tmp_path) == [f"{tmp_path}/{name}: {rule}", DAMAGED]


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        (TRAIN_IMAGES, images_file(20, side=32), "images must be 28 x 28, got 32 x 32"),
        (
            TRAIN_IMAGES,
            struct.pack(">IIII", 0x803, 2**32 - 1, 28, 28),
            "number of items must be from 1 to 60000, got 4294967295",
        ),
        (TRAIN_LABELS, labels_file([]), "number of items must be from 1 to 60000, got 0"),
        (TRAIN_LABELS, labels_file(range(10)), "labels must be 20, as images, got 10"),
    ],
    ids=["size", "count", "none", "fewer-labels"],
)
def test_a_file_of_another_set_is_refused(tmp_path, name, content, rule):
    write(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert refuse(tmp_path) == [f"{tmp_path}/{name}: {rule}", None]


@pytest.mark.parametrize("damage", ["text", "cut", "flipped"])
def test_a_damaged_gzip_stream_is_refused(tmp_path, damage):
    write(tmp_path, ".gz")
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes({"text": b"hello", "cut": data[: len(data) // 2], "flipped": data}[damage])
    rule = "content must be one whole gzip stream, got less"
    assert refuse(tmp_path) == [f"{path}: {rule}", DAMAGED]


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    write(tmp_path, ".gz")
    path = tmp_path / f"{TRAIN_LABELS}.gz"
    path.write_bytes(gzip.compress(labels_file([1] * 20) + bytes(30 * 2**20), compresslevel=1))
    rule = "content must be 20 bytes after the header, got more"
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
