"""split of tables as people have them: columns, paths and names, by the command line."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from ltcli.artifacts.store import open_artifact

CLASSES = {"cat": 6, "dog": 4}


def load(folder):
    with open_artifact(folder / "split.safetensors") as artifact:
        return artifact.load("*"), artifact.header


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def rows(tmp_path):
    """Path and class of images below tmp_path/photos."""
    listed = [(f"{name}/{n}.png", name) for name, count in CLASSES.items() for n in range(count)]
    for seed, (path, _) in enumerate(listed):
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / path).write_bytes(png(seed))
    return listed


def table(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_competition_gives_ids_and_a_folder(ltcli, rows, tmp_path):
    """Kaggle: a table id,label, and a folder of files with these ids."""
    ids = [(path.removesuffix(".png").replace("/", "_"), name) for path, name in rows]
    for (path, _), (number, _) in zip(rows, ids, strict=True):
        (tmp_path / "photos" / path).rename(tmp_path / "photos" / f"{number}.png")
    path = table(tmp_path / "train.csv", ["id", "label"], ids)
    args = ["split", "csv", "--root", tmp_path / "photos", "--table", path, "-d", tmp_path]
    done = ltcli(*args)
    names = "path, file, filename, image, img, image_id"
    assert (done.code, done.lines[-2:]) == (
        5,
        [
            f"error: {path}: header must have one of the columns {names}, got 'id,label'",
            "hint: say which it is with --path-column",
        ],
    )
    done = ltcli(*args, "--path-column", "id")
    assert (done.code, done.lines[-2:]) == (
        5,
        [
            f"error: {path}:2: paths must lead to a file below the root, got 'cat_0'",
            "hint: --suffix .png makes it 'cat_0.png'",
        ],
    )
    done = ltcli(*args, "--path-column", "id", "--suffix", ".png")
    assert done.code == 0, done.err
    tensors, header = load(tmp_path)
    assert header.info["class_names"] == ["cat", "dog"]
    assert {header.parameters[key] for key in ("path_column", "suffix")} == {"id", ".png"}
    files = bytes(tensors["files"].tolist()).decode().split("\0")
    assert sorted(files) == [f"{number}.png" for number, _ in sorted(ids)]


def test_a_wrong_prefix_names_the_line_and_the_path(ltcli, rows, tmp_path):
    path = table(
        tmp_path / "a.csv", ["file", "class"], [(f"photos/{path}", name) for path, name in rows]
    )
    root = tmp_path / "photos"
    done = ltcli("split", "csv", "--root", root, "--table", path, "-d", tmp_path)
    line = f"{path}:2: paths must lead to a file below the root, got 'photos/cat/0.png'"
    hint = f"write 'cat/0.png', relative to {root}"
    assert (done.code, done.lines[-2:]) == (5, [f"error: {line}", f"hint: {hint}"])


@pytest.mark.parametrize(
    ("image", "label"), [("img", "label"), ("image", "labels"), ("img", "fine_label")]
)
def test_data_sets_of_the_hub_need_no_names_of_columns(ltcli, tmp_path, image, label):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    features = {label: {"names": ["cat", "gnu", "dog"], "_type": "ClassLabel"}}
    labels = [0] * 6 + [2] * 4
    columns = {
        image: [{"bytes": png(seed), "path": None} for seed in range(10)],
        label: labels,
        "coarse_label": [0] * 10,
    }
    made = pyarrow.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    (tmp_path / "hub").mkdir()
    parquet.write_table(made, tmp_path / "hub" / "train-00000-of-00001.parquet")
    done = ltcli("split", "parquet", "--root", tmp_path / "hub", "-d", tmp_path)
    assert done.code == 0, done.err
    _, header = load(tmp_path)
    assert header.info["class_names"] == ["cat", "dog"]
    rule = "1 class without images left out: 'gnu'"
    assert f"{tmp_path}/hub: {rule}" in done.err.splitlines()


def test_names_of_files_stay_with_their_features(ltcli, tmp_path):
    labels = np.repeat(["cat", "dog"], 12)
    features = np.arange(24, dtype=np.float32)[:, None] + np.float32(0.5)
    files = [f"p/{number}.jpg" for number in range(24)]
    np.savez(tmp_path / "x.npz", X=features, y=labels, files=files)
    keys = ("--features-key", "X", "--labels-key", "y", "--val-per-class", "2")
    done = ltcli("split", "embeddings", "--root", tmp_path / "x.npz", *keys, "-d", tmp_path)
    assert done.code == 0, done.err
    tensors, header = load(tmp_path)
    assert (header.info["store"], header.parameters["labels_key"]) == ("features", "y")
    found = bytes(tensors["files"].tolist()).decode().split("\0")
    numbers = [tensors[f"{part}.features"] for part in ("train", "val", "test")]
    whole = [int(number) for part in numbers for number in part.flatten()]
    assert found == [f"p/{number}.jpg" for number in whole]
    assert ltcli("pretrain", "--epochs", "1", "-d", tmp_path).code == 0


def test_names_in_another_form_of_unicode_are_the_same_classes(ltcli, rows, tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    written = [(path, {"cat": apart, "dog": "tea"}[name]) for path, name in rows]
    path = table(tmp_path / "a.csv", ["path", "label"], [(*written[0][:1], composed), *written[1:]])
    args = ("--root", tmp_path / "photos", "--table", path, "-d", tmp_path)
    assert ltcli("split", "csv", *args).code == 0
    _, header = load(tmp_path)
    assert header.info["class_names"] == [composed, "tea"]


def test_options_of_other_sources_are_refused(ltcli, tmp_path):
    args = ("--root", tmp_path, "-d", tmp_path)
    done = ltcli("split", "folder", *args, "--path-column", "x")
    line = "error: split: source 'folder' does not read --path-column"
    assert (done.code, done.lines[0]) == (2, line)
    done = ltcli("split", "embeddings", *args, "--label-column", "x")
    line = "error: split: source 'embeddings' does not read --label-column"
    assert (done.code, done.lines[0]) == (2, line)


@pytest.mark.parametrize("source", ["csv", "parquet"])
def test_a_column_names_the_images_that_stay_together(ltcli, rows, tmp_path, source):
    animals = [f"{name}{number % 3}" for number, (_, name) in enumerate(rows)]
    if source == "csv":
        listed = [(*row, animal) for row, animal in zip(rows, animals, strict=True)]
        path = table(tmp_path / "animals.csv", ["path", "label", "animal"], listed)
        args = ("csv", "--root", tmp_path / "photos", "--table", path)
    else:
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {
            "image": [png(seed) for seed in range(len(rows))],
            "label": [name for _, name in rows],
            "animal": animals,
        }
        parquet.write_table(pa.table(columns), path := tmp_path / "animals.parquet")
        args = ("parquet", "--root", path)
    done = ltcli("split", *args, "--group-column", "animal", "-d", tmp_path)
    assert done.code == 0, done.err
    tensors, header = load(tmp_path)
    groups = {part: set(tensors[f"{part}.groups"].tolist()) for part in ("train", "val", "test")}
    assert header.info["groups"] == {part: len(of) for part, of in groups.items()}
    assert len(set().union(*groups.values())) == sum(map(len, groups.values())) == 6
    of_image = {}
    for part in groups:
        ids, index = tensors[f"{part}.groups"].tolist(), tensors[f"{part}.index"].tolist()
        of_image |= dict(zip(index, ids, strict=True))
    # In the order of classes both sources have, the animals are numbered as they come.
    expected = [sorted(set(animals), key=animals.index).index(animal) for animal in animals]
    assert [of_image[row] for row in range(len(rows))] == expected


def test_an_empty_group_and_two_ways_to_group_are_refused(ltcli, rows, tmp_path):
    listed = [(*row, "" if number == 2 else "a") for number, row in enumerate(rows)]
    path = table(tmp_path / "animals.csv", ["path", "label", "animal"], listed)
    command = ("split", "csv", "--root", tmp_path / "photos", "--table", path, "-d", tmp_path)
    done = ltcli(*command, "--group-column", "animal")
    rule = "group must be a name, got an empty cell"
    hint = "hint: fill it in, or remove the line"
    assert (done.code, done.lines) == (5, [f"error: {path}:4: {rule}", hint])
    done = ltcli(*command, "--group-column", "animal", "--group-by", "a")
    rule = "group_by must not be given with group_column"
    assert (done.code, done.lines) == (2, [f"error: split: {rule}", "hint: give one"])
