"""Stages on a split whose images stay in their files, and on embeddings."""

import json
import os
import shutil

import pytest
import torch
from PIL import Image

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save
from ltcli.data.digits import load_digits
from ltcli.data.files import FileBatches
from ltcli.stages.samples import _workers, files_of

COUNTS = {"train": (12, 8, 5), "val": (2, 2, 2), "test": (6, 6, 6)}
QUICK = ("-q", "--epochs", "1", "--batch-size", "8")


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def rows_of(part):
    """Class and number of every image of a part, none in two parts."""
    before = [0, 0, 0]
    for name, counts in COUNTS.items():
        if name == part:
            return [(c, before[c] + i) for c in range(3) for i in range(counts[c])]
        before = [b + n for b, n in zip(before, counts, strict=True)]
    raise AssertionError


def write_split(path, store, tensors, **info):
    for part in COUNTS:
        labels = torch.tensor([c for c, _ in rows_of(part)])
        tensors[f"{part}.labels"] = labels
        tensors[f"{part}.index"] = torch.arange(len(labels))
    facts = {
        "class_names": ["zero", "one", "two"],
        "class_counts": list(COUNTS["train"]),
        "source_counts": [sum(of) for of in zip(*COUNTS.values(), strict=True)],
        "groups": {},
        "mean": [0.5] * 3,
        "std": [0.3] * 3,
        "source": "list",
        "store": store,
        "max_pixels": 10**6,
        **info,
    }
    parameters = {"source": "folder", "profile": "natural", "imbalance_factor": 100.0}
    save(path, "split", tensors, stage="split", parameters=parameters, inputs={}, info=facts)


@pytest.fixture(scope="module")
def digits():
    pool = load_digits()
    return [pool.train.data[pool.train.labels == c] for c in range(3)]


CROPPED, OF_IMAGES = "they are cropped by --least-area", "it is of images"
FILES = "it is of image files"


@pytest.fixture(scope="module")
def of_files(tmp_path_factory, digits):
    """A folder with a split of files, and the files in a folder that its sidecar names."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "photos").mkdir()
    paths = []
    for part in COUNTS:
        for c, number in rows_of(part):
            paths.append(f"{c}-{number}.png")
            image = Image.fromarray(digits[c][number].numpy()).resize((24, 20))
            image.save(folder / "photos" / paths[-1])
    sizes = [(folder / "photos" / path).stat().st_size for path in paths]
    names = bytearray("\0".join(paths).encode())
    tensors = {"files": torch.frombuffer(names, dtype=torch.uint8), "sizes": torch.tensor(sizes)}
    write_split(folder / "split.safetensors", "files", tensors, image_size=[16, 16])
    write_root(folder, folder / "photos")
    return folder


def write_root(folder, root):
    digest = read_header(folder / "split.safetensors").digest
    records = [
        {"event": "start"},
        {"event": "root", "root": str(root)},
        {"event": "end", "digest": digest},
    ]
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "split.run.jsonl").write_text("".join(lines))


@pytest.fixture
def files(of_files, tmp_path):
    """A copy of that folder, whose images are those of the original."""
    for name in ("split.safetensors", "split.run.jsonl"):
        shutil.copy(of_files / name, tmp_path)
    return tmp_path


@pytest.fixture
def embeddings(tmp_path, rng):
    centres = 4 * torch.eye(3, 10)
    tensors = {
        f"{part}.features": torch.stack(
            [centres[c] + torch.randn(10, generator=rng) for c, _ in rows_of(part)]
        )
        for part in COUNTS
    }
    split = tmp_path / "split.safetensors"
    write_split(split, "features", tensors, image_size=[], mean=[], std=[])
    return tmp_path


def test_each_part_has_its_own_files(of_files):
    with open_artifact(of_files / "split.safetensors") as split:
        for part in COUNTS:
            paths, sizes = files_of(split, part)
            assert paths == [f"{c}-{number}.png" for c, number in rows_of(part)]
            assert sizes == [(of_files / "photos" / path).stat().st_size for path in paths]


def test_the_whole_chain_works_from_files(ltcli, files):
    commands = (
        ("pretrain", "--backbone", "resnet20", "--workers", "1", "--jitter", "0.4", *QUICK),
        ("dump-features", "--maps", "--views", "1", "--workers", "0", "-q"),
        ("finetune", "--method", "crt", *QUICK),
        ("finetune", "--method", "mislas", "--data", "images", "--workers", "0", *QUICK),
        ("finetune", "--method", "ncm", "--data", "images", "--workers", "0", "-q"),
        ("evaluate", "--workers", "0", "-q"),
    )
    for command in commands:
        done = ltcli(*command, "-d", files)
        # An epoch of a few images is hardly trained, and says so.
        others = [line for line in done.lines if "the loss ended at" not in line]
        assert (done.code, others) == (0, [])
    backbone = read_header(files / "finetune-crt.safetensors").info["backbone"]
    assert (backbone["crop_mode"], backbone["crop_share"]) == ("box", 0.875)
    bank = tensors_of(files / "dump-features.safetensors")
    assert bank["train.maps"].mean((2, 3)).allclose(bank["train.features"], rtol=0.02, atol=0.02)
    logits = tensors_of(files / "evaluate-pretrain.safetensors")["logits"]
    assert logits.allclose(bank["test.logits"], atol=1e-3)


def test_a_model_does_not_depend_on_the_number_of_workers(ltcli, files):
    made = []
    for workers in ("0", "2"):
        out = files / f"{workers}.safetensors"
        command = ("pretrain", "--backbone", "resnet20", "--workers", workers, *QUICK)
        assert ltcli(*command, "--out", out, "-d", files).code == 0
        made.append(out.read_bytes())
    assert made[0] == made[1]


# By stage: methods with an order, second batches or meta batches of their own, and one without.
OWN_BATCHES = {
    "pretrain": {"cross-entropy": (), "bbn": (), "l2rw": ("--meta-source", "train")},
    "finetune": {
        "metasaug": ("--meta-source", "train"),
        "cam-sampling": (),
        "feature-fusion": (
            *("--data", "images", "--head", "top-k", "--head-at", "1"),
            *("--donors", "all", "--donors-per-image", "2", "--batch-size", "6"),
        ),
    },
}


@pytest.mark.parametrize(
    ("stage", "method"), [(stage, method) for stage in OWN_BATCHES for method in OWN_BATCHES[stage]]
)
def test_reading_ahead_changes_no_image_of_any_batch(ltcli, files, monkeypatch, stage, method):
    common = ("--workers", "0", *QUICK, "--epochs", "2", "-d", files)
    options, made = OWN_BATCHES[stage][method], []
    options += ("--meta-per-class", "2") if "--meta-source" in options else ()
    if stage == "pretrain":
        options += ("--backbone", "resnet20")
    else:
        assert ltcli("pretrain", "--backbone", "resnet20", *common).code == 0
        assert ltcli("dump-features", "--workers", "0", "-q", "-d", files).code == 0
        for statistics in ("covariances", "confusion"):
            assert ltcli(statistics, "-q", "-d", files).code == 0
    for ahead in (True, False):
        if not ahead:
            monkeypatch.setattr(FileBatches, "read_ahead", lambda *_: None)
        out = files / f"{ahead}.safetensors"
        done = ltcli(stage, "--method", method, *common, *options, "--out", out)
        assert done.code == 0, done.err
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_predict_sees_an_image_as_evaluate_does(ltcli, files, of_files):
    command = ("pretrain", "--backbone", "resnet20", "--workers", "0", *QUICK)
    assert ltcli(*command, "-d", files).code == 0
    options = ("--precision", "fp32", "--workers", "0", "-q")
    assert ltcli("evaluate", *options, "-d", files).code == 0
    logits = tensors_of(files / "evaluate-pretrain.safetensors")["logits"]
    names = [f"{c}-{number}.png" for c, number in rows_of("test")]
    done = ltcli(
        *("predict", *(of_files / "photos" / name for name in names), "--json", "--top", "1"),
        *("--precision", "fp32", "--model", files / "pretrain.safetensors"),
    )
    made = [record["classes"][0]["probability"] for record in json.loads(done.out)]
    torch.testing.assert_close(torch.tensor(made), logits.softmax(1).amax(1), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_an_exported_model_is_checked_on_images_in_files(ltcli, files, of_files):
    command = ("pretrain", "--backbone", "resnet20", "--workers", "0", *QUICK)
    assert ltcli(*command, "-d", files).code == 0
    out, split = files / "digits.pt2", files / "split.safetensors"
    command = ("export", files / "pretrain.safetensors", "--to", "torch", "--out", out)
    write_root(files, files / "gone")
    done = ltcli(*command, "--split", split)
    assert done.code == 5
    assert done.lines[0] == f"error: {files / 'gone'}: no such folder"
    assert not out.exists()
    done = ltcli(*command, "--split", split, "--root", of_files / "photos")
    assert done.code == 0, done.err
    assert done.out.splitlines()[1].startswith(f"{len(rows_of('train'))} training images: ")


def test_images_are_looked_for_where_split_saw_them_unless_a_root_is_given(ltcli, files, of_files):
    command = ("pretrain", "--backbone", "resnet20", "--workers", "0", *QUICK, "-d", files)
    gone = files / "gone"
    write_root(files, gone)
    done = ltcli(*command)
    hint = "hint: name the folder of the images with --root"
    assert (done.code, done.lines) == (5, [f"error: {gone}: no such folder", hint])
    sidecar = files / "split.run.jsonl"
    write_root(files, of_files / "photos")
    of_another_run = sidecar.read_text().replace('"digest": "', '"digest": "0')
    line = f"error: pretrain: root must be given for {files / 'split.safetensors'}"
    no_root = sidecar.read_text().replace(json.dumps(str(of_files / "photos")), "[1]")
    for content in (of_another_run, no_root, "[]\n", "", os.mkfifo, None):
        sidecar.unlink()
        if content is os.mkfifo:
            os.mkfifo(sidecar)
        elif content is not None:
            sidecar.write_text(content)
        done = ltcli(*command)
        assert (done.code, done.lines) == (2, [line, "hint: its images are in files"])
    assert ltcli(*command, "--root", of_files / "photos").code == 0
    assert ltcli("evaluate", "-q", "-d", files).code == 2


def test_a_file_that_changed_ends_a_run_with_its_name(ltcli, files, of_files):
    shutil.copytree(of_files / "photos", files / "photos")
    path = files / "photos" / "2-3.png"
    size = path.stat().st_size
    path.write_bytes(b"short")
    command = ("pretrain", "--backbone", "resnet20", "--workers", "1", *QUICK)
    done = ltcli(*command, "--root", files / "photos", "-d", files)
    rule = f"must have {size} bytes as in the split, got 5"
    hint = "hint: repair it, or leave it out with split --verify --on-bad-image skip"
    assert (done.code, done.lines) == (5, [f"error: {path}: {rule}", hint])
    assert not (files / "pretrain.safetensors").exists()


def test_the_whole_chain_works_from_embeddings(ltcli, embeddings):
    commands = (
        ("pretrain", "--epochs", "20", "--batch-size", "8", "-q"),
        ("dump-features", "-q"),
        ("covariances", "-q"),
        ("confusion", "-q"),
        ("finetune", "--method", "crt", *QUICK),
        ("finetune", "--method", "logit-adjustment", "-q"),
        ("finetune", "--method", "risda", "--head", "top-k", "--head-at", "1", *QUICK),
        ("finetune", "--method", "balanced-softmax", "--data", "images", *QUICK),
        ("evaluate", "-q"),
        ("compare",),
    )
    for command in commands:
        done = ltcli(*command, "-d", embeddings)
        # An epoch of a few images is hardly trained, and says so.
        others = [line for line in done.lines if "the loss ended at" not in line]
        assert (done.code, others) == (0, [])
    split, bank = (tensors_of(embeddings / f"{s}.safetensors") for s in ("split", "dump-features"))
    for part in COUNTS:
        assert bank[f"{part}.features"].equal(split[f"{part}.features"])
    assert read_header(embeddings / "pretrain.safetensors").info["backbone"]["feature_dim"] == 10
    predictions = tensors_of(embeddings / "evaluate-pretrain.safetensors")
    right = predictions["logits"].argmax(1) == predictions["labels"]
    assert right.double().mean() > 0.8


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            ("--backbone", "resnet20"),
            "backbone must be auto for the embeddings of {}, got resnet20",
        ),
        (
            ("--method", "bbn"),
            "method must be one without a backbone of its own for embeddings, got bbn",
        ),
    ],
)
def test_embeddings_have_no_backbone(ltcli, embeddings, options, rule):
    done = ltcli("pretrain", *options, *QUICK, "-d", embeddings)
    rule = rule.format(embeddings / "split.safetensors")
    assert (done.code, done.lines) == (2, [f"error: pretrain: {rule}"])


@pytest.mark.parametrize(
    ("stage", "method"),
    [("pretrain", "range-loss"), ("finetune", "lifted-loss"), ("finetune", "cam-sampling")],
)
def test_losses_of_features_and_cut_out_images_are_refused_for_embeddings(
    ltcli, embeddings, stage, method
):
    assert ltcli("pretrain", *QUICK, "-d", embeddings).code == 0
    done = ltcli(stage, "--method", method, "--force", "-d", embeddings)
    line = f"error: {stage}: {method} must not be used on embeddings"
    hint = "hint: embeddings have no backbone that could learn other features"
    assert (done.code, done.lines) == (2, [line, hint])


def test_bi_level_methods_work_on_embeddings(ltcli, embeddings):
    for method in ("l2rw", "meta-weight-net"):
        out = embeddings / f"{method}.safetensors"
        done = ltcli("pretrain", "--method", method, "--out", out, *QUICK, "-d", embeddings)
        # An epoch of a few images is hardly trained, and says so.
        others = [line for line in done.lines if "the loss ended at" not in line]
        assert (done.code, others) == (0, [])
    assert ltcli("pretrain", *QUICK, "-d", embeddings).code == 0
    for method in ("meta-class-weight", "metasaug"):
        done = ltcli("finetune", "--method", method, *QUICK, "-d", embeddings)
        # An epoch of a few images is hardly trained, and says so.
        others = [line for line in done.lines if "the loss ended at" not in line]
        assert (done.code, others) == (0, [])


def test_embeddings_have_no_views(ltcli, embeddings):
    assert ltcli("pretrain", *QUICK, "-d", embeddings).code == 0
    done = ltcli("dump-features", "--views", "1", "-d", embeddings)
    line = "error: dump-features: views must be 0 for embeddings, which do not vary"
    assert (done.code, done.lines) == (2, [line])


def test_views_of_files_have_no_padding(ltcli, files):
    options = ("--backbone", "resnet20", "--workers", "0", *QUICK)
    assert ltcli("pretrain", *options, "-d", files).code == 0
    done = ltcli("dump-features", "--views", "1", "--padding", "2", "-d", files)
    line = "error: dump-features: padding must not be given for image files"
    assert (done.code, done.lines) == (2, [line, "hint: they are cropped by --least-area"])


def test_what_a_model_cannot_take_is_refused(ltcli, embeddings, of_files):
    assert ltcli("pretrain", *QUICK, "-d", embeddings).code == 0
    model, other = embeddings / "pretrain.safetensors", of_files / "split.safetensors"
    done = ltcli("dump-features", "--split", other, "--other-split", "-d", embeddings)
    rule = "must hold embeddings of 10 numbers, as the model takes, got images of 16x16 pixels"
    hint = "hint: make the split as that of the model"
    assert (done.code, done.lines) == (3, [f"error: {other}: {rule}", hint])
    done = ltcli("predict", of_files / "photos" / "0-0.png", "--model", model)
    rule = "must be a model of images, as predict reads image files, got one of embeddings"
    hint = "hint: ltcli export takes it elsewhere"
    assert (done.code, done.lines) == (3, [f"error: {model}: {rule}", hint])


def test_only_images_in_the_split_can_be_shown(ltcli, files):
    assert ltcli("pretrain", "--backbone", "resnet20", *QUICK, "-d", files).code == 0
    assert ltcli("dump-features", "-q", "-d", files).code == 0
    split = files / "split.safetensors"
    done = ltcli("diagnose", "--split", split, "-d", files)
    line = f"error: {split}: must store images to show some, got files"
    assert (done.code, done.lines) == (3, [line, "hint: leave out --split"])


def test_a_folder_may_stay_files_and_damaged_ones_be_found_at_once(ltcli, of_files, tmp_path):
    for c in range(3):
        (tmp_path / "own" / str(c)).mkdir(parents=True)
        for path in (of_files / "photos").glob(f"{c}-*.png"):
            shutil.copy(path, tmp_path / "own" / str(c))
    damaged = tmp_path / "own" / "1" / "1-0.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    command = ("split", "folder", "--root", tmp_path / "own", "--store", "files", "-d", tmp_path)
    command += ("--val-per-class", "2", "--image-size", "16")
    assert ltcli(*command).code == 0
    done = ltcli(*command, "--verify", "--force")
    rule = "number of bad files must be 0, got 1, first 1/1-0.png: is damaged: "
    assert done.code == 5
    assert done.lines[0].startswith(f"error: {tmp_path / 'own'}: {rule}")
    assert ltcli(*command, "--verify", "--on-bad-image", "skip").code == 0
    header = read_header(tmp_path / "split.safetensors")
    assert sum(header.size(f"{part}.labels", 0) for part in COUNTS) == 49 - 1
    options = ("--backbone", "resnet20", "--workers", "0", *QUICK)
    assert ltcli("pretrain", *options, "-d", tmp_path).code == 0


def test_processes_on_one_machine_share_its_cores_among_their_workers(monkeypatch):
    monkeypatch.setattr("ltcli.stages.samples.usable_cores", lambda: 24)
    assert (_workers(None), _workers(3), _workers(0)) == (16, 3, 0)
    for size, share in ((2, 12), (8, 3), (32, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(size))
        assert (_workers(None), _workers(3), _workers(0)) == (share, 3, 0)


@pytest.mark.parametrize(
    ("of", "options", "line", "hint"),
    [
        ("files", ("--padding", "2"), "padding must not be given for image files", CROPPED),
        ("files", ("--pad-mode", "reflect"), "pad-mode must not be given for image files", CROPPED),
        ("embeddings", ("--no-flip",), "flip must not be given on features", OF_IMAGES),
        ("embeddings", ("--jitter", "0.5"), "jitter must not be given on features", OF_IMAGES),
        ("chain", ("--jitter", "0.5"), "jitter must not be given for images in the split", FILES),
        (
            "chain",
            ("--least-area", "1"),
            "least-area must not be given for images in the split",
            FILES,
        ),
    ],
)
def test_an_augmentation_that_samples_do_not_have_is_refused(
    request, ltcli, copy, of, options, line, hint
):
    folder = copy if of == "chain" else request.getfixturevalue(of)
    done = ltcli("pretrain", *options, "--force", "-d", folder)
    assert (done.code, done.lines) == (2, [f"error: pretrain: {line}", f"hint: {hint}"])


def test_features_are_not_augmented_by_finetune_either(ltcli, copy):
    done = ltcli("finetune", "--method", "crt", "--no-flip", "-d", copy)
    line = "error: finetune: flip must not be given on features"
    assert (done.code, done.lines) == (2, [line, f"hint: {OF_IMAGES}"])
    images = ("--data", "images", "--no-flip", "--dry-run")
    assert ltcli("finetune", "--method", "crt", *images, "-d", copy).code == 0
    done = ltcli("finetune", "--method", "crt", "--reduction", "mean-of-weighted", "-d", copy)
    line = "error: finetune: reduction must not be given without --beta"
    assert (done.code, done.lines) == (2, [line])


@pytest.mark.parametrize(
    "words",
    [
        ("pretrain", "--backbone", "resnet20"),
        ("finetune", "--method", "crt", "--data", "images"),
        ("dump-features", "--views", "1"),
    ],
    ids=lambda words: words[0],
)
def test_a_border_is_narrower_than_the_images(ltcli, chain, tmp_path, words):
    out = ("--out", tmp_path / "x.safetensors", "--dry-run", "-d", chain)
    done = ltcli(*words, "--padding", 8, *out)
    line = f"error: {words[0]}: padding must be at most 7 for images of 8x8 pixels, got 8"
    assert (done.code, done.lines) == (2, [line, "hint: a crop would lie beside the image"])
    assert ltcli(*words, "--padding", 7, *out).code == 0
