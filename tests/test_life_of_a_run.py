"""How much of the program one run executes: few files, few functions, nothing twice."""

import collections
import json
import subprocess
import sys

import pytest

# A stranger who follows this run has to read no more than this; see docs on the life of one run.
# The rules of what an artifact may hold take four files and 31 functions of these.
MOST_FILES, MOST_FUNCTIONS = 36, 205

TRACED = """
import collections, inspect, json, os, sys
import ltcli
from ltcli.cli.main import run

base = os.path.dirname(ltcli.__file__) + os.sep
codes, frames = set(), []
parsed, declared = collections.Counter(), collections.Counter()


def trace(frame, event, _argument):
    code = frame.f_code
    # The bodies of modules and classes are not optimised: they are definitions, no calls.
    if event != "call" or not code.co_filename.startswith(base):
        return
    if not code.co_flags & inspect.CO_OPTIMIZED:
        return
    # From Python 3.12 on a comprehension runs within its function.
    if code.co_name in ("<listcomp>", "<dictcomp>", "<setcomp>"):
        return
    codes.add((code.co_filename[len(base):], code.co_qualname, code.co_firstlineno))
    if code.co_name == "parse_header":
        parsed[os.path.basename(frame.f_locals["path"])] += 1
    if code.co_qualname == "_specs":
        declared[frame.f_locals["params"].__qualname__] += 1
    if code.co_qualname == "planned":
        frames.append(frame)


sys.setprofile(trace)
exit_code = run(sys.argv[1:])
sys.setprofile(None)
by_file = collections.Counter(file for file, _, _ in codes)
found = {"code": exit_code, "files": by_file, "parsed": parsed, "declared": declared}
print(json.dumps(found | {"plans": len(frames)}))
"""


@pytest.fixture(scope="module")
def traced(chain, tmp_path_factory):
    """What a run of cRT on a feature bank executes, in a process of its own."""
    out = tmp_path_factory.mktemp("traced") / "crt.safetensors"
    words = ("finetune", "--method", "crt", "--epochs", "2", "-q", "--json")
    done = subprocess.run(
        [sys.executable, "-c", TRACED, *words, "-d", chain, "--out", out],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0
    return found


def test_few_files_and_functions_are_executed(traced):
    by_file = collections.Counter(traced["files"])
    assert len(by_file) <= MOST_FILES, sorted(by_file)
    assert by_file.total() <= MOST_FUNCTIONS, by_file.most_common()


def test_every_header_is_read_once_and_the_run_is_planned_once(traced):
    assert traced["parsed"] == {"pretrain.safetensors": 1, "dump-features.safetensors": 1}
    assert traced["plans"] == 1


def test_only_the_called_command_is_declared_and_each_declaration_is_read_once(traced):
    assert set(traced["declared"].values()) == {1}
    assert set(traced["declared"]) == {"Params", "Running", "NoOptions"}
