import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from ltcli.core.errors import DataError, ResourceError
from ltcli.data import image_files
from ltcli.data.formats import BadImageError
from ltcli.data.image_files import MAX_FILE_BYTES, load_files, look_at_bits, read_file
from ltcli.data.listed import Listed, Rows
from ltcli.data.source_table import Request

REPAIR = "repair or remove them, or leave them out with --on-bad-image skip"


def encoded(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows(*pairs):
    return Rows([file for file, _ in pairs], np.array([label for _, label in pairs], np.int64))


@pytest.fixture
def listed(tmp_path):
    parts = {
        "train": rows(("b c.png", 1), ("a.png", 0), ("d/e.png", 1)),
        "val": rows(("v.png", 0)),
        "test": rows(("t.png", 1)),
    }
    for seed, file in enumerate(file for part in parts.values() for file in part.files):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(encoded(seed))
    return Listed(("cat", "dog"), parts)


def load(root, listed, store="files", on_bad_image="fail", **options):
    options |= {"store": store, "image_size": 8, "on_bad_image": on_bad_image}
    return load_files(Request("folder", root, **options), listed)


def test_files_are_kept_with_their_sizes_and_not_read(tmp_path, listed, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"no image")
    monkeypatch.setattr(image_files, "read_file", None)
    pool = load(tmp_path, listed)
    assert (pool.store, pool.class_names) == ("files", ("cat", "dog"))
    assert pool.train.files == ("b c.png", "a.png", "d/e.png")
    assert pool.train.data.dtype == torch.int64
    sizes = [os.path.getsize(tmp_path / file) for file in pool.train.files]
    assert pool.train.data.tolist() == sizes
    assert (pool.val.files, pool.val.labels.tolist()) == (("v.png",), [0])
    assert (pool.test.files, pool.test.labels.tolist()) == (("t.png",), [1])


def test_images_are_decoded_where_they_fit(tmp_path, listed, monkeypatch):
    pool = load(tmp_path, listed, "auto")
    assert pool.store == "images"
    for seed, image in enumerate([*pool.train.data, *pool.val.data, *pool.test.data]):
        with Image.open(io.BytesIO(encoded(seed))) as original:
            assert (image.numpy() == np.asarray(original)).all()
    monkeypatch.setattr(image_files, "MAX_BYTES", 5 * 8 * 8 * 3)
    assert load(tmp_path, listed, "auto").store == "images"
    monkeypatch.setattr(image_files, "MAX_BYTES", 5 * 8 * 8 * 3 - 1)
    assert load(tmp_path, listed, "auto").store == "files"
    with pytest.raises(ResourceError) as caught:
        load(tmp_path, listed, "images")
    rule = "decoded images must be at most 959 bytes, got 960 for 5 images"
    assert str(caught.value) == f"{tmp_path}: {rule}"
    remedy = "--image-size must be at most 7: lower it, or keep the files with --store files"
    assert caught.value.hint == remedy


def replaced(make):
    def change(root):
        (root / "a.png").unlink()
        make(root / "a.png")

    return change


def large(path):
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)


# How a file is made bad, and its reason if it is only looked at, and if it is decoded.
BAD = {
    "missing": (lambda _path: None, *["cannot be read: no such file or directory"] * 2),
    "empty": (lambda path: path.touch(), *["is empty"] * 2),
    "large": (large, *[f"is larger than {MAX_FILE_BYTES} bytes"] * 2),
    "folder": (lambda path: path.mkdir(), *["cannot be read: not a regular file"] * 2),
    "pipe": (os.mkfifo, *["cannot be read: not a regular file"] * 2),
    "dangling link": (
        lambda path: path.symlink_to("none"),
        *["cannot be read: no such file or directory"] * 2,
    ),
    "link to a pipe": (
        lambda path: (os.mkfifo(path.parent / "pipe"), path.symlink_to("pipe")),
        *["cannot be read: not a regular file"] * 2,
    ),
}


@pytest.mark.parametrize("store", ["files", "images"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_or_left_out_as_asked(tmp_path, listed, name, store):
    make, looked_at, decoded = BAD[name]
    replaced(make)(tmp_path)
    line = f"a.png: {looked_at if store == 'files' else decoded}"
    with pytest.raises(DataError) as caught:
        load(tmp_path, listed, store)
    rule = f"number of bad files must be 0, got 1, first {line}"
    assert [str(caught.value), caught.value.hint] == [f"{tmp_path}: {rule}", REPAIR]
    pool = load(tmp_path, listed, store, "skip")
    assert pool.train.files == ("b c.png", "d/e.png")
    assert pool.train.labels.tolist() == [1, 1]
    assert (len(pool.train.data), pool.skipped) == (2, (line,))


def test_all_bad_files_are_counted_and_the_first_by_path_is_named(tmp_path, listed):
    for path in ("t.png", "d/e.png", "b c.png"):
        (tmp_path / path).unlink()
    with pytest.raises(DataError) as caught:
        load(tmp_path, listed)
    first = "b c.png: cannot be read: no such file or directory"
    rule = f"number of bad files must be 0, got 3, first {first}"
    assert str(caught.value) == f"{tmp_path}: {rule}"


@pytest.mark.parametrize("store", ["images", "files"])
def test_a_copy_under_another_class_or_in_another_part_is_bad(tmp_path, listed, store):
    (tmp_path / "d" / "e.png").write_bytes(encoded(0))
    assert load(tmp_path, listed, store, verify=True).skipped == ()
    (tmp_path / "a.png").write_bytes(encoded(0))
    (tmp_path / "t.png").write_bytes(encoded(0))
    pool = load(tmp_path, listed, store, "skip", verify=True)
    assert pool.skipped == (
        "a.png: has the same bytes as b c.png",
        "t.png: has the same bytes as b c.png",
    )
    assert (pool.train.files, pool.test.files) == (("b c.png", "d/e.png"), ())
    with pytest.raises(DataError) as caught:
        load(tmp_path, listed, store, verify=True)
    rule = "number of bad files must be 0, got 2, first a.png: has the same bytes as b c.png"
    assert [str(caught.value), caught.value.hint] == [f"{tmp_path}: {rule}", REPAIR]
    # What is bad itself is no original.
    (tmp_path / "b c.png").write_bytes(b"no image")
    skipped = load(tmp_path, listed, store, "skip", verify=True).skipped
    assert skipped[1:] == (
        "d/e.png: has the same bytes as a.png",
        "t.png: has the same bytes as a.png",
    )


def refuse_file(path):
    with pytest.raises(BadImageError) as caught:
        read_file(path)
    return str(caught.value)


def test_a_regular_file_is_read_whole(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 999)
    assert read_file(tmp_path / "file") == bytes(range(256)) * 999


def test_a_file_that_grows_while_it_is_read_has_another_size_than_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.setattr(image_files, "file_size", lambda _path: 3)
    assert read_file(tmp_path / "file") == b"cont"


def test_links_are_followed(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"content"


def test_what_took_the_place_of_a_file_since_it_was_listed_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    assert refuse_file(tmp_path / "link") == "cannot be read: not a regular file"
    assert refuse_file(tmp_path / "pipe") == "cannot be read: not a regular file"
    assert refuse_file(tmp_path) == "cannot be read: not a regular file"
    assert refuse_file(tmp_path / "none") == "cannot be read: no such file or directory"


def grey(most):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), most, np.uint16)).save(file, "PNG")
    return file.getvalue()


def test_values_of_fewer_bits_than_their_files_are_said(tmp_path, listed, caplog):
    (tmp_path / "a.png").write_bytes(grey(65535))
    load(tmp_path, listed, "images")
    assert caplog.messages == []
    (tmp_path / "v.png").write_bytes(grey(4095))
    (tmp_path / "t.png").write_bytes(grey(4000))
    load(tmp_path, listed, "images")
    found = "2 hold 12-bit values, 1 hold 16-bit values"
    rule = "each is scaled by the range of these"
    assert caplog.messages == [f"split: {tmp_path}: of the 16-bit images, {found}; {rule}"]


@pytest.mark.parametrize(("number", "seen"), [(2, 2), (64, 64), (65, 33), (200, 50)])
def test_some_files_are_looked_at_where_none_is_decoded(tmp_path, caplog, number, seen):
    for name in range(number):
        (tmp_path / f"{name}.png").write_bytes(grey(255 if name else 4095))
    (tmp_path / "0.png").write_bytes(b"no image")
    look_at_bits(tmp_path, [f"{name}.png" for name in range(number)])
    found = f"among {seen} files looked at, {seen - 1} hold 8-bit values"
    rule = "each is scaled by the range of these"
    assert caplog.messages == [f"split: {tmp_path}: of the 16-bit images {found}; {rule}"]


@pytest.mark.parametrize("store", ["images", "files"])
def test_larger_images_are_taken_where_wanted(tmp_path, listed, store):
    options = {"store": store, "on_bad_image": "skip", "verify": True}
    pool = load(tmp_path, listed, **options, max_pixels=63)
    assert pool.skipped[0] == "a.png: has 8 x 8 pixels, more than 63 (--max-pixels)"
    assert load(tmp_path, listed, **options, max_pixels=64).skipped == ()
