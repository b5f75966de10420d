import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from ltcli.artifacts.store import open_artifact
from ltcli.data import cifar as cifar_files
from ltcli.data.digits import load_digits

PER_CLASS = 20


@pytest.fixture
def cifar(tmp_path):
    """A CIFAR-10 tree of 20 training and 2 test images per class, in mixed order."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(np.arange(10), PER_CLASS)).astype(np.uint8)
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    pixels = random.integers(256, size=(len(labels), 3072), dtype=np.uint8)
    records = np.concatenate([labels[:, None], pixels], axis=1)
    for number, part in enumerate(np.split(records, 5), start=1):
        (folder / f"data_batch_{number}.bin").write_bytes(part.tobytes())
    test = np.concatenate([np.repeat(np.arange(10), 2)[:, None], pixels[:20]], axis=1)
    (folder / "test_batch.bin").write_bytes(test.astype(np.uint8).tobytes())
    (folder / "batches.meta.txt").write_text("".join(f"thing {c}\n" for c in range(10)))
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return folder.parent, labels.astype(np.int64), images


def load(path):
    with open_artifact(path) as artifact:
        return artifact.load("*"), artifact.header


@pytest.mark.parametrize("seed", [0, 42])
def test_protocol_cao_takes_exactly_the_images_of_the_released_code(ltcli, cifar, tmp_path, seed):
    root, labels, images = cifar
    done = ltcli(
        *("split", "cifar10", "--root", root, "--protocol", "cao", "--imbalance-factor", 10),
        *("--seed", seed, "-d", tmp_path),
    )
    assert done.code == 0
    tensors, header = load(tmp_path / "split.safetensors")
    np.random.seed(seed)  # noqa: NPY002  - the released code has the global generator
    expected = []
    for c in range(10):
        positions = np.where(labels == c)[0]
        np.random.shuffle(positions)  # noqa: NPY002
        expected.extend(positions[: int(PER_CLASS * 0.1 ** (c / 9))])
    assert tensors["train.index"].tolist() == [int(position) for position in expected]
    assert tensors["train.labels"].tolist() == labels[expected].tolist()
    np.testing.assert_array_equal(tensors["train.images"].numpy(), images[expected])
    assert len(tensors["val.index"]) == 0
    assert header.info["mean"] == [0.4914, 0.4822, 0.4465]
    assert header.info["std"] == [0.2023, 0.1994, 0.2010]


@pytest.mark.parametrize(
    "options",
    [
        ("digits",),
        ("digits", "--protocol", "cao", "--val-per-class", "5"),
        ("digits", "--val-per-class", "0"),
        ("digits", "--profile", "step", "--test-fraction", "0.5"),
        ("digits", "--profile", "natural", "--seed", "7"),
        ("cifar10", "--val-per-class", "3"),
        ("cifar10", "--protocol", "cao", "--val-per-class", "1"),
    ],
    ids=" ".join,
)
def test_no_image_is_in_two_parts_and_the_index_tells_where_each_comes_from(
    ltcli, cifar, tmp_path, options
):
    root, labels, images = cifar
    if options[0] == "cifar10":
        options = (*options, "--root", root)
        pool, pool_labels = torch.from_numpy(images.copy()), torch.from_numpy(labels)
        parts = ("train", "val")
    else:
        pool, pool_labels = load_digits().train.data, load_digits().train.labels
        parts = ("train", "val", "test")
    factor = () if "natural" in options else ("--imbalance-factor", 4)
    assert ltcli("split", *options, *factor, "-d", tmp_path).code == 0
    tensors, header = load(tmp_path / "split.safetensors")
    index = torch.cat([tensors[f"{part}.index"] for part in parts])
    assert len(index.unique()) == len(index)
    for part in parts:
        rows = tensors[f"{part}.index"]
        assert tensors[f"{part}.images"].equal(pool[rows])
        assert tensors[f"{part}.labels"].equal(pool_labels[rows])
    assert header.info["class_counts"] == tensors["train.labels"].bincount(minlength=10).tolist()
    assert header.info["val_counts"] == tensors["val.labels"].bincount(minlength=10).tolist()
    for part in ("train", "test"):
        assert tensors[f"{part}.labels"].bincount(minlength=10).min() > 0


def test_a_source_with_a_test_set_keeps_it_whole(ltcli, cifar, tmp_path):
    root, _, images = cifar
    options = ("--val-per-class", 2, "--imbalance-factor", 4)
    assert ltcli("split", "cifar10", "--root", root, *options, "-d", tmp_path).code == 0
    tensors, _ = load(tmp_path / "split.safetensors")
    assert tensors["test.index"].tolist() == list(range(20))
    assert tensors["test.labels"].tolist() == [c for c in range(10) for _ in range(2)]
    np.testing.assert_array_equal(tensors["test.images"].numpy(), images[:20])


def test_a_holdout_leaves_the_pool_before_the_profile_is_taken(ltcli, cifar, tmp_path):
    root, _, _ = cifar
    command = ("split", "cifar10", "--root", root, "--imbalance-factor", 4, "-d", tmp_path)
    assert ltcli(*command, "--val-per-class", 5).code == 0
    _, header = load(tmp_path / "split.safetensors")
    assert header.info["val_counts"] == [5] * 10
    assert header.info["class_counts"] == [int(15 * 0.25 ** (c / 9)) for c in range(10)]


def test_doing_it_again_gives_the_same_bytes_and_another_seed_gives_others(ltcli, copy):
    path = copy / "split.safetensors"
    before = path.read_bytes()
    command = ("split", "digits", "--imbalance-factor", "10", "-d", copy)
    done = ltcli(*command)
    assert done.err == "split: up to date\n"
    assert ltcli(*command, "--force").code == 0
    assert path.read_bytes() == before
    assert ltcli(*command, "--seed", "1").code == 0
    assert path.read_bytes() != before


def test_statistics_of_the_training_images_stand_where_none_are_published(chain):
    tensors, header = load(chain / "split.safetensors")
    pixels = tensors["train.images"].double().numpy() / 255
    assert header.info["mean"] == pytest.approx(pixels.mean((0, 1, 2)).tolist(), abs=1e-4)
    assert header.info["std"] == pytest.approx(pixels.std((0, 1, 2)).tolist(), abs=1e-4)


def test_a_reader_sees_the_class_counts(ltcli, tmp_path):
    done = ltcli("split", "digits", "--imbalance-factor", "10", "-d", tmp_path)
    lines = done.out.splitlines()
    assert lines[0] == str(tmp_path / "split.safetensors")
    assert lines[1].split() == ["0", "112", "#" * 40]
    assert lines[10].split() == ["9", "11", "####"]
    sizes = "454 train, 100 val, 535 test images"
    assert lines[11] == f"{sizes}; largest class 1.052 times smallest in the data, 10.18 in train"
    done = ltcli("split", "digits", "--imbalance-factor", "10", "--json", "-d", tmp_path)
    assert json.loads(done.out)["status"] == "up to date"


@pytest.mark.parametrize(
    ("published", "options", "line"),
    [
        (
            False,
            (),
            "whether these are the images of LDAM-DRW is not known: the files do not have the"
            " published checksums, and positions count in their order",
        ),
        (True, (), "exactly the images of LDAM-DRW: the files have the published checksums"),
        (
            True,
            ("--seed", 1),
            "drawn as LDAM-DRW draws, but not its images: LDAM-DRW has seed 0 and no validation"
            " images",
        ),
        (
            True,
            ("--val-per-class", 1),
            "drawn as LDAM-DRW draws, but not its images: LDAM-DRW has seed 0 and no validation"
            " images",
        ),
    ],
)
def test_protocol_cao_says_whether_its_images_are_those_of_the_paper(
    ltcli, cifar, tmp_path, monkeypatch, published, options, line
):
    root, _, _ = cifar
    if published:
        files = sorted((root / "cifar-10-batches-bin").glob("*.bin"))
        checksums = tuple(hashlib.sha1(file.read_bytes()).hexdigest() for file in files)
        layout = dataclasses.replace(cifar_files._LAYOUTS["cifar10"], checksums=checksums)
        monkeypatch.setitem(cifar_files._LAYOUTS, "cifar10", layout)
    options = ("--protocol", "cao", "--imbalance-factor", 10, *options)
    done = ltcli("split", "cifar10", "--root", root, *options, "-d", tmp_path)
    assert done.code == 0
    assert [text for text in done.err.splitlines() if "LDAM-DRW" in text] == [f"split: {line}"]


def test_too_few_images_for_validation_are_reported(ltcli, cifar, tmp_path):
    root, _, _ = cifar
    options = ("--val-per-class", 30, "--profile", "natural")
    done = ltcli("split", "cifar10", "--root", root, *options, "-d", tmp_path)
    assert done.code == 0
    rule = "10 of 10 classes are too small for 30 validation images, they give 100 in all: "
    some = ", ".join(f"'thing {c}' 10" for c in range(5))
    assert f"split: {rule}{some} and 5 more" in done.err.splitlines()


def test_a_factor_below_1_is_refused_before_any_image_is_read(ltcli, tmp_path):
    done = ltcli("split", "digits", "--imbalance-factor", "0.01", "-d", tmp_path)
    assert done.code == 2
    assert done.lines == [
        "error: split: imbalance_factor must be at least 1, got 0.01",
        "hint: did you mean 100?",
    ]
    assert not (tmp_path / "split.safetensors").exists()
