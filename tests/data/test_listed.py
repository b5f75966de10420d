import csv
import io
import posixpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltcli.core.errors import DataError
from ltcli.data.class_names import read_names
from ltcli.data.listed import load_lists, load_table, sound_paths

# What may stand in a line: every character but line ends, NUL and lone surrogates.
NAMES = st.text(st.characters(exclude_characters="\n\r\0/", exclude_categories=["Cs"]), min_size=1)
BLANKS = st.text(" \t", min_size=1, max_size=3)


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(function, *args):
    with pytest.raises(DataError) as caught:
        function(*args)
    return [str(caught.value), caught.value.hint]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lists")


def separable(name):
    """Whether a name ends where the blanks before the label begin."""
    return name.encode().rstrip() == name.encode() and name not in (".", "..")


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(NAMES.filter(separable), BLANKS, st.integers(0, 10**17)),
        min_size=1,
        unique_by=lambda row: row[0],
    ),
    end=st.sampled_from(["\n", "\r\n", " \n", "\n\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_a_list_reads_back_as_it_was_written(folder, rows, end, mark):
    rows = [(f"d/{name}", blanks, label) for name, blanks, label in rows]
    text = "".join(f"{path}{blanks}{label}{end}" for path, blanks, label in rows)
    listed = load_lists({"train": write(folder / "a.txt", mark + text.encode())}, None)
    assert listed.parts["train"].files == [path for path, _, _ in rows]
    names = [listed.class_names[label] for label in listed.parts["train"].labels]
    assert names == [str(label) for _, _, label in rows]
    assert list(map(int, listed.class_names)) == sorted({label for _, _, label in rows})


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(
            NAMES.filter(lambda name: name not in (".", "..")),
            NAMES.map(str.strip).filter(len),
            st.sampled_from(["train", "val", "test"]),
        ),
        min_size=1,
        unique_by=lambda row: row[0],
    )
)
def test_a_table_reads_back_as_python_writes_it(folder, rows):
    first = {label: name for name, label, _ in reversed(rows)}
    rows = [(n, label, "train" if first[label] == n else s) for n, label, s in rows]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([("label", "note", "path", "split"), *((y, "n", x, s) for x, y, s in rows)])
    listed = load_table(write(folder / "a.csv", text.getvalue()))
    assert set(listed.parts) == {split for _, _, split in rows}
    for part, found in listed.parts.items():
        expected = [(name, label) for name, label, split in rows if split == part]
        labels = [listed.class_names[label] for label in found.labels]
        assert list(zip(found.files, labels, strict=True)) == expected


def test_published_lists_read_as_they_are(tmp_path):
    train = "train/n01440764/n01440764_190.JPEG 1\ntrain/n01443537/n01443537_4.JPEG 0\n"
    test = "val/ILSVRC2012_val_00000293.JPEG 0\n"
    lists = {"train": write(tmp_path / "a", train), "test": write(tmp_path / "b", test)}
    listed = load_lists(lists, write(tmp_path / "names", "tench\r\ngold fish\n\n"))
    assert listed.class_names == ("tench", "gold fish")
    assert listed.parts["train"].files[0] == "train/n01440764/n01440764_190.JPEG"
    assert listed.parts["train"].labels.tolist() == [1, 0]
    assert listed.parts["test"].files == ["val/ILSVRC2012_val_00000293.JPEG"]
    assert list(listed.parts) == ["train", "test"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.jpg", "a.jpg"),
        ("0", "0"),
        ("a.jpg cat", "a.jpg cat"),
        ("a.jpg -1", "a.jpg -1"),
        ("a.jpg 1.0", "a.jpg 1.0"),
        ("a.jpg 1_0", "a.jpg 1_0"),
        ("a.jpg \u0661", "a.jpg \u0661"),
        ("a\x1bb.jpg", "a\\u001bb.jpg"),
        ("a.jpg " + "1" * 19, "a.jpg " + "1" * 19),
    ],
)
def test_a_line_that_is_no_path_with_a_class_is_refused(tmp_path, text, shown):
    path = write(tmp_path / "a.txt", f"fine.jpg 0\n\n{text}\nlast.jpg 1\n")
    rule = f"must be a path and a class number from 0, got '{shown}'"
    assert refused(load_lists, {"train": path}, None) == [f"{path}:3: {rule}", None]


def test_other_bytes_than_text_are_refused(tmp_path):
    path = write(tmp_path / "a.txt", b"\xff\xfea.jpg 0\n")
    line, hint = f"{path}:1: must be UTF-8 text, got byte 0xff", "save the file as UTF-8"
    assert refused(load_lists, {"train": path}, None) == [line, hint]
    assert refused(read_names, path) == [line, hint]
    assert refused(load_table, path) == [f"{path}: must be UTF-8 text, got other bytes", hint]


def test_a_table_without_splits_is_training_images(tmp_path):
    listed = load_table(write(tmp_path / "a.csv", 'label,path\r\n" cat","a, b.jpg"\r\n3,c.jpg\r\n'))
    assert (listed.class_names, list(listed.parts)) == (("3", "cat"), ["train"])
    assert listed.parts["train"].files == ["a, b.jpg", "c.jpg"]
    assert listed.parts["train"].labels.tolist() == [1, 0]


def test_blanks_behind_commas_are_no_part_of_names(tmp_path):
    text = "path, label, split\na.jpg, cat, train\nb.jpg, cat, test\n"
    listed = load_table(write(tmp_path / "a.csv", text))
    assert (listed.class_names, list(listed.parts)) == (("cat",), ["train", "test"])


TABLES = {
    "": (": header must have one column 'path', got ''", None),
    "path,Label\n": (
        ": header must have one column 'label', got 'path,Label'",
        "write 'label' in lower case",
    ),
    "path;label\n": (
        ": header must have one column 'path', got 'path;label'",
        "separate the columns by commas",
    ),
    "path,label,path\n": (": header must have one column 'path', got 'path,label,path'", None),
    "path,label,split,split\n": (
        ": header must have one column 'split', got 'path,label,split,split'",
        None,
    ),
    "path,label\na,1\nb\n": (":3: must have 2 cells, got 1", None),
    "path,label\na,1\n\nb,1,\n": (":4: must have 2 cells, got 3", None),
    "path,label,split\na,1,train\nb,1,valid\n": (
        ":3: split must be train, val or test, got 'valid'",
        "did you mean 'val'?",
    ),
    'path,label\na,"1\n': (":2: must be CSV: unexpected end of data", None),
    "path,label\na,0\na,1\n": (
        ": each path must be listed once, got 'a' twice in train",
        "remove one of the two",
    ),
    "path,label,split\na,0,train\nb,1,test\n": (
        ": class '1' must have at least 1 training image, got 0",
        "it stands in the test part",
    ),
}


@pytest.mark.parametrize("text", TABLES)
def test_a_table_of_another_form_is_refused(tmp_path, text):
    path = write(tmp_path / "a.csv", text)
    rule, hint = TABLES[text]
    assert refused(load_table, path) == [f"{path}{rule}", hint]


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
