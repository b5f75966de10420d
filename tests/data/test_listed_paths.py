import posixpath
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltcli.core.errors import DataError
from ltcli.data.listed_paths import Entries, sound_paths
from ltcli.data.source_table import Request


def sound(parts, root=Path(), source="csv", **options):
    """Sound paths of a table whose header is line 1."""
    entries = {
        part: Entries(Path("t.csv"), paths, [], list(range(2, 2 + len(paths))))
        for part, paths in parts.items()
    }
    return sound_paths(entries, Request(source, root, options=options))


def refused(parts, root=Path(), source="csv", **options):
    with pytest.raises(DataError) as caught:
        sound(parts, root, source, **options)
    return [str(caught.value), caught.value.hint]


def images(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def test_paths_are_brought_to_one_form():
    given = {"train": ["./a//b.jpg", "a/./c.jpg", "..a/d", "a/../e"], "val": ["a/b c.jpg"]}
    assert sound(given) == {"train": ["a/b.jpg", "a/c.jpg", "..a/d", "e"], "val": ["a/b c.jpg"]}


@given(st.lists(st.text("a./ ", max_size=6), max_size=4))
def test_paths_are_those_that_one_at_a_time_would_give(paths):
    short = [posixpath.normpath(path) for path in paths]
    away = [path in (".", "..") or path.startswith(("/", "../")) for path in short]
    if any(away) or len(set(short)) < len(short):
        with pytest.raises(DataError):
            sound({"train": paths})
    else:
        assert sound({"train": paths}) == {"train": short}


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
    rule = f"t.csv:3: paths must lead to a file below the root, got '{shown}'"
    assert refused({"train": ["b", path]}) == [rule, None]


def test_a_path_that_stands_twice_is_refused():
    rule, hint = "each path must be listed once, got", "remove one of the two"
    line = f"t.csv:4: {rule} 'a/b' twice in train"
    assert refused({"train": ["c", "a/b", "a//b"]}) == [line, hint]
    line = f"t.csv:3: {rule} 'a' in train and in test"
    assert refused({"train": ["a"], "test": ["b", "a"]}) == [line, hint]


def test_absolute_paths_below_the_root_become_relative(tmp_path, monkeypatch):
    root = images(tmp_path / "photos", "cat/1.png")
    (tmp_path / "link").symlink_to(root)
    written = [f"{root}/cat/1.png", f"{root}//dog/../2.png", "3.png"]
    found = {"train": ["cat/1.png", "2.png", "3.png"]}
    assert sound({"train": written}, root) == found
    # The root as the user names it, and as the table has it.
    assert sound({"train": written}, tmp_path / "link") == found
    monkeypatch.chdir(tmp_path)
    assert sound({"train": written}, Path("photos")) == found
    assert sound({"train": ["/cat/1.png"]}, Path("/")) == {"train": ["cat/1.png"]}


def test_a_suffix_is_added_to_paths_without_it():
    assert sound({"train": ["a", "b.jpg", "c.d"]}, suffix=".jpg") == {
        "train": ["a.jpg", "b.jpg", "c.d.jpg"]
    }
    line = "t.csv:3: each path must be listed once, got 'a.jpg' twice in train"
    assert refused({"train": ["a", "a.jpg"]}, suffix=".jpg")[0] == line


@pytest.mark.parametrize(
    "written",
    ["photos/cat/1.png", "/home/me/photos/cat/1.png", "C:\\photos\\cat\\1.png", "..\\cat\\1.png"],
)
def test_a_wrong_prefix_or_backslashes_name_the_line_and_what_the_path_would_have_to_be(
    tmp_path, written
):
    root = images(tmp_path / "photos", "cat/1.png", "2.png")
    line = f"t.csv:3: paths must lead to a file below the root, got '{written}'"
    hint = f"write 'cat/1.png', relative to {root}"
    assert refused({"train": ["2.png", written]}, root) == [line, hint]


def test_a_missing_suffix_is_said_with_the_option(tmp_path):
    images(tmp_path, "cat/1.JPG", "2.png")
    line = "t.csv:2: paths must lead to a file below the root, got"
    hint = "--suffix .JPG makes it 'cat/1.JPG'"
    assert refused({"train": ["cat/1"]}, tmp_path) == [f"{line} 'cat/1'", hint]
    # Sources of one published form have no such option.
    hint = f"write 'cat/1.JPG', relative to {tmp_path}"
    assert refused({"train": ["cat/1"]}, tmp_path, "inat2018") == [f"{line} 'cat/1'", hint]
    assert refused({"train": ["/x/2"]}, tmp_path)[1] == f"write '2.png', relative to {tmp_path}"


def test_a_name_in_another_form_of_unicode_is_said(tmp_path):
    images(tmp_path, "cafe\u0301/1.png")
    line = "t.csv:2: paths must lead to a file below the root, got 'caf\u00e9/1.png'"
    hint = "the file's name is in another form of Unicode; write it as the file has it"
    assert refused({"train": ["caf\u00e9/1.png"]}, tmp_path) == [line, hint]


def test_a_file_lost_from_a_folder_that_is_there_is_left_to_the_reading_of_images(tmp_path):
    images(tmp_path, "cat/2.png", "1.png", "dog/1.png")
    assert sound({"train": ["cat/1.png"]}, tmp_path) == {"train": ["cat/1.png"]}
    assert sound({"train": ["eel/9.png"]}, tmp_path) == {"train": ["eel/9.png"]}
    # Not even of a path of a million names are more than a few looked for.
    assert sound({"train": ["a/" * 10**6 + "b"]}, tmp_path)
