import posixpath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltcli.core.errors import DataError
from ltcli.data.listed import Listed, Rows, check_counts, number_classes, sound_paths
from ltcli.data.source_table import Counts


def refused(function, *args):
    with pytest.raises(DataError) as caught:
        function(*args)
    return [str(caught.value), caught.value.hint]


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
    names, labels = number_classes({"train": ["2", "0"], "val": []}, ["cat", "dog", "eel"], "x")
    assert names == ("cat", "dog", "eel")
    assert (labels["train"].tolist(), labels["val"].tolist()) == ([2, 0], [])


def test_a_label_that_is_no_class_is_refused():
    labels = {"train": ["0", "1"], "test": ["1", "3\n"]}
    line = "x: class '3\\n' must have at least 1 training image, got 0"
    assert refused(number_classes, labels, None, "x") == [line, "it stands in the test part"]
    line = "x: each class number must be written in one way, got '007' and '7'"
    assert refused(number_classes, {"train": ["7", "8", "007"]}, None, "x") == [line, None]
    line = "x: labels must be from 0 to 1 as there are class names, got '3\\n'"
    assert refused(number_classes, labels, ["cat", "dog"], "x") == [line, None]


def test_paths_are_brought_to_one_form():
    given = {"train": ["./a//b.jpg", "a/./c.jpg", "..a/d", "a/../e"], "val": ["a/b c.jpg"]}
    assert sound_paths(given, "x") == {
        "train": ["a/b.jpg", "a/c.jpg", "..a/d", "e"],
        "val": ["a/b c.jpg"],
    }


@given(st.lists(st.text("a./ ", max_size=6), max_size=4))
def test_paths_are_those_that_one_at_a_time_would_give(paths):
    short = [posixpath.normpath(path) for path in paths]
    away = [path in (".", "..") or path.startswith(("/", "../")) for path in short]
    if any(away) or len(set(short)) < len(short):
        with pytest.raises(DataError):
            sound_paths({"train": paths}, "x")
    else:
        assert sound_paths({"train": paths}, "x") == {"train": short}


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("", ""),
        (".", "."),
        ("/etc/passwd", "/etc/passwd"),
        ("../a.jpg", "../a.jpg"),
        ("a/../../b.jpg", "a/../../b.jpg"),
        ("a\0b.jpg", "a\\u0000b.jpg"),
        ("\ud800.jpg", "\\ud800.jpg"),
    ],
)
def test_a_path_that_leads_away_is_refused(path, shown):
    rule = f"x: paths must lead to a file below the root, got '{shown}'"
    assert refused(sound_paths, {"train": ["b", path]}, "x") == [rule, None]


def test_a_path_that_stands_twice_is_refused():
    rule, hint = "x: each path must be listed once, got", "remove one of the two"
    line = f"{rule} 'a/b' twice in train"
    assert refused(sound_paths, {"train": ["c", "a/b", "a//b"]}, "x") == [line, hint]
    line = f"{rule} 'a' in train and in test"
    assert refused(sound_paths, {"train": ["a"], "test": ["b", "a"]}, "x") == [line, hint]


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
    rows = {part: Rows(files, np.arange(len(files))) for part, files in (("train", ["a", "b"]),)}
    rows["test"] = Rows(["c"], np.zeros(1, np.int64))
    listed = Listed(("x", "y"), rows)
    check_counts(listed, Counts(2, 2, None, 1), "here")
    hint = "take the published files, or a part with --partial"
    assert refused(check_counts, listed, counts, "here") == [f"here: number of {what}", hint]
