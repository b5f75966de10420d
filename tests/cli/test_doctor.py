"""doctor: what it says of an installation that lacks something."""

import json
import sys
from types import SimpleNamespace

import pytest

PAIR = "install torch and torchvision together, from the same index"
DRIVER = "install the torch that fits the driver of this machine"


def test_doctor_finds_a_sound_installation(ltcli, tmp_path):
    done = ltcli("doctor", "-d", tmp_path)
    assert done.code == 0
    assert done.out.count("ok ") == 6
    names = [finding["name"] for finding in json.loads(ltcli("doctor", "--json").out)["findings"]]
    expected = ["packages", "torch and torchvision", "devices", "default", "disk", "write test"]
    assert names == expected


def test_a_folder_that_cannot_be_written_is_named_also_in_the_one_document(ltcli, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    done = ltcli("doctor", "-d", file)
    message = f"doctor: write test: {file} cannot be written: not a directory"
    hint = "choose another --dir"
    assert done.code == 6
    assert done.lines == [f"error: {message}", f"hint: {hint}"]
    document = json.loads(ltcli("doctor", "--json", "-d", file).out)
    assert [finding["ok"] for finding in document["findings"]] == [True] * 5 + [False]
    assert document["error"] == {"code": 6, "message": message, "hint": hint}


def test_a_name_that_no_folder_can_have_is_no_traceback(ltcli, tmp_path):
    folder = tmp_path / ("x" * 300)
    done = ltcli("doctor", "-d", folder)
    assert done.code == 6
    assert done.lines == [
        f"error: doctor: write test: {folder} cannot be written: file name too long",
        "hint: choose another --dir",
    ]


def test_without_torchvision_the_rest_is_still_looked_at(ltcli, tmp_path, monkeypatch):
    # So Python imports a module that is not there.
    monkeypatch.setitem(sys.modules, "torchvision", None)
    done = ltcli("doctor", "-d", tmp_path)
    assert done.code == 6
    assert done.lines == [
        "error: doctor: torch and torchvision: import of torchvision halted; None in sys.modules",
        f"hint: {PAIR}",
    ]
    names = ["packages:", "torch", "disk:", "write"]
    assert [line.split()[1] for line in done.out.splitlines()] == names


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("libcudart.so: cannot open\nmore"), "libcudart.so: cannot open"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_torch_that_does_not_work_is_a_finding(ltcli, tmp_path, monkeypatch, error, text):
    def fail():
        raise error

    monkeypatch.setattr("torch.cuda.device_count", fail)
    done = ltcli("doctor", "-d", tmp_path)
    assert done.code == 6
    assert done.lines[0].startswith(f"error: doctor: devices: {text}")
    assert done.lines[1:] == [f"hint: {DRIVER}"]
    assert "default:" not in done.out


def test_a_file_system_that_knows_no_size_is_not_full(ltcli, tmp_path, monkeypatch):
    unknown = SimpleNamespace(total=0, used=0, free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda _place: unknown)
    done = ltcli("doctor", "-d", tmp_path)
    assert done.code == 0
    assert f"ok      disk: unknown space at {tmp_path}" in done.out.splitlines()


def test_a_disk_that_is_nearly_full_is_said(ltcli, tmp_path, monkeypatch):
    full = SimpleNamespace(total=10**12, used=10**12, free=5 * 10**8)
    monkeypatch.setattr("shutil.disk_usage", lambda _place: full)
    done = ltcli("doctor", "-d", tmp_path)
    assert done.code == 6
    assert done.lines == [
        f"error: doctor: disk: 0.5 GB free at {tmp_path}",
        "hint: free some space, or choose another --dir",
    ]
