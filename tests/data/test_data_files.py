import numpy as np
import pytest

from ltcli.core.errors import DataError
from ltcli.data.data_files import find_shards, fingerprint


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def refused(root):
    with pytest.raises(DataError) as caught:
        find_shards(root, (".npz", ".csv"))
    return [str(caught.value), caught.value.hint]


def test_the_start_of_a_name_says_the_part(tmp_path):
    names = ["train-00001-of-2.npz", "train-00000-of-2.npz", "train.csv", "README.md"]
    names += ["deep/validation-0.npz", "val_1.npz", "test.npz"]
    touch(tmp_path, *names)
    shards = find_shards(tmp_path, (".npz", ".csv"))
    assert {part: [path.name for path in paths] for part, paths in shards.items()} == {
        "train": ["train-00000-of-2.npz", "train-00001-of-2.npz", "train.csv"],
        "val": ["validation-0.npz", "val_1.npz"],
        "test": ["test.npz"],
    }


def test_links_and_hidden_files_are_passed_over(tmp_path):
    root = tmp_path / ".hidden" / "data"
    touch(root, "train.csv", ".ipynb_checkpoints/train-checkpoint.csv", "__MACOSX/train.csv")
    (root / "train-copy.csv").symlink_to(root / "train.csv")
    assert find_shards(root, (".csv",)) == {"train": [root / "train.csv"]}


def test_links_to_files_and_folders_are_followed(tmp_path):
    """The cache of the Hugging Face hub: names that are links to files named by their digest."""
    touch(tmp_path, "blobs/0a1b", "blobs/2c3d", "more/test.csv")
    (tmp_path / "data").mkdir()
    for name, target in (("train-0.csv", "blobs/0a1b"), ("validation-0.csv", "blobs/2c3d")):
        (tmp_path / "data" / name).symlink_to(tmp_path / target)
    (tmp_path / "data" / "extra").symlink_to(tmp_path / "more")
    assert find_shards(tmp_path / "data", (".csv",)) == {
        "train": [tmp_path / "data" / "train-0.csv"],
        "val": [tmp_path / "data" / "validation-0.csv"],
        "test": [tmp_path / "data" / "extra" / "test.csv"],
    }


def test_validation_files_are_the_test_part_where_there_is_no_other(tmp_path, caplog):
    caplog.set_level("INFO")
    touch(tmp_path, "train.csv", "validation.csv")
    assert find_shards(tmp_path, (".csv",)) == {
        "train": [tmp_path / "train.csv"],
        "test": [tmp_path / "validation.csv"],
    }
    rule = "its validation images are the test part, as there is no other"
    line = f"split: {tmp_path}: {rule}; validation images are cut from train"
    assert caplog.messages == [line]


def test_one_file_is_the_training_part_whatever_its_name(tmp_path):
    touch(tmp_path, "test.npz")
    assert find_shards(tmp_path / "test.npz", (".npz",)) == {"train": [tmp_path / "test.npz"]}


def test_what_says_no_part_is_refused(tmp_path):
    root = tmp_path / "none"
    assert refused(root) == [f"{root}: no such file or folder", "name the data set with --root"]
    line = f"{tmp_path}: must hold a file train*.npz or train*.csv, got none"
    assert refused(tmp_path) == [line, None]
    touch(tmp_path, "a.txt", "testing.npz")
    assert refused(tmp_path / "a.txt") == [
        f"{tmp_path}/a.txt: suffix must be one of .npz, .csv",
        None,
    ]
    rule = "file name must start with train, validation, val or test"
    assert refused(tmp_path) == [f"{tmp_path}/testing.npz: {rule}", "rename the file"]


def test_a_folder_is_known_by_names_and_sizes(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"1234")
    first = fingerprint("folder", tmp_path, {})
    (tmp_path / "cat" / "1.png").write_bytes(b"4321")
    assert fingerprint("folder", tmp_path, {}) == first
    (tmp_path / "cat" / "1.png").write_bytes(b"12345")
    assert fingerprint("folder", tmp_path, {}) != first
    assert list(first) == ["folder"]


def test_images_behind_links_count(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "store")
    first = fingerprint("folder", tmp_path / "root", {})
    (tmp_path / "store" / "1.png").write_bytes(b"1234")
    assert fingerprint("folder", tmp_path / "root", {}) != first


def test_what_is_left_out_of_a_folder_does_not_count(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"1234")
    first = fingerprint("folder", tmp_path, {})
    for name in (".DS_Store", ".cache/1.png", "notes.txt", "split.safetensors", "__MACOSX/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "cat" / "link.png").symlink_to(tmp_path / "cat" / "1.png")
    assert fingerprint("folder", tmp_path, {}) == first
    for name in ("2.pgm", "bare", "odd.foo"):
        before = fingerprint("folder", tmp_path, {})
        (tmp_path / "cat" / name).write_bytes(b"P5 1 1 255 x")
        assert fingerprint("folder", tmp_path, {}) != before


def test_lists_are_known_by_content_and_role_and_not_by_name(tmp_path):
    for name, text in (("a", "x 0\n"), ("b", "y 0\n"), ("c", "x 0\n")):
        (tmp_path / name).write_text(text)
    a, b, c = (str(tmp_path / name) for name in "abc")
    first = fingerprint("list", tmp_path, {"train_list": a, "test_list": b})
    assert fingerprint("list", tmp_path / "other", {"train_list": c, "test_list": b}) == first
    assert fingerprint("list", tmp_path, {"train_list": b, "test_list": a}) != first
    assert fingerprint("list", tmp_path, {"train_list": a, "val_list": b}) != first
    (tmp_path / "b").write_text("y 1\n")
    assert fingerprint("list", tmp_path, {"train_list": a, "test_list": b}) != first


@pytest.mark.parametrize("name", ["embeddings", "parquet"])
def test_files_of_samples_are_known_by_content(tmp_path, name):
    first = None
    for value in (1.0, 2.0):
        np.save(tmp_path / "train.parquet", np.full(3, value))
        (tmp_path / "train.parquet.npy").rename(tmp_path / "train.parquet")
        made = fingerprint(name, tmp_path, {})
        assert made == fingerprint(name, tmp_path, {})
        assert made != first
        first = made
    assert fingerprint(name, tmp_path / "train.parquet", {}) != first


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_sets_of_one_form_need_none(tmp_path, name):
    (tmp_path / "file").touch()
    assert fingerprint(name, tmp_path, {}) == {}


def test_what_is_missing_adds_nothing(tmp_path):
    missing = fingerprint("imagenet-lt", tmp_path, {})
    (tmp_path / "ImageNet_LT_val.txt").write_text("a 0\n")
    assert fingerprint("imagenet-lt", tmp_path, {}) != missing
