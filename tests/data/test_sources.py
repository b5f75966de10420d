import struct
import subprocess
import sys

import pytest

from ltcli.core.errors import DataError, ParamError
from ltcli.data.source_table import SOURCES
from ltcli.data.sources import load_source


def load(name, root=None):
    options = {"download": False, "store": "auto", "partial": False}
    return load_source(name, root, named={}, image_size=8, on_bad_image="fail", **options)


def test_the_table_is_read_without_torch():
    code = (
        "import sys; from ltcli.data.source_table import SOURCES; "
        "print(len(SOURCES), sorted({'torch', 'torchvision', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "14 []\n"


def test_the_table_is_sound():
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.summary.endswith(".")
        assert (source.mean is None) == (source.std is None)
    made = ["cifar10", "cifar100", "fashion-mnist", "digits"]
    assert [name for name, source in SOURCES.items() if not source.natural] == made
    assert [name for name, source in SOURCES.items() if not source.needs_root] == ["digits"]


def test_digits_need_no_root():
    assert load("digits").train.data.shape == (1797, 8, 8, 3)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist", "folder"])
def test_the_others_need_a_root_and_say_when_it_is_empty(tmp_path, name):
    with pytest.raises(ParamError) as caught:
        load(name)
    assert str(caught.value) == f"split: source '{name}' needs --root"
    assert caught.value.hint == "name the folder that holds the data set"
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_an_unknown_source_is_refused():
    with pytest.raises(ParamError) as caught:
        load("cifar-10")
    assert str(caught.value) == "split: there is no source 'cifar-10'"
    assert caught.value.hint == "did you mean 'cifar10'?"


def test_every_pool_is_checked(tmp_path):
    for part, labels in (("train", [0, 1, 3]), ("t10k", list(range(10)))):
        size = len(labels)
        images = struct.pack(">IIII", 0x803, size, 28, 28) + bytes(784 * size)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(images)
        content = struct.pack(">II", 0x801, size) + bytes(labels)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", tmp_path)
    rule = "class 'Pullover' must have at least 1 training image, got 0"
    assert str(caught.value) == f"{tmp_path}: {rule}"


def test_what_the_system_refuses_is_an_error_of_the_data(tmp_path):
    root = tmp_path / ("x" * 300)
    with pytest.raises(DataError) as caught:
        load("folder", root)
    assert str(caught.value) == f"{root}: cannot be read: file name too long"
