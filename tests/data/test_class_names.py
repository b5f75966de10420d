import logging

import numpy as np
import pytest

from ltcli.core.errors import DataError
from ltcli.data.class_names import number_classes, read_names, used_classes


def write(path, text):
    path.write_text(text)
    return path


def refused(function, *args):
    with pytest.raises(DataError) as caught:
        function(*args)
    return [str(caught.value), caught.value.hint]


def test_no_file_of_names_gives_none():
    assert read_names(None) is None


def test_a_line_without_a_name_is_named(tmp_path):
    path = write(tmp_path / "names", "cat\n\ndog\n\n")
    line = f"{path}:2: must be a class name, got an empty line"
    assert refused(read_names, path) == [line, None]


def test_classes_are_in_order_of_their_numbers_or_else_of_their_text():
    names, labels = number_classes({"train": ["10", "9", "-1", "10"], "test": ["9"]}, None, "x")
    assert names == ("-1", "9", "10")
    assert {part: rows.tolist() for part, rows in labels.items()} == {
        "train": [2, 1, 0, 2],
        "test": [1],
    }
    assert labels["train"].dtype == np.int64
    assert number_classes({"train": ["10", "9", "cat"]}, None, "x")[0] == ("10", "9", "cat")
    assert number_classes({"train": ["\u0662", "10"]}, None, "x")[0] == ("10", "\u0662")


def test_with_names_labels_are_the_lines_of_the_names():
    names, labels = number_classes(
        {"train": ["2", "0", "1"], "val": []}, ["cat", "dog", "eel"], "x"
    )
    assert names == ("cat", "dog", "eel")
    assert (labels["train"].tolist(), labels["val"].tolist()) == ([2, 0, 1], [])


def test_a_label_that_is_no_class_is_refused():
    labels = {"train": ["0", "1"], "test": ["1", "3\n"]}
    line = "x: class '3\\n' must have at least 1 training image, got 0"
    assert refused(number_classes, labels, None, "x") == [line, "it stands in the test part"]
    line = "x: each class number must be written in one way, got '007' and '7'"
    assert refused(number_classes, {"train": ["7", "8", "007"]}, None, "x") == [line, None]
    line = "x: labels must be from 0 to 1 as there are class names, got '3\\n'"
    assert refused(number_classes, labels, ["cat", "dog"], "x") == [line, None]


def test_whole_numbers_written_as_floats_are_whole_numbers():
    names, labels = number_classes({"train": ["10.0", "2.0", "-1.", "2"]}, None, "x")
    assert (names, labels["train"].tolist()) == (("-1", "2", "10"), [2, 1, 0, 1])
    names, labels = number_classes({"train": ["1.0", "0.00"]}, ["cat", "dog"], "x")
    assert (names, labels["train"].tolist()) == (("cat", "dog"), [1, 0])


def test_two_spellings_of_one_name_in_unicode_are_one_class(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert composed != apart
    names, labels = number_classes({"train": [apart, composed], "test": [apart]}, None, "x")
    assert (names, labels["train"].tolist()) == ((composed,), [0, 0])
    assert read_names(write(tmp_path / "names", f"{apart}\ntea\n")) == [composed, "tea"]


def test_a_declared_class_without_images_is_left_out_and_said(caplog):
    names = [f"c{number}" for number in range(9)]
    with caplog.at_level(logging.WARNING):
        found, labels = number_classes({"train": ["8", "3", "3"], "val": ["3"]}, names, "photos")
    assert found == ("c3", "c8")
    assert {part: rows.tolist() for part, rows in labels.items()} == {
        "train": [1, 0, 0],
        "val": [0],
    }
    rule = "7 classes without images left out: 'c0', 'c1', 'c2', 'c4', 'c5' and 2 more"
    assert caplog.messages == [f"photos: {rule}"]


def test_used_classes_keep_their_order_and_lack_validation_and_test_images(caplog):
    given = {"train": np.array([2, 0, 1]), "val": np.array([1]), "test": np.array([], np.int64)}
    names, labels = used_classes(["cat", "dog", "eel"], given, "x")
    assert names == ("cat", "dog", "eel")
    assert [labels[part].tolist() for part in given] == [[2, 0, 1], [1], []]
    assert labels["test"].dtype == np.int64
    assert caplog.messages == []
    line = "x: class 'd\\u001bg' must have at least 1 training image, got 0"
    given = {"train": np.array([0]), "val": np.array([1])}
    assert refused(used_classes, ["cat", "d\x1bg"], given, "x") == [
        line,
        "it stands in the val part",
    ]


def test_an_empty_label_is_named_by_its_row():
    line = "x: labels must be classes, got an empty one in row 1 of the test part"
    labels = {"train": ["a"], "test": ["a", ""]}
    assert refused(number_classes, labels, None, "x") == [line, "fill it in, or leave the row out"]
