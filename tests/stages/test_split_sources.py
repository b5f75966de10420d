"""split from lists, tables, annotations, Parquet files and embeddings, by the command line."""

import csv
import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ltcli.artifacts.store import open_artifact
from ltcli.data import source_table
from ltcli.data.decode import decode_image
from ltcli.data.source_table import Counts

COUNTS = {"cat": 12, "dog": 6, "eel": 3, "fox": 2, "gnu": 1}


def load(folder):
    with open_artifact(folder / "split.safetensors") as artifact:
        return artifact.load("*"), artifact.header.info


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of five classes, 12 to 1 of each, and everything that can describe them."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    files = []
    for label, (name, count) in enumerate(COUNTS.items()):
        (root / name).mkdir()
        for number in range(count):
            pixels = random.integers(0, 256, (9 + number, 9, 3), dtype=np.uint8)
            files.append((f"{name}/no {number:02}.png", label))
            Image.fromarray(pixels).save(root / files[-1][0])
    lines = [f"{file} {label}\n" for file, label in files]
    (root / "all.txt").write_text("".join(lines))
    (root / "test.txt").write_text("".join(lines[::6]))
    (root / "train.txt").write_text("".join(line for i, line in enumerate(lines) if i % 6))
    (root / "names.txt").write_text("\n".join(COUNTS))
    with (root / "all.csv").open("w", newline="") as file:
        names = list(COUNTS)
        csv.writer(file).writerows([["path", "label"], *((f, names[c]) for f, c in files)])
    (root / "all.json").write_text(
        json.dumps(
            {
                "images": [{"id": i, "file_name": file} for i, (file, _) in enumerate(files)],
                "annotations": [
                    {"image_id": i, "category_id": label} for i, (_, label) in enumerate(files)
                ],
                "categories": [{"id": c, "name": name} for c, name in enumerate(COUNTS)],
            }
        )
    )
    return root


def options(root, source):
    """The command line of each way to describe the photos."""
    return {
        "folder": ("folder", "--root", root),
        "list": (
            *("list", "--root", root, "--train-list", root / "all.txt"),
            *("--class-names", root / "names.txt"),
        ),
        "csv": ("csv", "--root", root, "--table", root / "all.csv"),
        "inat": ("inat", "--root", root, "--train-json", root / "all.json"),
    }[source]


@pytest.fixture
def own(photos, tmp_path):
    """A copy of the photos that a test may change."""
    return shutil.copytree(photos, tmp_path / "photos")


def made_of(ltcli, out, *args):
    done = ltcli("split", *args, "-d", out)
    assert done.code == 0, done.err
    return (*load(out), done.err.splitlines())


@pytest.mark.parametrize("source", ["list", "csv", "inat"])
@pytest.mark.parametrize("store", ["images", "files"])
def test_every_description_of_the_same_images_gives_the_same_split(
    ltcli, photos, tmp_path, source, store
):
    common = ("--image-size", 8, "--store", store)
    tensors, info, _ = made_of(ltcli, tmp_path / "a", *options(photos, "folder"), *common)
    others, other, _ = made_of(ltcli, tmp_path / "b", *options(photos, source), *common)
    assert {**other, "source": "folder", "skipped": info["skipped"]} == info
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert others[name].equal(tensor), name


def test_files_stand_in_the_order_of_the_rows_with_their_sizes(ltcli, photos, tmp_path):
    source = (*options(photos, "csv"), "--val-per-class", 2)
    tensors, info, _ = made_of(ltcli, tmp_path / "a", *source)
    files = bytes(tensors["files"].tolist()).decode().split("\0")
    labels, index = (
        torch.cat([tensors[f"{part}.{what}"] for part in ("train", "val", "test")]).tolist()
        for what in ("labels", "index")
    )
    lines = [line.rsplit(" ", 1) for line in (photos / "all.txt").read_text().splitlines()]
    assert sorted(index) == list(range(len(lines)))
    assert [[file, str(label)] for file, label in zip(files, labels, strict=True)] == [
        lines[row] for row in index
    ]
    assert tensors["sizes"].tolist() == [(photos / file).stat().st_size for file in files]
    assert info["store"] == "files"
    assert info["image_size"] == [224, 224]
    assert (info["mean"], info["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert not any(name.endswith("images") for name in tensors)
    decoded, info, _ = made_of(ltcli, tmp_path / "b", *source, "--store", "images")
    assert info["store"] == "images"
    assert info["image_size"] == [32, 32]
    assert bytes(decoded["files"].tolist()).decode().split("\0") == files
    assert "sizes" not in decoded
    first = decode_image((photos / files[0]).read_bytes(), 32)
    assert decoded["train.images"][0].equal(first)


def test_small_classes_keep_a_training_image_and_what_they_lack_is_said(ltcli, photos, tmp_path):
    done = made_of(ltcli, tmp_path, *options(photos, "csv"), "--val-per-class", 3)
    tensors, info, log = done
    assert info["class_counts"] == [6, 3, 1, 1, 1]
    assert info["val_counts"] == [3, 2, 1, 0, 0]
    assert tensors["test.labels"].bincount(minlength=5).tolist() == [3, 1, 1, 1, 0]
    rule = "4 of 5 classes are too small for 3 validation images, they give 3 in all:"
    assert f"split: {rule} 'fox' 0, 'gnu' 0, 'eel' 1, 'dog' 2" in log
    rule = "1 of 5 classes have no test images, their accuracy cannot be measured: 'gnu'"
    assert f"split: {rule}" in log


@pytest.mark.parametrize("source", ["folder", "list", "csv", "inat"])
def test_own_images_are_stored_small_where_a_size_is_asked_for(ltcli, photos, tmp_path, source):
    """Without a size they stay files, which a network reads at its own size."""
    _, info, _ = made_of(ltcli, tmp_path / "a", *options(photos, source))
    assert (info["store"], info["image_size"]) == ("files", [224, 224])
    _, info, _ = made_of(ltcli, tmp_path / "b", *options(photos, source), "--image-size", 8)
    assert (info["store"], info["image_size"]) == ("images", [8, 8])


@pytest.fixture(scope="module")
def tailed(tmp_path_factory):
    """Images of classes of 200, 12 and 9, two images a burst."""
    root = tmp_path_factory.mktemp("tailed")
    random = np.random.default_rng(0)
    for name, count in {"cat": 200, "dog": 12, "eel": 9}.items():
        (root / name).mkdir()
        for number in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number // 2:03}-{number % 2}.png")
    return root


def test_the_default_cut_of_own_images_leaves_the_tail_to_training(ltcli, tailed, tmp_path):
    done = ltcli("split", "folder", "--root", tailed, "-d", tmp_path)
    assert done.code == 0
    tensors, info = load(tmp_path)
    # A tenth of what the test cut leaves: 140, 9 and 7.
    assert info["val_counts"] == [14, 0, 0]
    assert info["class_counts"] == [126, 9, 7]
    assert info["source_counts"] == [200, 12, 9]
    assert tensors["test.labels"].bincount().tolist() == [60, 3, 2]
    line = (
        "142 train, 14 val, 65 test images; largest class 22.22 times smallest in the data, 18 in"
    )
    assert f"{line} train" in done.out
    assert "too small" not in done.err


@pytest.mark.parametrize("protocol", ["holdout", "cao"])
def test_a_group_of_images_is_in_one_part(ltcli, tailed, tmp_path, protocol):
    command = ("split", "folder", "--root", tailed, "--group-by", r"\w+/\d+", "-d", tmp_path)
    done = ltcli(*command, "--protocol", protocol, "--val-per-class", 3)
    assert done.code == 0
    tensors, info = load(tmp_path)
    groups = {part: set(tensors[f"{part}.groups"].tolist()) for part in ("train", "val", "test")}
    assert len(set().union(*groups.values())) == sum(map(len, groups.values())) == 100 + 6 + 5
    assert info["groups"] == {part: len(of) for part, of in groups.items()}
    shown = ", ".join(f"{len(of)} {part}" for part, of in groups.items())
    assert f"groups: {shown}" in done.out.splitlines()
    files = bytes(tensors["files"].tolist()).decode().split("\0")
    ids = torch.cat([tensors[f"{part}.groups"] for part in ("train", "val", "test")]).tolist()
    assert len(set(zip([file[:-6] for file in files], ids, strict=True))) == 111
    # As near to 30 % and to 3 as bursts of two images come; one of the eels is alone.
    assert tensors["test.labels"].bincount().tolist() == [60, 2, 2]
    assert info["val_counts"] == [2, 2, 3]
    assert "too small" not in done.err


def test_groups_that_the_source_has_in_two_parts_are_said(ltcli, photos, tmp_path):
    lists = ("--train-list", photos / "train.txt", "--test-list", photos / "test.txt")
    command = ("list", "--root", photos, *lists, "--group-by", "no (.)")
    _, info, log = made_of(ltcli, tmp_path, *command)
    assert info["groups"] == {"train": 2, "val": 0, "test": 1}
    assert "split: the source has images of 1 groups in several parts" in log


@pytest.mark.parametrize(
    ("words", "code", "lines"),
    [
        (
            ("--group-by", "("),
            2,
            [
                "error: split: group_by must be a regular expression, got '(': missing ),"
                " unterminated subpattern at position 0"
            ],
        ),
        (
            ("--group-by", "[ab]"),
            5,
            [
                "error: {}: --group-by must match every path, got 'dog/no 00.png'",
                "hint: add an alternative for such paths, as in 'A|B'",
            ],
        ),
    ],
)
def test_a_pattern_that_finds_no_group_is_refused(ltcli, photos, tmp_path, words, code, lines):
    done = ltcli("split", *options(photos, "folder"), *words, "-d", tmp_path)
    assert (done.code, done.lines) == (code, [line.format(photos) for line in lines])


def test_copies_across_the_cut_are_counted_and_listed(ltcli, own, tmp_path):
    for number in range(12):
        shutil.copy(own / "cat" / f"no {number:02}.png", own / "cat" / f"copy {number:02}.png")
    with Image.open(own / "dog" / "no 00.png") as image:
        image.save(own / "eel" / "as jpeg.jpg", quality=95)
    command = (*options(own, "folder"), "--verify")
    tensors, _, log = made_of(ltcli, tmp_path, *command)
    files = bytes(tensors["files"].tolist()).decode().split("\0")
    sizes = [len(tensors[f"{part}.labels"]) for part in ("train", "val", "test")]
    part_of = dict(zip(files, np.repeat(range(3), sizes).tolist(), strict=True))
    apart = [
        pair
        for number in range(12)
        if part_of[(pair := (f"cat/no {number:02}.png", f"cat/copy {number:02}.png"))[0]]
        != part_of[pair[1]]
    ]
    assert len(apart) > 1
    kind = "have the same bytes in two parts"
    (said,) = [line for line in log if kind in line]
    assert said.startswith(f"split: {len(apart)} pairs of images {kind}: ")
    (said,) = [line for line in log if "look alike" in line]
    assert said.startswith("split: 1 pairs of images look alike in two classes: ")
    assert {"dog/no 00.png", "eel/as jpeg.jpg"} == set(said.split(": ")[2].split(" and "))
    records = map(json.loads, (tmp_path / "split.run.jsonl").read_text().splitlines())
    listed = {r["kind"]: r["pairs"] for r in records if r["event"] == "copies"}
    assert sorted(map(sorted, listed[kind])) == sorted(map(sorted, apart))


def test_verified_images_without_copies_are_said(ltcli, photos, tmp_path):
    command = (*options(photos, "folder"), "--verify", "--image-size", 8)
    _, info, log = made_of(ltcli, tmp_path, *command)
    assert info["store"] == "images"
    assert "split: no image has a copy in another part or class" in log


def test_copies_are_found_before_anything_is_decoded(ltcli, own, tmp_path, monkeypatch):
    shutil.copy(own / "cat" / "no 00.png", own / "dog" / "copy.png")
    monkeypatch.setattr("ltcli.data.image_files.open_image", None)
    done = ltcli("split", *options(own, "folder"), "--verify", "-d", tmp_path)
    rule = "number of bad files must be 0, got 1, first dog/copy.png: has the same bytes as cat/no"
    assert (done.code, done.lines[0]) == (5, f"error: {own}: {rule} 00.png")


def test_validation_images_of_the_source_are_taken_whole(ltcli, photos, tmp_path):
    lists = ("--train-list", photos / "train.txt", "--val-list", photos / "test.txt")
    source = ("list", "--root", photos, *lists)
    tensors, info, log = made_of(ltcli, tmp_path / "a", *source, "--store", "files")
    assert "split: 2 of 5 classes have no validation images: '3', '4'" in log
    assert tensors["val.index"].tolist() == list(range(4))
    assert tensors["val.labels"].tolist() == [0, 0, 1, 2]
    assert info["class_names"] == ["0", "1", "2", "3", "4"]
    done = ltcli("split", *source, "--val-per-class", "2", "-d", tmp_path / "b")
    rule = "val_per_class must not be given where the source has validation images"
    assert (done.code, done.lines) == (2, [f"error: split: {rule}", "hint: leave the option out"])


def test_the_bytes_are_the_same_twice_and_wherever_the_images_lie(ltcli, photos, own, tmp_path):
    for number, root in enumerate((photos, own)):
        source = (*options(root, "list"), "--store", "files")
        made_of(ltcli, tmp_path / str(number), *source)
    first, second = ((tmp_path / name / "split.safetensors").read_bytes() for name in "01")
    assert first == second
    done = ltcli("split", *source, "-d", tmp_path / "1")
    assert done.err == "split: up to date\n"
    assert ltcli("split", *source, "--force", "-d", tmp_path / "1").code == 0
    assert (tmp_path / "1" / "split.safetensors").read_bytes() == first


def test_a_changed_list_is_seen_and_the_root_stands_beside_the_split(ltcli, own, tmp_path):
    source = options(own, "csv")
    made_of(ltcli, tmp_path, *source)
    records = [json.loads(line) for line in (tmp_path / "split.run.jsonl").read_text().splitlines()]
    assert {"event": "root", "root": str(own)} in records
    with (own / "all.csv").open("a") as file:
        file.write("\n")
    assert "split: starting (data changed)" in made_of(ltcli, tmp_path, *source)[2]


def test_bad_files_stop_the_split_or_are_skipped(ltcli, own, tmp_path):
    (own / "cat" / "no 03.png").unlink()
    (own / "dog" / "no 01.png").write_bytes(b"")
    source = (*options(own, "csv"), "--store", "files")
    done = ltcli("split", *source, "-d", tmp_path)
    first = "cat/no 03.png: cannot be read: no such file or directory"
    rule = f"number of bad files must be 0, got 2, first {first}"
    assert (done.code, done.lines[0]) == (5, f"error: {own}: {rule}")
    assert not (tmp_path / "split.safetensors").exists()
    tensors, info, log = made_of(ltcli, tmp_path, *source, "--on-bad-image", "skip")
    assert (info["skipped"], len(tensors["sizes"])) == (2, 22)
    assert f"split: skipped {first}" in log
    assert "split: skipped dog/no 01.png: is empty" in log


@pytest.mark.parametrize(
    ("name", "stem", "counts"),
    [
        ("imagenet-lt", "ImageNet_LT", Counts(5, 17, 3, 4)),
        ("places-lt", "Places_LT", Counts(5, 17, 3, 4)),
    ],
)
def test_a_published_set_is_found_by_its_own_names_and_counted(
    ltcli, own, tmp_path, monkeypatch, name, stem, counts
):
    # The published set, as small as the one that is written here.
    entry = source_table.SOURCES[name]
    monkeypatch.setitem(source_table.SOURCES, name, dataclasses.replace(entry, counts=counts))
    lines = (own / "train.txt").read_text().splitlines(keepends=True)
    (own / f"{stem}_train.txt").write_text("".join(lines[3:]))
    source = (name, "--root", own)
    done = ltcli("split", *source, "-d", tmp_path)
    hint = "hint: name the file with --val-list"
    assert (done.code, done.lines) == (5, [f"error: {own}/{stem}_val.txt: no such file", hint])
    (own / f"{stem}_val.txt").write_text("".join(lines[:3]))
    shutil.copy(own / "test.txt", own / f"{stem}_test.txt")
    tensors, info, _ = made_of(ltcli, tmp_path / "a", *source)
    assert (info["store"], info["profile"]) == ("files", "natural")
    assert (info["class_counts"], info["val_counts"]) == ([7, 5, 2, 2, 1], [3, 0, 0, 0, 0])
    assert tensors["test.labels"].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("name", ["inat2017", "inat2018"])
def test_a_part_of_a_published_set_is_refused_unless_asked_for(ltcli, photos, tmp_path, name):
    lists = ("--train-list", photos / "train.txt", "--test-list", photos / "test.txt")
    done = ltcli("split", name, "--root", photos, *lists, "-d", tmp_path)
    hint = "hint: take the published files, or a part with --partial"
    rule = f"number of classes must be {source_table.SOURCES[name].counts.classes}, got 5"
    assert (done.code, done.lines) == (5, [f"error: {photos}: {rule}", hint])
    tensors, info, _ = made_of(ltcli, tmp_path, name, "--root", photos, *lists, "--partial")
    assert (info["source"], len(tensors["sizes"]), info["store"]) == (name, 24, "files")


def test_published_counts_are_those_of_the_papers():
    counts = {name: source.counts for name, source in source_table.SOURCES.items()}
    assert {name: counted for name, counted in counts.items() if counted} == {
        "cifar10": Counts(10, 50_000, None, 10_000),
        "cifar100": Counts(100, 50_000, None, 10_000),
        "fashion-mnist": Counts(10, 60_000, None, 10_000),
        "imagenet-lt": Counts(1000, 115_846, 20_000, 50_000),
        "places-lt": Counts(365, 62_500, 7_300, 36_500),
        "inat2017": Counts(5089, 579_184, None, 95_986),
        "inat2018": Counts(8142, 437_513, None, 24_426),
    }


def test_embeddings_are_split_like_images_and_shown_as_samples(ltcli, tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    labels = np.repeat(["oak", "elm"], [30, 10])
    np.savez(tmp_path / "x.npz", features=features, labels=labels)
    source = ("embeddings", "--root", tmp_path / "x.npz")
    done = ltcli("split", *source, "--val-per-class", 2, "-d", tmp_path)
    assert done.out.splitlines()[-2].startswith("24 train, 4 val, 12 test samples; largest class")
    tensors, info = load(tmp_path)
    assert (info["store"], info["mean"], info["std"]) == ("features", [], [])
    assert (info["class_names"], info["class_counts"]) == (["elm", "oak"], [5, 19])
    assert info["image_size"] == []
    rows = torch.cat([tensors[f"{part}.index"] for part in ("train", "val", "test")])
    assert sorted(rows.tolist()) == list(range(40))
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(
            tensors[f"{part}.features"].numpy(), features[tensors[f"{part}.index"]]
        )
    first = (tmp_path / "split.safetensors").read_bytes()
    assert ltcli("split", *source, "--val-per-class", 2, "--force", "-d", tmp_path).code == 0
    assert (tmp_path / "split.safetensors").read_bytes() == first
    np.savez(tmp_path / "x.npz", features=features + 1, labels=labels)
    assert "split: starting (data changed)" in made_of(ltcli, tmp_path, *source)[2]


def test_embeddings_can_be_made_long_tailed(ltcli, tmp_path):
    np.savez(tmp_path / "x.npz", features=np.ones((40, 3)), labels=np.arange(40) % 2)
    source = ("embeddings", "--root", tmp_path / "x.npz", "--profile", "exp")
    _, info, _ = made_of(ltcli, tmp_path, *source, "--imbalance-factor", 4, "--val-per-class", 0)
    assert info["class_counts"] == [14, 3]


def test_parquet_images_are_decoded(ltcli, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = []
    for seed in range(6):
        file = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": f"{seed}.png"})
    table = pyarrow.table({"image": cells, "label": [0, 1, 0, 1, 0, 1]})
    parquet.write_table(table, tmp_path / "train-0.parquet")
    tensors, info, _ = made_of(
        ltcli, tmp_path, "parquet", "--root", tmp_path, "--val-per-class", 1, "--image-size", 8
    )
    assert (info["store"], info["image_size"]) == ("images", [8, 8])
    assert tensors["train.images"].shape == (2, 8, 8, 3)
    assert "files" not in tensors


@pytest.mark.parametrize(
    ("words", "code", "lines"),
    [
        (
            ["csv", "--root", ".", "--train-list", "x"],
            2,
            [
                "split: source 'csv' does not read --train-list",
                "it reads --group-column, --image-size, --label-column, --max-pixels,"
                " --on-bad-image, --path-column, --split-column, --store, --suffix, --table,"
                " --verify",
            ],
        ),
        (["csv", "--root", "."], 2, ["split: source 'csv' needs --table", "name the file"]),
        (
            ["csv", "--table", "x"],
            2,
            ["split: source 'csv' needs --root", "name the folder that holds the data set"],
        ),
        (
            ["csv", "--root", "/none", "--table", "x"],
            5,
            ["/none: no such folder", "name the folder of images with --root"],
        ),
        (
            ["csv", "--root", ".", "--table", "/none.csv"],
            5,
            ["/none.csv: no such file", "name the file with --table"],
        ),
        (
            ["embeddings", "--root", "/none"],
            5,
            ["/none: no such file or folder", "name the data set with --root"],
        ),
        (
            ["inat2018", "--root", ".", "--train-json", "x", "--train-list", "y"],
            2,
            ["split: source 'inat2018' reads --train-json or --train-list, got options of both"],
        ),
        (["digits", "--store", "files"], 2, ["split: source 'digits' does not read --store"]),
        (
            ["digits", "--image-size", "64"],
            2,
            ["split: source 'digits' does not read --image-size"],
        ),
        (
            ["digits", "--profile", "natural", "--imbalance-factor", "4"],
            2,
            [
                "split: imbalance_factor must not be given for profile natural",
                "--profile exp or step gives the classes that ratio",
            ],
        ),
        (
            ["folder", "--root", ".", "--imbalance-factor", "4"],
            2,
            [
                "split: imbalance_factor must not be given for profile natural",
                "--profile exp or step gives the classes that ratio",
            ],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_line_is_refused(ltcli, tmp_path, words, code, lines):
    done = ltcli("split", *words, "-d", tmp_path)
    expected = [f"{word}: {line}" for word, line in zip(("error", "hint"), lines, strict=False)]
    assert (done.code, done.lines) == (code, expected)
    assert not (tmp_path / "split.safetensors").exists()


def test_a_recipe_can_be_checked_where_the_data_are_not(ltcli, tmp_path):
    for name in ("imagenet-lt", "inat2018", "embeddings", "parquet"):
        done = ltcli("split", name, "--root", tmp_path / "none", "--dry-run", "-d", tmp_path)
        assert done.code == 0
