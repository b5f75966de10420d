from types import SimpleNamespace

import pytest

from ltcli.compute import environment
from ltcli.core.errors import ParamError


@pytest.mark.parametrize(("platform", "expected"), [("linux", 2048.0), ("darwin", 2.0)])
def test_peak_memory_is_in_millions_of_bytes(monkeypatch, platform, expected):
    used = SimpleNamespace(ru_maxrss=2_000_000)
    monkeypatch.setattr("resource.getrusage", lambda _who: used)
    monkeypatch.setattr("sys.platform", platform)
    assert environment.peak_memory()["peak_memory_mb"] == expected


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("RANK", "abc", "RANK must be a whole number in 0 ... 1, got abc"),
        ("RANK", "2", "RANK must be a whole number in 0 ... 1, got 2"),
        ("RANK", "-1", "RANK must be a whole number in 0 ... 1, got -1"),
        ("RANK", "", "RANK must be a whole number in 0 ... 1, got "),
        ("WORLD_SIZE", "0", "WORLD_SIZE must be a whole number of at least 1, got 0"),
        ("WORLD_SIZE", "1_0", "WORLD_SIZE must be a whole number of at least 1, got 1_0"),
        (
            "WORLD_SIZE",
            "9" * 5000,
            "WORLD_SIZE must be a whole number of at least 1, got " + "9" * 57,
        ),
    ],
    ids=lambda value: value[:12],
)
def test_numbers_of_torchrun_are_checked(monkeypatch, name, text, rule):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, text)
    with pytest.raises(ParamError) as caught:
        environment.processes()
    assert str(caught.value).removesuffix("...") == f"environment: {rule}"
    assert "torchrun sets it" in caught.value.hint


def test_a_machine_has_at_least_one_process(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "0")
    with pytest.raises(ParamError, match="LOCAL_WORLD_SIZE must be a whole number of at least 1"):
        environment.local_processes()
