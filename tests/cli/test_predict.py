import csv
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ltcli.artifacts.store import open_artifact, save

HEAD = "file,rank,class,probability"


@pytest.fixture
def photos(chain, tmp_path):
    """The first test images of the tiny chain as files, in a folder and one below it."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    with open_artifact(chain / "split.safetensors") as split:
        images = split.tensor("test.images")[:6]
    for number, image in enumerate(images):
        place = folder if number < 4 else folder / "more"
        Image.fromarray(image.numpy()).save(place / f"{number}.png")
    return folder


def model(chain):
    return chain / "pretrain.safetensors"


def test_images_get_the_classes_and_probabilities_that_evaluate_gives(ltcli, chain, photos):
    done = ltcli("predict", photos, "--top", 10, "--json", "--model", model(chain))
    assert done.code == 0
    found = json.loads(done.out)
    names = [*(f"{n}.png" for n in range(4)), "more/4.png", "more/5.png"]
    assert [entry["file"] for entry in found] == [str(photos / name) for name in names]
    with open_artifact(chain / "evaluate-pretrain.safetensors") as artifact:
        shares = artifact.tensor("logits")[:6].softmax(1)
        classes = artifact.header.info["class_names"]
    for entry, expected in zip(found, shares, strict=True):
        mine = {one["class"]: one["probability"] for one in entry["classes"]}
        assert [mine[name] for name in classes] == pytest.approx(expected.tolist(), abs=2e-2)
        best = [one["probability"] for one in entry["classes"]]
        assert best == sorted(best, reverse=True)
        assert sum(best) == pytest.approx(1, abs=1e-3)


def test_csv_has_a_line_for_each_image_and_class(ltcli, chain, photos):
    done = ltcli("predict", photos / "0.png", photos / "more", "--top", 2, "--model", model(chain))
    lines = done.out.splitlines()
    assert lines[0] == HEAD
    rows = list(csv.DictReader(io.StringIO(done.out)))
    files = [photos / "0.png", photos / "more" / "4.png", photos / "more" / "5.png"]
    assert [row["file"] for row in rows] == [str(file) for file in files for _ in range(2)]
    assert [row["rank"] for row in rows] == ["1", "2"] * 3


def test_more_classes_than_there_are_is_all_of_them(ltcli, chain, photos):
    done = ltcli("predict", photos / "0.png", "--top", 99, "--model", model(chain))
    assert len(done.out.splitlines()) == 11


def test_a_bad_file_stops_it_before_anything_is_printed(ltcli, chain, photos):
    bad = photos / "9.png"
    bad.write_bytes(b"not an image")
    done = ltcli("predict", photos, "--model", model(chain))
    assert (done.code, done.out) == (5, "")
    assert done.lines == [
        f"error: {bad}: is no image of a known format",
        "hint: repair or remove it, or leave bad files out with --on-bad-image skip",
    ]


def test_links_and_odd_suffixes_get_a_row_and_all_else_a_line(ltcli, chain, photos, tmp_path):
    (photos / "link.png").symlink_to("0.png")
    (photos / "dir").symlink_to(tmp_path)
    (photos / "bare").write_bytes((photos / "1.png").read_bytes())
    (photos / "2.png").rename(photos / "2.png_large")
    Image.open(photos / "3.png").save(photos / "3.avif")
    (photos / "notes.txt").write_text("x")
    for command in ([photos], sorted(photos.glob("*.png"))):
        done = ltcli("predict", *command, "--model", model(chain))
        assert done.code == 0
    names = ["0.png", "1.png", "2.png_large", "3.avif", "3.png", "bare", "link.png"]
    done = ltcli("predict", photos, "--model", model(chain))
    rows = [row["file"] for row in csv.DictReader(io.StringIO(done.out))]
    assert rows == [str(photos / name) for name in [*names, "more/4.png", "more/5.png"]]
    assert done.err.splitlines() == [
        f"predict: skipped {photos}/notes.txt: has no image suffix",
        f"predict: skipped {photos}/dir/photos: is the same folder as .",
    ]


def test_or_is_skipped_and_named(ltcli, chain, photos):
    bad = photos / "0.png"
    bad.write_bytes(b"")
    (photos / "dangling").symlink_to("nowhere")
    command = ("predict", photos, photos / "none", "--on-bad-image", "skip")
    done = ltcli(*command, "--model", model(chain))
    lines = [
        f"predict: skipped {photos}/dangling: is a link that leads nowhere",
        f"predict: skipped {photos}/none: no such file or folder",
        f"predict: skipped {bad}: is empty",
        "error: predict: number of files left out must be 0, got 3",
    ]
    assert (done.code, done.err.splitlines()) == (5, lines)
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert len(rows) == 5
    assert rows[0]["file"] == str(photos / "1.png")
    found = ltcli(*command, "--json", "--model", model(chain))
    document = json.loads(found.out)
    assert (found.code, len(document["images"])) == (5, 5)
    assert document["error"]["message"] == lines[-1].removeprefix("error: ")
    alone = ltcli("predict", bad, "--on-bad-image", "skip", "--model", model(chain))
    assert (alone.code, alone.out) == (5, f"{HEAD}\n")


def test_larger_images_are_taken_where_wanted(ltcli, chain, photos):
    command = ("predict", photos / "0.png", "--model", model(chain), "--max-pixels")
    done = ltcli(*command, "63")
    line = f"error: {photos}/0.png: has 8 x 8 pixels, more than 63 (--max-pixels)"
    assert (done.code, done.lines[0]) == (5, line)
    assert ltcli(*command, "64").code == 0


def test_names_that_need_quotes_get_them(ltcli, chain, photos):
    odd = photos / 'a "b", c.png'
    (photos / "0.png").rename(odd)
    done = ltcli("predict", odd, "--model", model(chain))
    assert next(csv.DictReader(io.StringIO(done.out)))["file"] == str(odd)


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (["--top", "0"], 2, "error: predict: top must be at least 1, got 0"),
        (
            ["--on-bad-image", "x"],
            2,
            "error: predict: on_bad_image must be one of fail, skip, got x",
        ),
        (
            ["--precision", "x"],
            2,
            "error: predict: precision must be one of auto, fp32, tf32, bf16, got x",
        ),
    ],
)
def test_wrong_options_are_refused(ltcli, chain, photos, options, code, line):
    done = ltcli("predict", photos, *options, "--model", model(chain))
    assert (done.code, done.lines[0]) == (code, line)


def test_what_is_no_model_or_no_image_is_refused(ltcli, chain, photos, tmp_path):
    split = chain / "split.safetensors"
    done = ltcli("predict", photos, "--model", split)
    assert done.code == 3
    assert done.lines == [
        f"error: {split}: must be of kind model, got split",
        "hint: name a file of pretrain, finetune or adjust",
    ]
    done = ltcli("predict", photos / "none.png", "--model", model(chain))
    assert (done.code, done.lines) == (5, [f"error: {photos}/none.png: no such file or folder"])
    (tmp_path / "empty").mkdir()
    done = ltcli("predict", tmp_path / "empty", "--model", model(chain))
    assert (done.code, done.lines) == (5, [f"error: {tmp_path}/empty: has no images"])


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_is_an_error(ltcli, chain, photos, monkeypatch, failure):
    def fail(*_args: object) -> None:
        raise failure

    monkeypatch.setattr("ltcli.engine.infer.features_of", fail)
    done = ltcli("predict", photos, "--model", model(chain))
    assert (done.code, done.out) == (6, "")
    assert done.lines == [
        "error: predict: out of memory",
        "hint: use --device cpu, or a machine with more memory",
    ]


def test_chunks_give_what_one_piece_gives(ltcli, chain, photos, monkeypatch):
    whole = ltcli("predict", photos, "--json", "--model", model(chain)).out
    monkeypatch.setattr("ltcli.stages.prediction._CHUNK", 4)
    parts = json.loads(ltcli("predict", photos, "--json", "--model", model(chain)).out)
    for one, other in zip(json.loads(whole), parts, strict=True):
        assert one["file"] == other["file"]
        assert one["classes"][0]["class"] == other["classes"][0]["class"]
    assert torch.tensor([e["classes"][0]["probability"] for e in parts]).isfinite().all()


def test_a_path_that_must_not_be_looked_at_is_an_error(ltcli, chain, monkeypatch):
    command = ("predict", "--model", chain / "pretrain.safetensors")
    name = "x" * 300
    done = ltcli(*command, name)
    line = f"error: {name}: cannot be read: file name too long"
    assert (done.code, done.lines) == (5, [line])

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    done = ltcli(*command, "private/a.png")
    line = "error: private/a.png: cannot be read: permission denied"
    assert (done.code, done.lines) == (5, [line])


def test_a_folder_that_cannot_be_listed_is_named(ltcli, chain, tmp_path, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ltcli.data.walk.entries", refuse)
    done = ltcli("predict", tmp_path, "--model", chain / "pretrain.safetensors")
    line = f"error: {tmp_path}: must be read whole: .: cannot be listed: permission denied"
    assert (done.code, done.lines) == (5, [line])


def forged(chain, tmp_path, tensors=None, info=None):
    """A model of the chain with other tensors or metadata."""
    path = tmp_path / "forged.safetensors"
    with open_artifact(chain / "pretrain.safetensors") as model:
        header, known = model.header, model.load("*")
    facts = {"stage": "pretrain", "parameters": header.parameters, "inputs": header.inputs}
    save(path, "model", known | (tensors or {}), **facts, info=header.info | (info or {}))
    return path


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_probabilities_that_are_not_finite_are_no_result(ltcli, chain, photos, tmp_path, options):
    huge = forged(chain, tmp_path, {"classifier.weight": torch.full((10, 64), 3e38)})
    done = ltcli("predict", photos, *options, "--model", huge)
    line = "error: predict: probabilities must be finite, got NaN or infinity"
    assert done.code == 4
    assert done.lines == [line, "hint: the model has diverged: train it again"]
    assert "NaN" not in done.out.replace("got NaN", "")


def test_what_a_terminal_obeys_in_a_name_is_shown(ltcli, chain, photos, tmp_path):
    hostile = forged(chain, tmp_path, info={"class_names": ["\x1b[2J\n"] * 10})
    done = ltcli("predict", photos / "0.png", "--model", hostile)
    assert done.out.splitlines()[1].split(",")[2] == r"\u001b[2J\n"
    missing = ltcli("predict", "\x1b[2J.png", "--model", hostile)
    assert missing.lines == [r"error: \u001b[2J.png: no such file or folder"]
