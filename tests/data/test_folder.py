import io
import os
import random
import socket
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ltcli.core.errors import DataError, ResourceError
from ltcli.data import image_files
from ltcli.data.folder import list_folders
from ltcli.data.image_files import MAX_FILE_BYTES
from ltcli.data.source_table import Request
from ltcli.data.sources import load_source
from ltcli.data.walk import Found

REPAIR = "repair or remove them, or leave them out with --on-bad-image skip"
OWN_FOLDER = "the images of each class must be in a sub-folder of their own"


def encoded(seed, image_format="PNG", size=(8, 8), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, image_format)
    return file.getvalue()


def write(root, files):
    """Write one image into each path; the seed of its pixels is its rank in the list."""
    for seed, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(seed))


def sound(root):
    """Write two classes with two images each."""
    write(root, ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"])


def load_folder(root, image_size, policy, store="images"):
    return load_source(
        Request("folder", root, store=store, image_size=image_size, on_bad_image=policy)
    )


def refuse(root, policy="fail", image_size=8, error=DataError):
    with pytest.raises(error) as caught:
        load_folder(root, image_size, policy)
    return [str(caught.value), caught.value.hint]


def bad_files(root, count, first):
    return [f"{root}: number of bad files must be 0, got {count}, first {first}", REPAIR]


def test_classes_are_sorted_by_name_and_images_by_path(tmp_path):
    names = ["dog/b.png", "cat/z.png", "cat/deep/er/a.png", "dog/a.PNG", "Zebra/1.png"]
    write(tmp_path, names)
    pool = load_folder(tmp_path, 8, "fail")
    assert pool.class_names == ("Zebra", "cat", "dog")
    expected = ["Zebra/1.png", "cat/deep/er/a.png", "cat/z.png", "dog/a.PNG", "dog/b.png"]
    assert list(pool.train.files) == expected
    assert (pool.train.labels.dtype, pool.train.labels.tolist()) == (torch.int64, [0, 1, 1, 2, 2])
    assert (pool.train.data.dtype, pool.train.data.shape) == (torch.uint8, (5, 8, 8, 3))
    for image, name in zip(pool.train.data, expected, strict=True):
        with Image.open(io.BytesIO(encoded(names.index(name)))) as original:
            assert (image.numpy() == np.asarray(original)).all()
    assert (pool.val, pool.test, pool.skipped) == (None, None, ())


def test_train_and_test_folders_are_the_two_parts(tmp_path):
    write(tmp_path, ["train/cat/1.png", "train/dog/1.png", "test/dog/1.png", "test/cat/9.png"])
    pool = load_folder(tmp_path, 8, "fail")
    assert pool.class_names == ("cat", "dog")
    assert pool.train.files == ("train/cat/1.png", "train/dog/1.png")
    assert pool.test.files == ("test/cat/9.png", "test/dog/1.png")
    assert pool.train.labels.tolist() == pool.test.labels.tolist() == [0, 1]
    assert pool.test.data.shape == (2, 8, 8, 3)


def test_a_train_folder_alone_has_no_test_part(tmp_path):
    sound(tmp_path / "train")
    pool = load_folder(tmp_path, 8, "fail")
    assert (pool.class_names, pool.test) == (("cat", "dog"), None)
    assert pool.train.files[0] == "train/cat/1.png"


def test_train_beside_other_classes_is_a_class(tmp_path):
    write(tmp_path, ["train/1.png", "bus/1.png"])
    assert load_folder(tmp_path, 8, "fail").class_names == ("bus", "train")


def test_images_of_all_sizes_and_formats_become_one_tensor(tmp_path):
    sound(tmp_path)
    kinds = [("jpg", "JPEG"), ("jpeg", "JPEG"), ("bmp", "BMP"), ("gif", "GIF"), ("webp", "WEBP")]
    kinds += [("tif", "TIFF"), ("tiff", "TIFF"), ("ppm", "PPM")]
    for rank, (suffix, image_format) in enumerate(kinds):
        path = tmp_path / "cat" / f"{rank}-new.{suffix}"
        path.write_bytes(encoded(rank + 10, image_format, size=(20 + rank, 30)))
    pool = load_folder(tmp_path, 16, "fail")
    assert pool.train.data.shape == (12, 16, 16, 3)
    assert pool.skipped == ()


def test_the_same_tree_gives_the_same_pool_in_whatever_order_it_was_written(tmp_path):
    names = [f"{label}/{name}.png" for label in "cab" for name in "zyx"]
    contents = {name: encoded(seed) for seed, name in enumerate(names)}
    pools = []
    for order in (1, 2):
        random.Random(order).shuffle(names)
        for name in names:
            path = tmp_path / str(order) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[name])
        pools.append(load_folder(tmp_path / str(order), 8, "fail"))
    assert pools[0].train.files == pools[1].train.files
    assert pools[0].train.data.equal(pools[1].train.data)


def test_a_missing_root_and_a_file_are_refused(tmp_path):
    line = f"{tmp_path}/none: no such folder"
    assert refuse(tmp_path / "none") == [line, "name the folder of images with --root"]
    (tmp_path / "file").write_text("")
    line = f"{tmp_path}/file: root of folder must be a folder, got a file"
    assert refuse(tmp_path / "file") == [line, None]


def test_fewer_than_two_classes_are_refused(tmp_path):
    line = "number of class folders must be at least 2, got"
    assert refuse(tmp_path) == [f"{tmp_path}: {line} 0", OWN_FOLDER]
    write(tmp_path, ["cat/1.png", "1.png"])
    assert refuse(tmp_path) == [f"{tmp_path}: {line} 1", OWN_FOLDER]
    write(tmp_path, ["train/1.png"])
    (tmp_path / "cat").rename(tmp_path / "train" / "cat")
    assert refuse(tmp_path) == [f"{tmp_path}/train: {line} 1", OWN_FOLDER]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_train_val_and_test_folders_are_the_three_parts(tmp_path, caplog, name):
    """The layout of ultralytics, lightly-train, timm and Kaggle."""
    caplog.set_level("INFO")
    names = ["train/cat/1.png", "train/dog/1.png", f"{name}/cat/2.png", "test/dog/3.png"]
    write(tmp_path, names)
    for store in ("images", "files"):
        pool = load_folder(tmp_path, 8, "fail", store)
        assert pool.class_names == ("cat", "dog")
        files = [part.files for part in (pool.train, pool.val, pool.test)]
        assert files == [("train/cat/1.png", "train/dog/1.png"), (names[2],), (names[3],)]
        assert [part.labels.tolist() for part in (pool.val, pool.test)] == [[0], [1]]
        assert (pool.skipped, caplog.messages) == ((), [])


def test_validation_images_without_test_images_are_the_test_part(tmp_path, caplog):
    """The layout of ImageNet, of which papers report the validation images."""
    caplog.set_level("INFO")
    write(tmp_path, ["train/cat/1.png", "train/dog/1.png", "val/dog/2.png", "val/cat/3.png"])
    pool = load_folder(tmp_path, 8, "fail")
    assert (pool.val, pool.test.files) == (None, ("val/cat/3.png", "val/dog/2.png"))
    rule = "its validation images are the test part, as there is no other"
    line = f"split: {tmp_path}: {rule}; validation images are cut from train"
    assert caplog.messages == [line]


@pytest.mark.parametrize("extra", ["unlabeled", "cat", "extra/deep"])
@pytest.mark.parametrize("parts", [["train"], ["train", "test"], ["train", "val", "test"]])
def test_a_third_folder_with_images_is_named_and_no_class(tmp_path, parts, extra):
    for part in parts:
        sound(tmp_path / part)
    write(tmp_path, [f"{extra}/1.png", f"{extra}/2.png"])
    got = f"got '{extra.partition('/')[0]}' with 2 images"
    assert refuse(tmp_path, "skip") == [
        f"{tmp_path}: folders beside train must be val and test, {got}",
        "move it out of this folder; images without labels have no use",
    ]


def test_unlabelled_images_beside_train_and_test_are_refused(tmp_path):
    """STL-10, in whatever depth its images lie."""
    write(tmp_path, ["train/1.png", "test/1.png", "unlabeled/1.png"])
    assert refuse(tmp_path)[0].endswith("must be val and test, got 'unlabeled' with 1 images")


def test_a_third_folder_without_images_is_said(tmp_path):
    for part in ("train", "test"):
        sound(tmp_path / part)
        for file in (tmp_path / part).rglob("*.png"):
            # No test image is a training image.
            file.write_bytes(encoded(len(part)) + file.name.encode() + part.encode())
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "notes.txt").write_text("x")
    pool = load_folder(tmp_path, 8, "fail", "files")
    assert pool.class_names == ("cat", "dog")
    assert pool.skipped == ("docs: is no part of the data set, and has no images",)


def test_two_folders_of_one_part_are_refused(tmp_path):
    for part in ("train", "val", "dev"):
        sound(tmp_path / part)
    assert refuse(tmp_path) == [
        f"{tmp_path}: val images must be in one folder, got 'dev' and 'val'",
        "merge them, or move one out of this folder",
    ]


@pytest.mark.parametrize("names", [["Train", "Test"], ["training", "testing"], ["TRAIN", "Dev"]])
def test_parts_have_other_names_too(tmp_path, names):
    write(tmp_path, [f"{name}/{label}/1.png" for name in names for label in ("cat", "dog")])
    pool = load_folder(tmp_path, 8, "fail")
    files = [part.files[0] for part in (pool.train, pool.test)]
    assert files == [f"{name}/cat/1.png" for name in names]


@pytest.mark.parametrize("names", [["test"], ["dev", "test"]])
def test_parts_without_train_are_not_taken_for_classes(tmp_path, names):
    for name in names:
        sound(tmp_path / name)
    got = " and ".join(f"'{name}'" for name in names)
    assert refuse(tmp_path) == [
        f"{tmp_path}: folders must be named train, val and test, got {got}",
        "rename them, or give the folder that holds the classes as --root",
    ]


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_without_training_images_is_refused_before_any_is_read(tmp_path, part):
    sound(tmp_path / "train")
    write(tmp_path, ["test/cat/7.png", "test/dog/7.png"])
    put(f"{part}/eel/1.png", b"no image")(tmp_path)
    rule = "class 'eel' must have at least 1 training image, got 0"
    assert refuse(tmp_path) == [f"{tmp_path}: {rule}", f"it stands in the {part} part"]


def test_a_class_without_test_or_validation_images_is_taken(tmp_path):
    sound(tmp_path / "train")
    write(tmp_path, ["train/eel/1.png", "test/dog/7.png", "val/cat/7.png"])
    (tmp_path / "test" / "cat").mkdir()
    pool = load_folder(tmp_path, 8, "fail", "files")
    assert pool.class_names == ("cat", "dog", "eel")
    assert (pool.val.labels.tolist(), pool.test.labels.tolist()) == ([0], [1])


def test_one_accented_name_in_two_spellings_is_one_class(tmp_path):
    one, other = "caf\u00e9", "cafe\u0301"
    write(tmp_path, [f"train/{other}/1.png", "train/dog/1.png", f"test/{one}/2.png"])
    pool = load_folder(tmp_path, 8, "fail")
    assert (pool.class_names, pool.test.labels.tolist()) == ((one, "dog"), [0])


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_empty_classes_are_said_and_left_out(tmp_path, policy, caplog):
    sound(tmp_path)
    for name in ("ant", "eel"):
        (tmp_path / name).mkdir()
    (tmp_path / "eel" / "notes.txt").write_text("none yet")
    pool = load_folder(tmp_path, 8, policy)
    assert (pool.class_names, pool.train.labels.tolist()) == (("cat", "dog"), [0, 0, 1, 1])
    assert pool.skipped == ("eel/notes.txt: has no image suffix",)
    assert caplog.messages == [f"{tmp_path}: 2 classes without images left out: 'ant', 'eel'"]


@pytest.mark.parametrize("part", ["", "train"])
def test_fewer_than_two_classes_with_images_are_refused(tmp_path, part):
    write(tmp_path, [f"{part}/cat/1.png"] if part else ["cat/1.png"])
    for name in ("dog", "eel"):
        (tmp_path / part / name).mkdir()
    rule = "number of class folders with images must be at least 2, got 1"
    assert refuse(tmp_path) == [f"{tmp_path}: {rule}", OWN_FOLDER]


def test_a_part_without_class_folders_is_refused(tmp_path):
    sound(tmp_path / "train")
    write(tmp_path, ["test/1.png"])
    rule = "number of class folders must be at least 1, got 0"
    assert refuse(tmp_path) == [f"{tmp_path}/test: {rule}", OWN_FOLDER]


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("caf\u00e9", "cafe\u0301")])
def test_class_names_that_some_systems_take_for_one_are_refused(tmp_path, one, other):
    write(tmp_path, [f"{one}/1.png", f"{other}/2.png"])
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system takes them for one")
    first, second = sorted([one, other])
    assert refuse(tmp_path, "skip") == [
        f"{tmp_path}: class names must differ in more than case, got '{first}' and '{second}'",
        "merge or rename the folders",
    ]


def test_images_that_would_not_fit_in_memory_are_refused_unread(tmp_path, monkeypatch):
    sound(tmp_path)
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    monkeypatch.setattr(image_files, "MAX_BYTES", 4 * 3 * 100)
    assert refuse(tmp_path, image_size=11, error=ResourceError) == [
        f"{tmp_path}: decoded images must be at most 1200 bytes, got 1452 for 4 images",
        "--image-size must be at most 10: lower it, or keep the files with --store files",
    ]
    assert load_folder(tmp_path, 11, "skip", "auto").store == "files"
    assert load_folder(tmp_path, 10, "skip", "auto").store == "images"
    assert len(load_folder(tmp_path, 10, "skip").train.data) == 3


def link(root, path, target):
    (root / path).symlink_to(target)


def make_raw(name):
    def make(root):
        with open(os.fsencode(root) + b"/cat/" + name, "wb") as file:
            file.write(encoded(99))

    return make


def put(name, content):
    def make(root):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return make


def pipe(root):
    os.mkfifo(root / "cat" / "pipe.png")


def unix_socket(root):
    # The whole path of a socket may have about 100 characters only.
    here = os.getcwd()
    os.chdir(root / "cat")
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.png")
    finally:
        os.chdir(here)


def hard_link(root):
    os.link(root / "cat" / "2.png", root / "cat" / "3.png")


def hard_link_across(root):
    os.link(root / "cat" / "2.png", root / "dog" / "3.png")


def copy_across(root):
    (root / "dog" / "3.jpg").write_bytes((root / "cat" / "2.png").read_bytes())


def crossing_links(root):
    link(root, "cat/to-dog", "../dog")
    link(root, "dog/to-cat", "../cat")


def large(root):
    with open(root / "cat" / "large.tif", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)


# Left out under either policy, and nobody misses it: what, its path, its reason.
HARMLESS = {
    "hidden file": (put("cat/.DS_Store", b"x"), "cat/.DS_Store: is hidden"),
    "AppleDouble": (put("cat/._1.png", b"x"), "cat/._1.png: is hidden"),
    "hidden folder": (put("cat/.git/1.png", encoded(9)), "cat/.git: is hidden"),
    ".git at the top": (put(".git/HEAD", b"x"), ".git: is hidden"),
    "__MACOSX": (put("__MACOSX/1.png", b"x"), "__MACOSX: is left by an operating system"),
    "Thumbs.db": (put("cat/Thumbs.db", b"x"), "cat/Thumbs.db: is left by an operating system"),
    "desktop.ini": (put("desktop.ini", b"x"), "desktop.ini: is left by an operating system"),
    "text": (put("cat/labels.csv", b"x"), "cat/labels.csv: has no image suffix"),
    "odd suffix": (put("cat/1.foo", b"x"), "cat/1.foo: is no image of a known format"),
    "text without suffix": (put("cat/README", b"x"), "cat/README: has no image suffix"),
    "other suffix": (put("cat/1.svg", b"<svg/>"), "cat/1.svg: has no image suffix"),
    "loose image": (put("loose.png", encoded(9)), "loose.png: is not in a class folder"),
    "pipe": (pipe, "cat/pipe.png: is a pipe, socket or device"),
    "socket": (unix_socket, "cat/socket.png: is a pipe, socket or device"),
    "linked file": (
        lambda root: link(root, "cat/00.png", "1.png"),
        "cat/00.png: is the same file as cat/1.png",
    ),
    "linked device": (
        lambda root: link(root, "cat/zero.png", "/dev/zero"),
        "cat/zero.png: is a pipe, socket or device",
    ),
    "dangling link to text": (
        lambda root: link(root, "cat/9.txt", "nowhere"),
        "cat/9.txt: has no image suffix",
    ),
    "self loop": (lambda root: link(root, "cat/loop", "."), "cat/loop: is the same folder as cat"),
    "loop to the root": (
        lambda root: link(root, "cat/loop", ".."),
        "cat/loop: is the same folder as .",
    ),
    "loop at the root": (lambda root: link(root, "loop", "."), "loop: is the same folder as ."),
    "hard link": (hard_link, "cat/3.png: is the same file as cat/2.png"),
    "newline in text": (put("cat/a\nb.txt", b"x"), "cat/a\\nb.txt: has no image suffix"),
}


@pytest.mark.parametrize("policy", ["fail", "skip"])
@pytest.mark.parametrize("name", HARMLESS)
def test_what_nobody_misses_is_left_out_with_a_reason(tmp_path, name, policy):
    sound(tmp_path)
    make, line = HARMLESS[name]
    make(tmp_path)
    pool = load_folder(tmp_path, 8, policy)
    assert pool.train.files == ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    assert pool.class_names == ("cat", "dog")
    assert pool.skipped == (line,)


# Refused, or left out if asked for: what, its path and reason.
CUT = encoded(9, "JPEG", (40, 40))
BAD = {
    "empty file": (put("cat/0.png", b""), "cat/0.png: is empty"),
    "text as jpg": (put("cat/0.jpg", b"hello " * 99), "cat/0.jpg: is no image of a known format"),
    "cut by half": (
        put("cat/0.bmp", encoded(9, "BMP")[:100]),
        "cat/0.bmp: is damaged: image file is truncated (22 bytes not processed)",
    ),
    "cut by a byte": (
        put("cat/0.bmp", encoded(9, "BMP")[:-1]),
        "cat/0.bmp: is damaged: image file is truncated (23 bytes not processed)",
    ),
    "bomb": (
        put("cat/0.ppm", b"P6 20000 20000 255\n"),
        "cat/0.ppm: has more than 64000000 pixels (--max-pixels)",
    ),
    "no suffix": (put("cat/0", b"x"), "cat/0: is no image of a known format"),
    "raw photo": (put("cat/0.CR3", b"x"), "cat/0.CR3: is no image of a known format"),
    "damage under an odd suffix": (
        put("cat/0.foo", b"P6 x y 255\n"),
        "cat/0.foo: is damaged: invalid literal for int() with base 10: b'x'",
    ),
    "dangling link": (
        lambda root: link(root, "cat/9.png", "nowhere"),
        "cat/9.png: is a link that leads nowhere",
    ),
    "link to itself": (
        lambda root: link(root, "self", "self"),
        "self: is a link that leads nowhere",
    ),
    "link to another class": (
        lambda root: link(root, "cat/to-dog", "../dog"),
        "cat/to-dog: is the same folder as dog",
    ),
    "link to an image of another class": (
        lambda root: link(root, "cat/01.png", "../dog/1.png"),
        "cat/01.png: is the same file as dog/1.png",
    ),
    "large": (large, f"cat/large.tif: is larger than {MAX_FILE_BYTES} bytes"),
    "name that is not UTF-8": (
        make_raw(b"0\xff.png"),
        "cat/0\\udcff.png: has a name that is not UTF-8",
    ),
    "newline in a name": (put("cat/0\n.png", b""), "cat/0\\n.png: is empty"),
    "escape in a name": (put("cat/0\x1b[2J.png", b""), "cat/0\\u001b[2J.png: is empty"),
    "copy in another class": (copy_across, "dog/3.jpg: has the same bytes as cat/2.png"),
    "hard link in another class": (hard_link_across, "dog/3.png: is the same file as cat/2.png"),
    "linked class": (lambda root: link(root, "eel", "dog"), "eel: is the same folder as dog"),
    "class with a control character": (
        put("eel\x07/1.png", encoded(9)),
        "eel\\u0007: is a class name that cannot be printed",
    ),
    "too deep": (
        put("cat/" + "d/" * 17 + "1.png", encoded(9)),
        "cat" + "/d" * 17 + ": is more than 16 folders below its class",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_or_left_out_as_asked(tmp_path, name):
    sound(tmp_path)
    make, line = BAD[name]
    make(tmp_path)
    assert refuse(tmp_path) == bad_files(tmp_path, 1, line)
    pool = load_folder(tmp_path, 8, "skip")
    assert pool.train.files == ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    assert pool.train.data.shape == (4, 8, 8, 3)
    assert pool.train.labels.tolist() == [0, 0, 1, 1]
    assert pool.skipped == (line,)


GOOD = {
    "upper-case suffix": ("cat/0.PNG", encoded(9)),
    "wrong suffix": ("cat/0.jpg", encoded(9)),
    "emoji": ("cat/\U0001f408.png", encoded(9)),
    "255 bytes": ("cat/" + "x" * 251 + ".png", encoded(9)),
    "newline": ("cat/a\nb.png", encoded(9)),
    "spaces and quotes": ("cat/ a'b\".png", encoded(9)),
    "as deep as allowed": ("cat/" + "d/" * 16 + "1.png", encoded(9)),
    "cmyk": ("cat/0.jpg", encoded(9, "JPEG", mode="CMYK")),
    "palette": ("cat/0.png", encoded(9, mode="P")),
    "grey with alpha": ("cat/0.png", encoded(9, mode="LA")),
    "one bit": ("cat/0.png", encoded(9, mode="1")),
    "copy within a class": ("cat/copy.png", encoded(0)),
    "no suffix": ("cat/0", encoded(9)),
    "odd suffix": ("cat/0.jpg_large", encoded(9, "JPEG")),
    "avif": ("cat/0.avif", encoded(9, "AVIF")),
    "jpeg 2000": ("cat/0.jp2", encoded(9, "JPEG2000")),
    "tga": ("cat/0.tga", encoded(9, "TGA")),
    "ico": ("cat/0.ico", encoded(9, "ICO", (16, 16))),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_unusual_but_sound_image_is_taken(tmp_path, name):
    sound(tmp_path)
    path, content = GOOD[name]
    put(path, content)(tmp_path)
    pool = load_folder(tmp_path, 8, "fail")
    assert path in pool.train.files
    assert (len(pool.train.data), pool.skipped) == (5, ())
    "\0".join(pool.train.files).encode()


def test_a_copy_of_a_training_image_among_the_test_images_is_bad(tmp_path):
    write(tmp_path, ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png"])
    put("test/cat/copy.png", encoded(0))(tmp_path)
    line = "test/cat/copy.png: has the same bytes as train/cat/1.png"
    assert refuse(tmp_path) == bad_files(tmp_path, 1, line)
    pool = load_folder(tmp_path, 8, "skip")
    assert (len(pool.train.data), len(pool.test.data), pool.skipped) == (2, 2, (line,))


def test_crossing_links_end_and_no_image_is_seen_twice(tmp_path):
    sound(tmp_path)
    crossing_links(tmp_path)
    pool = load_folder(tmp_path, 8, "skip")
    assert len(pool.train.files) == 4
    assert pool.skipped == (
        "cat/to-dog: is the same folder as dog",
        "dog/to-cat: is the same folder as cat",
    )
    assert refuse(tmp_path) == bad_files(tmp_path, 2, pool.skipped[0])


def test_links_to_folders_and_files_are_followed(tmp_path):
    store = tmp_path / "store"
    write(store, ["a/1.png", "a/deep/2.png", "b/3.png", "c.dat/4"])
    root = tmp_path / "root"
    (root / "dog").mkdir(parents=True)
    link(root, "cat", store / "a")
    link(root, "dog/b.png", store / "b" / "3.png")
    link(root, "dog/more", store / "c.dat")
    pool = load_folder(root, 8, "fail")
    assert pool.train.files == ("cat/1.png", "cat/deep/2.png", "dog/b.png", "dog/more/4")
    assert (pool.train.labels.tolist(), pool.skipped) == ([0, 0, 1, 1], ())


def test_parts_may_be_links(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / "store", [f"{part}/cat/1.png", f"{part}/dog/1.png"])
        (tmp_path / "root").mkdir(exist_ok=True)
        link(tmp_path, f"root/{part}", tmp_path / "store" / part)
    pool = load_folder(tmp_path / "root", 8, "fail", "files")
    assert pool.test.files == ("test/cat/1.png", "test/dog/1.png")


def test_a_test_image_that_is_a_link_to_a_training_image_is_bad(tmp_path):
    write(tmp_path, ["train/cat/1.png", "train/dog/1.png", "test/cat/0.png"])
    link(tmp_path, "test/cat/9.png", tmp_path / "train" / "cat" / "1.png")
    line = "test/cat/9.png: is the same file as train/cat/1.png"
    for store in ("images", "files"):
        assert load_folder(tmp_path, 8, "skip", store).skipped == (line,)
    assert refuse(tmp_path) == bad_files(tmp_path, 1, line)


def test_everything_at_once_is_counted_and_listed(tmp_path):
    sound(tmp_path)
    start = time.monotonic()
    made = [*HARMLESS.values(), *BAD.values()]
    # Some of them have the same path or the same bytes; the last one stays.
    for make, _ in made:
        try:
            make(tmp_path)
        except FileExistsError:
            continue
    pool = load_folder(tmp_path, 8, "skip")
    assert pool.train.files == ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    listed = [line.split(": ")[0] for line in pool.skipped]
    assert sorted(listed) == sorted({line.split(": ")[0] for _, line in made})
    assert len(listed) >= 30
    line, hint = refuse(tmp_path)
    first = "cat/0: is no image of a known format"
    assert line == f"{tmp_path}: number of bad files must be 0, got 20, first {first}"
    assert hint == REPAIR
    # A pipe or a device that was opened would hold this up for ever.
    assert time.monotonic() - start < 60


def test_a_class_that_has_bad_files_only_is_empty_when_they_are_skipped(tmp_path, caplog):
    sound(tmp_path)
    write(tmp_path, ["eel/1.png", "eel/2.png"])
    make_raw(b"\xff.png")(tmp_path)
    for name in ("1.png", "2.png"):
        (tmp_path / "cat" / name).unlink()
    line = "cat/\\udcff.png: has a name that is not UTF-8"
    assert refuse(tmp_path) == bad_files(tmp_path, 1, line)
    caplog.clear()
    pool = load_folder(tmp_path, 8, "skip")
    assert (pool.class_names, pool.skipped) == (("dog", "eel"), (line,))
    assert caplog.messages == [f"{tmp_path}: 1 class without images left out: 'cat'"]


def test_what_may_not_be_read_is_bad(tmp_path):
    sound(tmp_path)
    (tmp_path / "cat" / "1.png").chmod(0)
    if os.access(tmp_path / "cat" / "1.png", os.R_OK):
        pytest.skip("this user reads everything")
    line = "cat/1.png: cannot be read: permission denied"
    assert refuse(tmp_path) == bad_files(tmp_path, 1, line)
    inner = tmp_path / "dog" / "inner"
    inner.mkdir(mode=0)
    pool = load_folder(tmp_path, 8, "skip")
    assert pool.skipped == (line, "dog/inner: cannot be listed: permission denied")
    inner.chmod(0o700)


def test_folders_are_listed_by_name(tmp_path):
    for name in ("b", "B", "a", ".c"):
        (tmp_path / "top" / name).mkdir(parents=True)
    seen = Found({})
    assert list_folders(tmp_path, "top", seen) == ["B", "a", "b"]
    assert [str(left) for left in seen.harmless] == ["top/.c: is hidden"]


def test_a_folder_of_artifacts_is_no_class(tmp_path):
    names = ("a/1.png", "art/.split.safetensors.lock", "b/2.png", "b/own.safetensors")
    for name in (*names, "c/deep/3.png", "c/own.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    seen = Found({})
    assert list_folders(tmp_path, "", seen) == ["a", "b", "c"]
    assert list(map(str, seen.harmless)) == ["art: holds artifacts and no images"]
    assert seen.bad == []
