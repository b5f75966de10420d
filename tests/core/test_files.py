import os

import pytest

from ltcli.core.errors import DataError, ParamError
from ltcli.core.files import open_regular, read_table, read_text


def refused(function, path, error=DataError):
    with pytest.raises(error) as caught:
        list(function(path, error))
    return [str(caught.value), caught.value.hint]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_only_regular_files_are_opened_and_no_pipe_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(write(tmp_path / "file", b"content"))
    for path in (tmp_path, tmp_path / "pipe", "/dev/null"):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_has_one_kind_of_line_ends_and_no_byte_order_mark(tmp_path, end):
    path = write(tmp_path / "a", f"\ufeffgr\u00f6\u00dfe{end}b{end}{end}")
    assert read_text(path, DataError) == "gr\u00f6\u00dfe\nb\n\n"
    assert read_text(path, DataError, path.stat().st_size) == "gr\u00f6\u00dfe\nb\n\n"


def test_a_text_that_is_too_large_or_not_utf_8_is_refused(tmp_path):
    path = write(tmp_path / "a", b"a\nb\n\xffc\n")
    rule = "must be UTF-8 text, got byte 0xff"
    assert refused(read_text, path) == [f"{path}:3: {rule}", "save the file as UTF-8"]
    with pytest.raises(ParamError) as caught:
        read_text(path, ParamError, 6)
    assert str(caught.value) == f"{path}: must be at most 6 bytes, got more"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_rows_of_a_table_come_with_their_lines(tmp_path, end):
    path = write(tmp_path / "a", f'\ufeffx,y{end}1,2{end}"a, b",')
    step = 2 if end == "\n\n" else 1
    rows = [(1, ["x", "y"]), (1 + step, ["1", "2"]), (1 + 2 * step, ["a, b", ""])]
    assert list(read_table(path, DataError)) == rows


def test_a_table_that_is_no_csv_names_its_line(tmp_path):
    path = write(tmp_path / "a", 'x,y\n1,"2\n')
    assert refused(read_table, path) == [f"{path}:2: must be CSV: unexpected end of data", None]
    path = write(tmp_path / "a", b"x,y\n1,\xff\n")
    rule = "must be UTF-8 text, got other bytes"
    assert refused(read_table, path) == [f"{path}: {rule}", "save the file as UTF-8"]


@pytest.mark.parametrize("function", [read_text, read_table])
@pytest.mark.parametrize("error", [DataError, ParamError])
def test_what_cannot_be_opened_is_an_error_of_the_class_that_is_asked_for(
    tmp_path, function, error
):
    os.mkfifo(tmp_path / "pipe")
    reasons = {
        "none": "no such file",
        "pipe": "cannot be read: not a regular file",
        "a/b": "no such file",
        "nul\0": "cannot be read: embedded null byte",
        "x" * 300: "cannot be read: file name too long",
    }
    for name, reason in reasons.items():
        path = tmp_path / name
        assert refused(function, path, error) == [f"{path}: {reason}", None]
