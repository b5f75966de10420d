import dataclasses
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from ltcli.core.errors import DataError, ResourceError
from ltcli.data import cifar
from ltcli.data.data_files import downloading
from ltcli.data.source_table import Request

BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]
DAMAGED = "the file is damaged or is another one; unpack the archive again"


def pixels(seed, count):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def write_cifar10(folder):
    """Write a whole CIFAR-10 in binary layout, with ten records in each file."""
    folder.mkdir(parents=True)
    for seed, name in enumerate([*BATCHES, "test_batch.bin"]):
        rows = np.column_stack([np.arange(10, dtype=np.uint8), pixels(seed, 10)])
        (folder / name).write_bytes(rows.tobytes())
    names = [f"thing {label}" for label in range(10)]
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n\n")


def write_cifar100(folder):
    folder.mkdir(parents=True)
    fine = np.arange(99, -1, -1, dtype=np.uint8)
    for seed, name in enumerate(["train.bin", "test.bin"]):
        rows = np.column_stack([fine // 5, fine, pixels(seed, 100)])
        (folder / name).write_bytes(rows.tobytes())
    (folder / "fine_label_names.txt").write_text("".join(f"fine {k}\n" for k in range(100)))


def write_python(folder, monkeypatch):
    """Write a small python layout, and let torchvision's class expect its checksums."""
    folder.mkdir(parents=True)
    checksums = {}
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    content = {
        name: {"data": pixels(seed, 10), "labels": list(range(10))}
        for seed, name in enumerate(names)
    }
    content["batches.meta"] = {"label_names": [f"pickled {label}" for label in range(10)]}
    for name, entry in content.items():
        data = pickle.dumps(entry, protocol=2)
        (folder / name).write_bytes(data)
        checksums[name] = hashlib.md5(data, usedforsecurity=False).hexdigest()

    class Small(torchvision.datasets.CIFAR10):
        train_list = [[name, checksums[name]] for name in names[:5]]  # noqa: RUF012
        test_list = [[name, checksums[name]] for name in names[5:]]  # noqa: RUF012
        meta = {  # noqa: RUF012
            "filename": "batches.meta",
            "key": "label_names",
            "md5": checksums["batches.meta"],
        }

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Small)


def load(root, download=False, name="cifar10"):
    return cifar.read(Request(name, root, download=download))


def refuse(root, download=False, name="cifar10"):
    with pytest.raises(DataError) as caught:
        load(root, download, name)
    return [str(caught.value), caught.value.hint]


def test_binary_cifar10_has_its_batches_in_order_and_its_pixels_in_place(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    pool = load(tmp_path)
    assert (pool.train.data.dtype, pool.train.data.shape) == (torch.uint8, (50, 32, 32, 3))
    assert pool.train.labels.dtype == pool.test.labels.dtype == torch.int64
    assert pool.train.labels.tolist() == list(range(10)) * 5
    assert pool.class_names == tuple(f"thing {label}" for label in range(10))
    for image, row in (
        (pool.train.data[23], pixels(2, 10)[3]),
        (pool.test.data[9], pixels(5, 10)[9]),
    ):
        for channel in range(3):
            for y, x in ((0, 0), (5, 30), (31, 31)):
                assert image[y, x, channel] == row[1024 * channel + 32 * y + x]


def test_the_layout_folder_itself_is_a_root(tmp_path):
    write_cifar10(tmp_path / "renamed")
    assert len(load(tmp_path / "renamed").train.data) == 50


def test_binary_cifar100_takes_the_fine_label(tmp_path):
    write_cifar100(tmp_path / "cifar-100-binary")
    for root in (tmp_path, tmp_path / "cifar-100-binary"):
        pool = load(root, name="cifar100")
        assert pool.train.labels.tolist() == pool.test.labels.tolist() == list(range(99, -1, -1))
        assert pool.class_names[7] == "fine 7"
        assert pool.train.data[4, 1, 2, 1] == pixels(0, 100)[4, 1024 + 32 + 2]


def test_python_layout_and_binary_layout_give_the_same_images(tmp_path, monkeypatch):
    write_cifar10(tmp_path / "binary")
    write_python(tmp_path / "cifar-10-batches-py", monkeypatch)
    binary = load(tmp_path / "binary")
    monkeypatch.chdir(tmp_path / "cifar-10-batches-py")
    for root in (tmp_path, tmp_path / "cifar-10-batches-py", Path(".")):
        pool = load(root)
        assert pool.class_names[3] == "pickled 3"
        for part, other in ((pool.train, binary.train), (pool.test, binary.test)):
            torch.testing.assert_close(part.data, other.data)
            torch.testing.assert_close(part.labels, other.labels)


def test_the_published_order_is_known_by_checksums_alone(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar10(folder)
    assert load(tmp_path).published is False
    files = [folder / name for name in (*BATCHES, "test_batch.bin")]
    checksums = [hashlib.sha1(file.read_bytes()).hexdigest() for file in files]
    layout = dataclasses.replace(cifar._LAYOUTS["cifar10"], checksums=tuple(checksums))
    monkeypatch.setitem(cifar._LAYOUTS, "cifar10", layout)
    assert load(tmp_path).published is True
    # The same images in another order are the same set and another draw.
    records = files[1].read_bytes()
    files[1].write_bytes(records[3073:] + records[:3073])
    assert load(tmp_path).published is False
    write_python(tmp_path / "cifar-10-batches-py", monkeypatch)
    assert load(tmp_path / "cifar-10-batches-py").published is True


def test_binary_layout_is_preferred(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert load(tmp_path, download=True).class_names[0] == "thing 0"


@pytest.mark.parametrize(
    ("name", "binary", "python"),
    [
        ("cifar10", "cifar-10-batches-bin", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-binary", "cifar-100-python"),
    ],
)
def test_a_missing_data_set_says_where_it_was_looked_for(tmp_path, name, binary, python):
    for root in (tmp_path, tmp_path / "none"):
        assert refuse(root, name=name) == [
            f"{root}: {name} must be in {binary} or {python}, got neither",
            f"looked for {root}/{binary} and {root}/{python}; "
            "name the folder that holds one of them with --root, or add --download",
        ]


@pytest.mark.parametrize("name", [*BATCHES, "test_batch.bin", "batches.meta.txt"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar10(folder)
    (folder / name).unlink()
    hint = f"complete the folder, or remove {folder} and use --download"
    assert refuse(tmp_path, download=True) == [f"{folder}/{name}: no such file", hint]


@pytest.mark.parametrize("size", [0, 1, 3073 * 10 - 1, 3074 * 10])
def test_a_batch_of_a_wrong_size_is_refused(tmp_path, size):
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    write_cifar10(path.parent)
    path.write_bytes(bytes(size))
    rule = f"size must be a positive multiple of the record size 3073, got {size} bytes"
    assert refuse(tmp_path) == [f"{path}: {rule}", DAMAGED]


def test_the_record_of_cifar100_is_a_byte_longer(tmp_path):
    path = tmp_path / "cifar-100-binary" / "test.bin"
    write_cifar100(path.parent)
    path.write_bytes(bytes(3073))
    rule = "size must be a positive multiple of the record size 3074, got 3073 bytes"
    assert refuse(tmp_path, name="cifar100") == [f"{path}: {rule}", DAMAGED]


def test_a_label_out_of_range_is_refused(tmp_path):
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_5.bin"
    write_cifar10(path.parent)
    content = bytearray(path.read_bytes())
    content[4 * 3073] = 10
    path.write_bytes(content)
    rule = "labels must be from 0 to 9, got 10 in record 4"
    assert refuse(tmp_path) == [f"{path}: {rule}", DAMAGED]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"cat\ndog\n", ": class names must be 10 lines, got 2"),
        (b"cat\n" + b"\xff\xfe" * 10, ":2: must be UTF-8 text, got byte 0xff"),
    ],
)
def test_wrong_class_names_are_refused(tmp_path, content, rule):
    path = tmp_path / "cifar-10-batches-bin" / "batches.meta.txt"
    write_cifar10(path.parent)
    path.write_bytes(content)
    hint = "save the file as UTF-8" if "UTF-8" in rule else None
    assert refuse(tmp_path) == [f"{path}{rule}", hint]


def test_a_pickle_with_another_checksum_is_refused_unread(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    write_python(folder, monkeypatch)
    hostile = b"cos\nmkdir\n(S'" + str(tmp_path / "canary").encode() + b"'\ntR."
    for name in ("data_batch_3", "batches.meta"):
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(hostile)
        assert refuse(tmp_path) == [
            f"{folder}: files must have the published checksums, got others, or some are missing",
            f"remove {folder} and use --download, or unpack the archive again",
        ]
        (folder / name).write_bytes(original)
    assert not (tmp_path / "canary").exists()


def test_a_download_that_fails_is_an_error_with_a_hint(tmp_path, monkeypatch, capsys):
    # Port 9 of this host discards or refuses; nothing leaves it.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    line, hint = refuse(tmp_path / "new", download=True)
    assert (
        line == f"{tmp_path}/new: download failed: <urlopen error [Errno 111] Connection refused>"
    )
    assert hint == "check the network and try again, or put the files there by other means"
    assert capsys.readouterr().out == ""


def test_a_full_disk_is_no_fault_of_the_data(tmp_path):
    def full():
        with downloading(tmp_path):
            raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError) as caught:
        full()
    assert str(caught.value) == f"{tmp_path}: download failed: [Errno 28] No space left on device"
    assert caught.value.hint == "free some space"
