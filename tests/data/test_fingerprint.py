import numpy as np
import pytest

from ltcli.data.fingerprint import fingerprint


def test_a_folder_is_known_by_names_and_sizes(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"1234")
    first = fingerprint("folder", tmp_path, {})
    (tmp_path / "cat" / "1.png").write_bytes(b"4321")
    assert fingerprint("folder", tmp_path, {}) == first
    (tmp_path / "cat" / "1.png").write_bytes(b"12345")
    assert fingerprint("folder", tmp_path, {}) != first
    assert list(first) == ["folder"]


def test_what_is_left_out_of_a_folder_does_not_count(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"1234")
    first = fingerprint("folder", tmp_path, {})
    for name in (".DS_Store", ".cache/1.png", "notes.txt", "split.safetensors", "__MACOSX/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "cat" / "link.png").symlink_to(tmp_path / "cat" / "1.png")
    assert fingerprint("folder", tmp_path, {}) == first
    (tmp_path / "cat" / "2.pgm").write_bytes(b"x")
    assert fingerprint("folder", tmp_path, {}) != first


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
