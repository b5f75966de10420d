import struct
import subprocess
import sys
from importlib import import_module

import pytest

from ltcli.artifacts.store import open_artifact
from ltcli.core.errors import DataError
from ltcli.data.source_table import SOURCES, Request
from ltcli.data.sources import load_source


def refuse(name, root):
    with pytest.raises(DataError) as caught:
        load_source(Request(name, root))
    return [str(caught.value), caught.value.hint]


def write_fashion(folder, **labels):
    """Write Fashion-MNIST with black images of some labels."""
    for part, values in labels.items():
        size = len(values)
        images = struct.pack(">IIII", 0x803, size, 28, 28) + bytes(784 * size)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        content = struct.pack(">II", 0x801, size) + bytes(values)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(content)


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


def test_every_source_has_a_module_that_reads_it():
    for source in SOURCES.values():
        assert callable(import_module(f"ltcli.data.{source.module}").read)


def test_digits_need_no_root():
    assert load_source(Request("digits")).train.data.shape == (1797, 8, 8, 3)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist", "folder"])
def test_a_root_that_is_empty_or_a_file_is_refused(tmp_path, name):
    assert refuse(name, tmp_path)[0].startswith(str(tmp_path))
    (tmp_path / "file").touch()
    line = f"{tmp_path}/file: root of {name} must be a folder, got a file"
    assert refuse(name, tmp_path / "file") == [line, None]


@pytest.mark.parametrize("name", ["folder", "list", "csv", "inat", "imagenet-lt", "inat2018"])
def test_a_missing_folder_of_images_is_named(tmp_path, name):
    hint = "name the folder of images with --root"
    assert refuse(name, tmp_path / "none") == [f"{tmp_path}/none: no such folder", hint]


def test_every_pool_is_checked(tmp_path):
    write_fashion(tmp_path, train=[0, 1, 3], t10k=range(10))
    rule = "class 'Pullover' must have at least 1 training image, got 0"
    hint = "it stands in the test part"
    assert refuse("fashion-mnist", tmp_path) == [f"{tmp_path}: {rule}", hint]
    write_fashion(tmp_path, train=[*range(10), 10], t10k=range(10))
    rule = "training labels must be from 0 to 9, got 10"
    assert refuse("fashion-mnist", tmp_path) == [f"{tmp_path}: {rule}", None]


def test_small_images_of_another_number_than_published_are_warned_of(tmp_path, caplog):
    write_fashion(tmp_path, train=range(10), t10k=range(10))
    load_source(Request("fashion-mnist", tmp_path))
    rule = "number of training images must be 60000, got 10"
    assert caplog.messages == [f"{tmp_path}: is not the published fashion-mnist: {rule}"]


def test_what_the_system_refuses_is_an_error_of_the_data(tmp_path):
    root = tmp_path / ("x" * 300)
    assert refuse("folder", root) == [f"{root}: cannot be read: file name too long", None]


STRIPES = """
import torch
from ltcli.data.pool import Part, Pool

def read(request):
    images = torch.zeros(12, 8, 8, 3, dtype=torch.uint8)
    images[::2, ::2] = int((request.root / "brightness").read_text())
    return Pool(("black", "striped"), Part(images, torch.arange(12) % 2))
"""
RUN = """
import sys
import ltcli.data
from ltcli.data.source_table import SOURCES, Source

ltcli.data.__path__.append(sys.argv.pop(1))
SOURCES["stripes"] = Source("stripes", "stripes", "Striped pictures.")
from ltcli.cli.main import main

main()
"""


def test_a_new_source_is_one_file_and_one_line_of_the_table(tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "stripes.py").write_text(STRIPES)
    (tmp_path / "brightness").write_text("200")

    def run(*words):
        command = [sys.executable, "-c", RUN, tmp_path / "modules", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    split = ("split", "stripes", "--val-per-class", "1", "-d", tmp_path)
    done = run(*split)
    assert (done.returncode, done.stderr) == (
        2,
        "error: split: source 'stripes' needs --root\n"
        "hint: name the folder that holds the data set\n",
    )
    done = run(*split, "--root", tmp_path)
    assert done.returncode == 0, done.stderr
    with open_artifact(tmp_path / "split.safetensors") as split:
        assert split.header.info["class_names"] == ["black", "striped"]
        assert split.header.info["profile"] == "natural"
        assert split.tensor("train.images").max() == 200
