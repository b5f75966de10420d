import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltcli.core.errors import DataError
from ltcli.core.text import nfc
from ltcli.data import listed
from ltcli.data.class_names import read_names
from ltcli.data.source_table import Request

# What may stand in a line: every character but line ends, NUL and lone surrogates.
NAMES = st.text(st.characters(exclude_characters="\n\r\0/", exclude_categories=["Cs"]), min_size=1)
BLANKS = st.text(" \t", min_size=1, max_size=3)


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load_lists(lists, class_names):
    return listed.load_lists(lists, class_names, Request("list"))


def load_table(path, **options):
    return listed.load_table(path, Request("csv", options=options))


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
    found = load_lists({"train": write(folder / "a.txt", mark + text.encode())}, None)
    assert found.parts["train"].files == [path for path, _, _ in rows]
    names = [found.class_names[label] for label in found.parts["train"].labels]
    assert names == [str(label) for _, _, label in rows]
    assert list(map(int, found.class_names)) == sorted({label for _, _, label in rows})


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(
            NAMES.filter(lambda name: name not in (".", "..")),
            NAMES.map(str.strip).map(nfc).filter(lambda label: label and "." not in label),
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
    found = load_table(write(folder / "a.csv", text.getvalue()))
    assert set(found.parts) == {split for _, _, split in rows}
    for part, rows_of in found.parts.items():
        expected = [(name, label) for name, label, split in rows if split == part]
        labels = [found.class_names[label] for label in rows_of.labels]
        assert list(zip(rows_of.files, labels, strict=True)) == expected


def test_published_lists_read_as_they_are(tmp_path):
    train = "train/n01440764/n01440764_190.JPEG 1\ntrain/n01443537/n01443537_4.JPEG 0\n"
    test = "val/ILSVRC2012_val_00000293.JPEG 0\n"
    lists = {"train": write(tmp_path / "a", train), "test": write(tmp_path / "b", test)}
    found = load_lists(lists, write(tmp_path / "names", "tench\r\ngold fish\n\n"))
    assert found.class_names == ("tench", "gold fish")
    assert found.parts["train"].files[0] == "train/n01440764/n01440764_190.JPEG"
    assert found.parts["train"].labels.tolist() == [1, 0]
    assert found.parts["test"].files == ["val/ILSVRC2012_val_00000293.JPEG"]
    assert list(found.parts) == ["train", "test"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.jpg", "a.jpg"),
        ("0", "0"),
        ("a.jpg cat", "a.jpg cat"),
        ("a.jpg -1", "a.jpg -1"),
        ("a.jpg 1.5", "a.jpg 1.5"),
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
    found = load_table(write(tmp_path / "a.csv", 'label,path\r\n" cat","a, b.jpg"\r\n3,c.jpg\r\n'))
    assert (found.class_names, list(found.parts)) == (("3", "cat"), ["train"])
    assert found.parts["train"].files == ["a, b.jpg", "c.jpg"]
    assert found.parts["train"].labels.tolist() == [1, 0]


def test_blanks_behind_commas_are_no_part_of_names(tmp_path):
    text = "path, label, split\na.jpg, cat, train\nb.jpg, cat, test\n"
    found = load_table(write(tmp_path / "a.csv", text))
    assert (found.class_names, list(found.parts)) == (("cat",), ["train", "test"])


PATHS = ": header must have one of the columns path, file, filename, image, img, image_id, got"
LABELS = ": header must have one of the columns label, labels, class, fine_label, got"
TABLES = {
    "": (f"{PATHS} ''", "say which it is with --path-column"),
    "path,Label\n": (f"{LABELS} 'path,Label'", "say which it is with --label-column"),
    "path;label\n": (f"{PATHS} 'path;label'", "separate the columns by commas"),
    "path,label,path\n": (f"{PATHS} 'path,label,path'", "say which it is with --path-column"),
    "path,file,label\n": (f"{PATHS} 'path,file,label'", "say which it is with --path-column"),
    "path,label,split,split\n": (
        ": header must have one column 'split', got 'path,label,split,split'",
        "say which it is with --split-column",
    ),
    "path,label\na,1\nb\n": (":3: must have 2 cells, got 1", None),
    "path,label\na,1\n\nb,1,\n": (":4: must have 2 cells, got 3", None),
    "path,label,split\na,1,train\nb,1,vall\n": (
        ":3: split must be train, val or test, got 'vall'",
        "did you mean 'val'?",
    ),
    'path,label\na,"1\n': (":2: must be CSV: unexpected end of data", None),
    "path,label\na,0\n\na,1\n": (
        ":4: each path must be listed once, got 'a' twice in train",
        "remove one of the two",
    ),
    "path,label\na,0\nb, \n": (
        ":3: label must be a class, got an empty cell",
        "fill it in, or remove the line",
    ),
    'path,label\n"a\nb",0\n,1\n': (":4: paths must lead to a file below the root, got ''", None),
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


def test_columns_are_found_by_their_common_names_or_named(tmp_path):
    path = write(tmp_path / "a.csv", "image_id,breed,class,fold\na,x,1,dev\nb,y,2,Train\n")
    found = load_table(path)
    assert (found.class_names, list(found.parts)) == (("1", "2"), ["train"])
    text = "image_id,breed,class,fold\na,x,1,Train\nb,y,2,training\nc,x,2,dev\n"
    options = {"label_column": "breed", "split_column": "fold", "path_column": "image_id"}
    found = load_table(write(path, text), **options)
    assert found.class_names == ("x", "y")
    assert {part: rows.files for part, rows in found.parts.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
    }
    with pytest.raises(DataError) as caught:
        load_table(path, label_column="Breed")
    line = f"{path}: must have one column 'Breed', got 'image_id,breed,class,fold'"
    assert (str(caught.value), caught.value.hint) == (line, "did you mean 'breed'?")


def test_labels_in_a_list_may_be_whole_numbers_written_as_floats(tmp_path):
    found = load_lists({"train": write(tmp_path / "a", "a 2.0\nb 10.0\nc 2\nd 02\n")}, None)
    assert found.class_names == ("2", "10")
    assert found.parts["train"].labels.tolist() == [0, 1, 0, 0]
