import dataclasses
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from ltcli.core.errors import DataError, ParamError
from ltcli.data.source_table import (
    FILE_PARAMETERS,
    SOURCES,
    Counts,
    Request,
    files_of,
    require_options,
)
from ltcli.stages.split import Params


def refused(name, *given):
    with pytest.raises(ParamError) as caught:
        require_options(name, "root", given)
    return [str(caught.value).removeprefix("split: "), caught.value.hint]


def test_the_stage_knows_the_sources_and_the_files_of_the_table():
    assert get_args(get_type_hints(Params)["source"]) == tuple(SOURCES)
    fields = {field.name: field for field in dataclasses.fields(Params)}
    assert len(FILE_PARAMETERS) == 8
    # A path is no part of identity; the content of the file is.
    assert not any(fields[name].metadata["identity"] for name in FILE_PARAMETERS)


def test_options_that_a_source_does_not_read_are_refused():
    require_options("list", "root", ["train_list", "class_names", "store"])
    require_options("imagenet-lt", "root", ["partial", "store"])
    require_options("digits", "root", [])
    require_options("parquet", "root", ["image_size", "on_bad_image"])
    hint = (
        "it reads --class-names, --image-size, --max-pixels, --on-bad-image, --store, --suffix,"
        " --test-list, --train-list, --val-list, --verify"
    )
    assert refused("list", "train_list", "table") == ["source 'list' does not read --table", hint]
    assert refused("list", "partial") == ["source 'list' does not read --partial", hint]
    assert refused("digits", "store") == ["source 'digits' does not read --store", None]


def test_a_root_is_needed_unless_the_source_comes_with_the_package():
    require_options("digits", None, [])
    with pytest.raises(ParamError) as caught:
        require_options("cifar10", None, [])
    assert str(caught.value) == "split: source 'cifar10' needs --root"
    assert caught.value.hint == "name the folder that holds the data set"


def test_a_missing_list_is_named():
    assert refused("list", "val_list") == ["source 'list' needs --train-list", "name the file"]
    assert refused("csv") == ["source 'csv' needs --table", "name the file"]
    assert refused("inat") == ["source 'inat' needs --train-json", "name the file"]


def test_lists_and_annotations_do_not_go_together():
    rule = "source 'inat2018' reads --train-json or --train-list, got options of both"
    assert refused("inat2018", "train_json", "test_list") == [rule, None]


def test_published_files_are_looked_for_under_the_root(tmp_path):
    named = {option: path.name for option, path in files_of("places-lt", tmp_path, {}).items()}
    assert named == {
        "train_list": "Places_LT_train.txt",
        "val_list": "Places_LT_val.txt",
        "test_list": "Places_LT_test.txt",
    }
    files = files_of("places-lt", tmp_path, {"val_list": "x.txt", "class_names": "y.txt"})
    assert files["val_list"] == Path("x.txt")
    assert files["class_names"] == Path("y.txt")
    assert files["train_list"] == tmp_path / "Places_LT_train.txt"


def test_inaturalist_is_read_from_annotations_or_lists_whichever_are_there(tmp_path):
    json_files = {"train_json": tmp_path / "train2018.json", "val_json": tmp_path / "val2018.json"}
    lists = {
        "train_list": tmp_path / "iNaturalist18_train.txt",
        "test_list": tmp_path / "iNaturalist18_val.txt",
    }
    assert files_of("inat2018", tmp_path, {}) == json_files
    named = {"test_list": "mine.txt"}
    assert files_of("inat2018", tmp_path, named) == {**lists, "test_list": Path("mine.txt")}
    lists["train_list"].touch()
    assert files_of("inat2018", tmp_path, {}) == lists
    json_files["train_json"].touch()
    assert files_of("inat2018", tmp_path, {}) == json_files


@pytest.mark.parametrize(
    ("counts", "what"),
    [
        (Counts(3, 2, None, 1), "classes must be 3, got 2"),
        (Counts(2, 9, None, 1), "training images must be 9, got 2"),
        (Counts(2, 2, 4, 1), "validation images must be 4, got 0"),
        (Counts(2, 2, None, 7), "test images must be 7, got 1"),
    ],
)
def test_a_published_set_has_the_published_counts(counts, what):
    sizes = {"train": 2, "test": 1}
    assert Counts(2, 2, None, 1).difference(2, sizes) is None
    assert counts.difference(2, sizes) == f"number of {what}"


def test_a_missing_file_is_named_with_its_option(tmp_path):
    (tmp_path / "train2018.json").touch()
    with pytest.raises(DataError) as caught:
        Request("inat2018", tmp_path).files()
    assert str(caught.value) == f"{tmp_path}/val2018.json: no such file"
    assert caught.value.hint == "name the file with --val-json"
    (tmp_path / "x").touch()
    named = {"val_json": str(tmp_path / "x")}
    assert Request("inat2018", tmp_path, named).files() == {
        "train_json": tmp_path / "train2018.json",
        "val_json": tmp_path / "x",
    }
