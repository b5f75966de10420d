"""Standard output: readers that stop, Ctrl-C, and names that it cannot show."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ltcli import __version__
from ltcli.cli.main import main

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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", PRINTING, ids=lambda words: words[-2])
def test_output_that_cannot_be_written_is_an_error(chain: Path, words: tuple[str, ...]):
    code = "from ltcli.cli.main import main; main()"
    with Path("/dev/full").open("wb") as full:
        call = [sys.executable, "-c", code, *words]
        done = subprocess.run(call, cwd=chain, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 6
    lines = ["error: standard output: the disk is full", "hint: free some space"]
    assert done.stderr.decode().splitlines()[-2:] == lines
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_messages_that_cannot_be_written_are_lost_and_the_work_is_done(tmp_path: Path):
    code = "from ltcli.cli.main import main; main()"
    words = ("split", "digits", "-d", str(tmp_path))
    with Path("/dev/full").open("wb") as full:
        call = [sys.executable, "-c", code, *words]
        done = subprocess.run(call, stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[0] == f"{tmp_path}/split.safetensors"
    assert (tmp_path / "split.run.jsonl").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
def test_too_little_memory_to_load_torch_is_an_error(chain: Path, tmp_path: Path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9));"
    code += "from ltcli.cli.main import main; main()"
    words = ("covariances", "-d", str(chain), "--out", str(tmp_path / "c.safetensors"))
    call = [sys.executable, "-c", code, *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.splitlines() == [
        "error: ltcli covariances: out of memory",
        "hint: raise the limit of memory: see ulimit -v",
    ]


@pytest.mark.parametrize("error", [OSError(28, "full", "a.txt"), OSError(5, "input/output error")])
def test_other_failures_of_the_system_are_bugs(ltcli, chain, monkeypatch, error):
    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr("ltcli.cli.reading.verify", fail)
    with pytest.raises(OSError, match=str(error.strerror)):
        ltcli("show", chain / "split.safetensors")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_interrupted_command_says_so(ltcli, chain, monkeypatch, options):
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ltcli.cli.reading.verify", interrupt)
    done = ltcli("show", *options, chain / "split.safetensors")
    assert done.code == 130
    assert done.err.splitlines() == ["error: interrupted"]
    error = {"code": 130, "message": "interrupted", "hint": None}
    assert [json.loads(line) for line in done.out.splitlines()] == [{"error": error}] * len(options)


def test_a_name_that_standard_output_cannot_show_is_escaped(chain, tmp_path):
    file = tmp_path / "split-\udcff.safetensors"
    shutil.copy(chain / "split.safetensors", file)
    code = "from ltcli.cli.main import main; main()"
    call = [sys.executable, "-c", code, "show", file]
    done = subprocess.run(
        call, capture_output=True, env=os.environ | {"PYTHONUTF8": "1"}, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    first = done.stdout.decode().splitlines()[0]
    assert first.startswith(f"{tmp_path}/split-\\udcff.safetensors: split (")


def test_standard_output_may_be_replaced_by_what_has_no_encoding(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.argv", ["ltcli", "--version"])
    with pytest.raises(SystemExit) as left:
        main()
    assert (left.value.code, out.getvalue()) == (0, f"{__version__}\n")
