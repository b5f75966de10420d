import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ltcli.core.errors import DataError, ParamError, ResourceError
from ltcli.data import image_files, parquet
from ltcli.data.parquet import read_texts
from ltcli.data.source_table import Request

pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
NAMES = {"info": {"features": {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}}}


def encoded(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path, contents, labels, *, plain=False, names=NAMES, image="image", label="label"):
    """Write a file in the form of a repository of the hub."""
    cells = contents if plain else [{"bytes": content, "path": None} for content in contents]
    columns = {image: pyarrow.array(cells, pyarrow.binary() if plain else STRUCT)}
    table = pyarrow.table({**columns, label: labels})
    if names is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)


def repository(root, **options):
    data = root / "data"
    write(data / "train-00000-of-00002.parquet", [encoded(0), encoded(1)], [2, 0], **options)
    write(data / "train-00001-of-00002.parquet", [encoded(2)], [1], **options)
    write(data / "validation-00000-of-00001.parquet", [encoded(3)], [1], **options)
    write(data / "test-00000-of-00001.parquet", [encoded(4)], [0], **options)


def load(root, on_bad_image="fail", **options):
    request = Request("parquet", root, image_size=8, on_bad_image=on_bad_image, options=options)
    return parquet.read(request)


def refused(root, error=DataError, **options):
    with pytest.raises(error) as caught:
        load(root, **options)
    return [str(caught.value), caught.value.hint]


@pytest.mark.parametrize("plain", [False, True])
def test_a_repository_is_read_part_by_part_in_the_order_of_its_files(tmp_path, plain):
    repository(tmp_path, plain=plain)
    pool = load(tmp_path)
    assert (pool.store, pool.class_names) == ("images", ("cat", "dog", "eel"))
    assert pool.train.labels.tolist() == [2, 0, 1]
    assert (pool.val.labels.tolist(), pool.test.labels.tolist()) == ([1], [0])
    for seed, image in enumerate([*pool.train.data, *pool.val.data, *pool.test.data]):
        with Image.open(io.BytesIO(encoded(seed))) as original:
            assert (image.numpy() == np.asarray(original)).all()


@pytest.mark.parametrize("names", [None, {}, {"info": {"features": {"label": {"_type": "Value"}}}}])
def test_without_names_in_the_metadata_the_numbers_are_the_names(tmp_path, names):
    write(tmp_path / "all.parquet", [encoded(0), encoded(1)], [12, 3], names=names)
    pool = load(tmp_path / "all.parquet")
    assert (pool.class_names, pool.train.labels.tolist()) == (("3", "12"), [1, 0])
    assert (pool.val, pool.test) == (None, None)


def test_bad_images_are_counted_named_and_left_out(tmp_path):
    contents = [encoded(0), b"", None, encoded(1), encoded(0)]
    write(tmp_path / "train.parquet", contents, [0, 0, 1, 1, 2])
    line = f"{tmp_path}: number of bad files must be 0, got 3, first train.parquet row 1: is empty"
    assert refused(tmp_path)[0] == line
    pool = load(tmp_path, "skip")
    assert pool.train.labels.tolist() == [0, 1]
    assert torch.equal(pool.train.data[1], load(tmp_path, "skip").train.data[1])
    assert pool.skipped == (
        "train.parquet row 1: is empty",
        "train.parquet row 2: holds no bytes of an image",
        "train.parquet row 4: has the same bytes as train.parquet row 0",
    )


@pytest.mark.parametrize(
    ("image", "label"), [("img", "label"), ("image", "labels"), ("img", "fine_label")]
)
def test_columns_have_the_names_that_the_hub_uses(tmp_path, image, label):
    names = {"info": {"features": {label: {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    path = tmp_path / "train.parquet"
    write(path, [encoded(0), encoded(1)], [1, 0], names=names, image=image, label=label)
    pool = load(path)
    assert (pool.class_names, pool.train.labels.tolist()) == (("cat", "dog"), [1, 0])


def several(path):
    """Write a file with two columns that hold images, two of labels, and one of parts."""
    images = [encoded(seed) for seed in range(4)]
    columns = {
        "image": pyarrow.array(images),
        "mask": pyarrow.array(images[::-1]),
        "image_id": ["a", "b", "c", "d"],
        "label": [0, 1, 1, 0],
        "class": ["cat", "dog", "dog", "cat"],
        "fold": ["train", "validation", "train", "train"],
    }
    pq.write_table(pyarrow.table(columns), path)


def test_columns_are_named_by_options(tmp_path):
    path = tmp_path / "all.parquet"
    several(path)
    line = f"{path}: header must have one of the columns label, labels, class, fine_label, got"
    hint = "say which it is with --label-column"
    assert refused(path) == [f"{line} 'image,mask,image_id,label,class,fold'", hint]
    # The column image_id has the name of a path, and holds no images.
    assert load(path, label_column="class").class_names == ("cat", "dog")
    pool = load(path, label_column="class", path_column="mask")
    with Image.open(io.BytesIO(encoded(3))) as original:
        assert (pool.train.data[0].numpy() == np.asarray(original)).all()
    # Named by its columns alone, in a folder whose files say nothing.
    pool = load(tmp_path, label_column="class", split_column="fold")
    assert (pool.train.labels.tolist(), pool.val.labels.tolist()) == ([0, 1, 0], [1])
    with Image.open(io.BytesIO(encoded(1))) as original:
        assert (pool.val.data[0].numpy() == np.asarray(original)).all()
    assert pool.test is None
    line = f"{path}: must have one column 'part', got 'image,mask,image_id,label,class,fold'"
    assert refused(path, label_column="class", split_column="part")[0] == line
    line = f"{path} row 0: split must be train, val or test, got 'a'"
    assert refused(path, label_column="class", split_column="image_id")[0] == line
    line = f"{path}: column 'image_id' must hold bytes of images, got others"
    hint = "for a table of paths use source csv, with the table saved as CSV"
    assert refused(path, label_column="class", path_column="image_id") == [line, hint]
    (tmp_path / "empty").mkdir()
    line = f"{tmp_path}/empty: must hold a file *.parquet, got none"
    assert refused(tmp_path / "empty", split_column="fold") == [line, None]


def test_a_declared_class_without_images_is_left_out_and_said(tmp_path, caplog):
    write(tmp_path / "train.parquet", [encoded(0), encoded(1)], [2, 0])
    pool = load(tmp_path)
    assert (pool.class_names, pool.train.labels.tolist()) == (("cat", "eel"), [1, 0])
    assert caplog.messages == [f"{tmp_path}: 1 class without images left out: 'dog'"]
    # One with test images alone is a fault.
    write(tmp_path / "test.parquet", [encoded(2)], [1])
    line = f"{tmp_path}: class 'dog' must have at least 1 training image, got 0"
    assert refused(tmp_path) == [line, "it stands in the test part"]


def test_labels_may_be_whole_numbers_written_as_floats(tmp_path):
    write(tmp_path / "train.parquet", [encoded(0), encoded(1)], [10.0, 2.0], names=None)
    pool = load(tmp_path)
    assert (pool.class_names, pool.train.labels.tolist()) == (("2", "10"), [1, 0])


def test_other_columns_are_refused(tmp_path):
    path = tmp_path / "train.parquet"
    write(path, [encoded(0)], [0], label="species")
    line = "header must have one of the columns label, labels, class, fine_label, got"
    hint = "say which it is with --label-column"
    assert refused(path) == [f"{path}: {line} 'image,species'", hint]
    write(path, [encoded(0)], [0], image="photo")
    line = "header must have one of the columns path, file, filename, image, img, image_id, got"
    hint = "say which it is with --path-column"
    assert refused(path) == [f"{path}: {line} 'photo,label'", hint]
    write(path, [encoded(0)], [0.5])
    assert refused(path)[0] == f"{path}: column 'label' must be whole numbers or text, got double"
    write(path, [encoded(0), encoded(1)], [0, None])
    line = "column 'label' must have no empty cells, got 1, first in row 1"
    assert refused(path)[0] == f"{path}: {line}"
    write(path, [encoded(0)], [-1])
    rule = "labels must be from 0 to 2 as there are class names, got '-1'"
    assert refused(path)[0] == f"{path}: {rule}"


def test_labels_may_be_categories(tmp_path):
    path = tmp_path / "train.parquet"
    labels = pyarrow.array(["dog", "cat", "dog"]).dictionary_encode()
    pq.write_table(pyarrow.table({"label": labels}), path)
    assert read_texts(path, "label") == ["dog", "cat", "dog"]


def test_another_file_and_a_damaged_one_are_refused(tmp_path):
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    line, hint = refused(path)
    assert line.startswith(f"{path}: must be a Parquet file, got another: ")
    assert hint is None
    write(path, [encoded(0)] * 50, [0] * 50)
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(200) + content[204:])
    assert refused(path)[0].startswith(f"{path}: column 'image' is damaged: ")


def test_images_that_would_not_fit_are_refused_unread(tmp_path, monkeypatch):
    repository(tmp_path)
    monkeypatch.setattr(image_files, "MAX_BYTES", 5 * 8 * 8 * 3 - 1)
    rule = "decoded images must be at most 959 bytes, got 960 for 5 images"
    hint = "--image-size must be at most 7: lower it"
    assert refused(tmp_path, ResourceError) == [f"{tmp_path}: {rule}", hint]


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    repository(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    rule = "split: Parquet files need pyarrow, which is not installed"
    assert refused(tmp_path, ParamError) == [rule, 'pip install "ltcli[parquet]"']
