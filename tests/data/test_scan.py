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
    assert refuse(tmp_path / "link") == "is a link, and links are not followed"
    assert refuse(tmp_path / "pipe") == "is no regular file"
    assert refuse(tmp_path) == "is no regular file"
    assert refuse(tmp_path / "none") == "cannot be read: no such file or directory"


def test_folders_are_listed_by_name(tmp_path):
    for name in ("b", "B", "a", ".c"):
        (tmp_path / "top" / name).mkdir(parents=True)
    listing = list_folders(tmp_path, "top")
    assert listing.found == ("B", "a", "b")
    assert [str(left) for left in listing.harmless] == ["top/.c: is hidden"]


def test_a_folder_of_artifacts_is_no_class(tmp_path):
    names = ("a/1.png", "art/.split.safetensors.lock", "b/2.png", "b/own.safetensors")
    for name in (*names, "c/deep/3.png", "c/own.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    listing = list_folders(tmp_path, "")
    assert listing.found == ("a", "b", "c")
    assert list(map(str, listing.harmless)) == ["art: holds artifacts and no images"]
    assert listing.bad == ()
