"""compare: one table in four formats, seeds in one row, and refusal of what does not belong."""

import csv
import io
import json
import shutil

import pytest


@pytest.fixture
def two_seeds(copy, ltcli):
    for seed in (1, 2):
        out = copy / f"finetune-crt-{seed}.safetensors"
        args = ["finetune", "--method", "crt", "--epochs", 2, "--seed", seed, "--out", out]
        assert ltcli(*args, "-d", copy).code == 0
    assert ltcli("evaluate", "-d", copy).code == 0
    return copy


def test_first_row_is_the_pretrained_model_and_seeds_share_a_row(ltcli, two_seeds):
    rows = json.loads(ltcli("compare", "--json", "-d", two_seeds).out)
    assert [(row["name"], row["runs"]) for row in rows] == [("pretrain", 1), ("finetune-crt", 3)]
    assert rows[0]["difference"] is None
    low, high = rows[1]["interval"]
    assert low <= rows[1]["accuracy"] <= high


def test_formats_agree(ltcli, two_seeds):
    rows = json.loads(ltcli("compare", "--json", "-d", two_seeds).out)
    table = list(csv.DictReader(io.StringIO(ltcli("compare", "--csv", "-d", two_seeds).out)))
    assert [float(row["accuracy"]) for row in table] == [row["accuracy"] for row in rows]
    markdown = ltcli("compare", "--markdown", "-d", two_seeds).out.splitlines()
    assert markdown[1].startswith("|---|")
    plain = ltcli("compare", "-d", two_seeds).out.splitlines()
    for line in (markdown[2], plain[1]):
        assert f"{100 * rows[0]['accuracy']:.2f}" in line
    assert plain[-1] == (
        "535 test images, last epoch. best*: epoch chosen on these images, not a result."
    )


def test_row_order_follows_the_files_given(ltcli, chain):
    files = [chain / "evaluate-finetune-crt.safetensors", chain / "evaluate-pretrain.safetensors"]
    rows = json.loads(ltcli("compare", "--json", *files).out)
    assert [row["name"] for row in rows] == ["finetune-crt", "pretrain"]


def test_a_folder_without_predictions_is_an_error(ltcli, tmp_path):
    done = ltcli("compare", "-d", tmp_path)
    assert done.code == 3
    assert done.lines == [
        f"error: {tmp_path}: has no predictions on the test set",
        "hint: run ltcli evaluate first",
    ]


def test_another_kind_is_refused(ltcli, chain):
    done = ltcli("compare", chain / "pretrain.safetensors")
    assert done.code == 3
    assert done.lines == [
        f"error: {chain}/pretrain.safetensors: must be of kind predictions, got model",
        "hint: run ltcli evaluate on it first",
    ]


def test_predictions_on_other_images_are_refused(ltcli, copy):
    model = copy / "finetune-crt.safetensors"
    assert ltcli("evaluate", "--on", "val", "--model", model, "-d", copy).code == 0
    first = copy / "evaluate-pretrain.safetensors"
    second = copy / "evaluate-finetune-crt-on-val.safetensors"
    done = ltcli("compare", first, second)
    assert done.code == 3
    assert done.lines == [
        f"error: {second}: was made on other images or classes than {first}",
        "hint: compare predictions of one test set",
    ]


def test_a_damaged_file_in_the_folder_is_named(ltcli, copy):
    shutil.copy(copy / "split.safetensors", copy / "x.safetensors")
    (copy / "x.safetensors").write_bytes((copy / "split.safetensors").read_bytes()[:100])
    done = ltcli("compare", "-d", copy)
    assert done.code == 3
    assert done.lines[1] == "hint: remove it, or name files"
