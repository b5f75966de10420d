import os

import pytest

from ltcli.data.decode import BadImageError
from ltcli.data.scan import list_folders, read_file


def refuse(path):
    with pytest.raises(BadImageError) as caught:
        read_file(path)
    return str(caught.value)


def test_a_regular_file_is_read_whole(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 999)
    assert read_file(tmp_path / "file") == bytes(range(256)) * 999


def test_what_took_the_place_of_a_file_since_the_scan_is_not_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert refuse(tmp_path / "link").startswith("cannot be read: too many")
    assert refuse(tmp_path / "pipe") == "is no regular file"
    assert refuse(tmp_path) == "is no regular file"
    assert refuse(tmp_path / "none") == "cannot be read: no such file or directory"


def test_folders_are_listed_by_name(tmp_path):
    for name in ("b", "B", "a", ".c"):
        (tmp_path / "top" / name).mkdir(parents=True)
    listing = list_folders(tmp_path, "top")
    assert listing.found == ("B", "a", "b")
    assert [str(left) for left in listing.harmless] == ["top/.c: is hidden"]
