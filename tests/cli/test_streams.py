"""Standard output: readers that stop, Ctrl-C, and names that it cannot show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# The words of a command line that prints, and of one that fails and prints with --json.
PRINTING = [
    ("show", "pretrain.safetensors"),
    ("compare", "--csv", "evaluate-pretrain.safetensors"),
    ("show", "--json", "nothing.safetensors"),
]


@pytest.mark.parametrize("words", PRINTING, ids=lambda words: words[-2])
def test_output_can_be_piped_into_a_reader_that_stops(chain: Path, words: tuple[str, ...]):
    code = "import sys; from ltcli.cli.main import run; sys.exit(run(sys.argv[1:]))"
    reader, writer = os.pipe()
    os.close(reader)
    call = [sys.executable, "-c", code, *words]
    done = subprocess.run(call, cwd=chain, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_interrupted_command_says_so(ltcli, chain, monkeypatch, options):
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ltcli.cli.reading.verify", interrupt)
    done = ltcli("show", *options, chain / "split.safetensors")
    assert done.code == 130
    assert done.err.splitlines() == ["error: interrupted"]
    error = {"code": 130, "message": "interrupted", "hint": None}
    assert done.out == (json.dumps({"error": error}) + "\n" if options else "")
