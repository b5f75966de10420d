"""Listing a folder: what is found, and what every command says where it cannot."""

import os

import pytest

from ltcli.artifacts.folder import list_folder, read_folder
from ltcli.core.errors import ArtifactError


def test_artifacts_come_in_order_of_their_names_and_other_files_are_left_out(tmp_path):
    for name in ("b.safetensors", "a.safetensors", "c.txt", ".a.safetensors.lock"):
        (tmp_path / name).touch()
    names = ["a.safetensors", "b.safetensors"]
    assert list_folder(tmp_path) == [tmp_path / name for name in names]


def test_a_file_that_is_no_artifact_is_named_with_the_hint(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="not a sound artifact") as error:
        read_folder(tmp_path, "remove it")
    assert error.value.hint == "remove it"


def commands(folder, file):
    """Every command that lists a folder."""
    return (
        ("compare", "-d", folder),
        ("report", "-d", folder),
        ("evaluate", "-d", folder),
        ("show", "-d", folder),
        ("lineage", file, "-d", folder),
    )


def test_a_folder_that_is_not_there_is_said_to_be_missing(ltcli, chain, tmp_path):
    for words in commands(tmp_path / "nowhere", chain / "split.safetensors"):
        done = ltcli(*words)
        assert (done.code, done.out) == (3, "")
        assert done.lines == [
            f"error: {tmp_path}/nowhere: no such folder",
            "hint: name the folder that holds the artifacts",
        ]


def test_a_folder_that_cannot_be_listed_is_an_error(ltcli, chain, tmp_path):
    folder = tmp_path / ("x" * 300)
    for words in (*commands(folder, chain / "split.safetensors"), ("plot", "-d", folder)):
        done = ltcli(*words)
        assert (done.code, done.out) == (3, "")
        assert done.lines == [f"error: {folder}: cannot be read: file name too long"]


def test_a_folder_without_permission_is_not_an_empty_one(ltcli, chain, tmp_path, monkeypatch):
    scandir = os.scandir

    def refuse(folder):
        if folder == tmp_path:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    for words in (*commands(tmp_path, chain / "split.safetensors"), ("plot", "-d", tmp_path)):
        done = ltcli(*words)
        assert (done.code, done.out) == (3, "")
        assert done.lines == [f"error: {tmp_path}: cannot be read: permission denied"]
