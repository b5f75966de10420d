"""plot: what is refused."""

from importlib.util import find_spec

import pytest

from ltcli.cli import plot as command


@pytest.fixture
def folder(ltcli, copy):
    """The tiny chain with a diagnosis."""
    assert ltcli("diagnose", "-q", "-d", copy).code == 0
    return copy


def test_another_kind_is_refused(ltcli, chain):
    done = ltcli("plot", chain / "split.safetensors")
    assert done.code == 3
    assert done.lines == [
        f"error: {chain}/split.safetensors: must be of kind diagnosis, got split",
        "hint: run ltcli diagnose first",
    ]


def test_a_folder_without_a_diagnosis_is_an_error(ltcli, tmp_path):
    done = ltcli("plot", "-d", tmp_path)
    assert done.code == 3
    assert done.lines == [f"error: {tmp_path}: has no diagnosis", "hint: run ltcli diagnose first"]


@pytest.mark.parametrize(("dpi", "rule"), [(19, "at least 20"), (1201, "at most 1200")])
def test_dots_must_be_in_range(ltcli, chain, dpi, rule):
    done = ltcli("plot", "-d", chain, "--dpi", dpi)
    assert done.code == 2
    assert done.lines == [f"error: plot: dpi must be {rule}, got {dpi}"]


def test_a_missing_extra_is_named_with_its_remedy(ltcli, folder, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda n: None if n == "sklearn" else find_spec(n))
    done = ltcli("plot", "-d", folder)
    assert done.code == 6
    assert done.lines == [
        "error: plot: figures need scikit-learn, which is not installed",
        "hint: pip install 'ltcli[plots]'",
    ]


def test_a_folder_that_cannot_be_written_is_named(ltcli, folder, tmp_path):
    (tmp_path / "file").touch()
    done = ltcli("plot", "-d", folder, "--out", tmp_path / "file")
    assert done.code == 6
    assert done.lines == [
        f"error: {tmp_path}/file/diagnose-spectrum.png: cannot be written: {tmp_path}/file is not a"
        " writable folder",
        "hint: choose another --out",
    ]
