from types import SimpleNamespace

import pytest

from ltcli.compute import environment


@pytest.mark.parametrize(("platform", "expected"), [("linux", 2048.0), ("darwin", 2.0)])
def test_peak_memory_is_in_millions_of_bytes(monkeypatch, platform, expected):
    used = SimpleNamespace(ru_maxrss=2_000_000)
    monkeypatch.setattr("resource.getrusage", lambda _who: used)
    monkeypatch.setattr("sys.platform", platform)
    assert environment.peak_memory()["peak_memory_mb"] == expected
