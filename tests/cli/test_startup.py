"""What must answer at once loads no torch: asserted on modules, never on seconds."""

import json
import subprocess
import sys

import pytest

from ltcli.cli.main import GROUPS
from ltcli.stages import STAGES
from tests.conftest import python

HEAVY = ("torch", "torchvision", "numpy", "safetensors", "PIL", "matplotlib", "jinja2")
CODE = """
import json, sys
from ltcli.cli.main import run
code = run(sys.argv[1:])
heavy = [name for name in {heavy!r} if name in sys.modules]
sys.stderr.write("\\n" + json.dumps([code, heavy]))
"""


def start(*args):
    """Run a command line in a fresh interpreter: exit code, heavy modules, standard output."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(heavy=HEAVY), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    code, heavy = json.loads(done.stderr.splitlines()[-1])
    return code, heavy, done.stdout


ALL = """
import contextlib, io, json, sys
from ltcli.cli.main import run
found = []
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run(words)
    heavy = [name for name in {heavy!r} if name in sys.modules]
    found.append([words, code, bool(out.getvalue()), heavy])
print(json.dumps(found))
"""
HELP = [
    *((one.name, "--help") for group in GROUPS.values() for one in group),
    ("finetune", "--method", "crt", "-h"),
    ("methods",),
    ("methods", "--json"),
    ("methods", "tau-norm"),
]


def start_all(commands, heavy):
    """Run command lines one after the other in one fresh interpreter, looking at each."""
    code = ALL.format(heavy=heavy)
    call = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def test_help_and_the_table_of_methods_load_neither_torch_nor_numpy():
    commands = [["--help"], ["--version"], *map(list, HELP)]
    expected = [[words, 0, True, []] for words in commands]
    assert start_all(commands, HEAVY) == expected


def test_every_stage_names_its_examples_in_its_help(ltcli):
    for stage in STAGES:
        # A line that goes on ends in a backslash.
        out = ltcli(stage.name, "--help").out.replace("\\\n", "")
        assert all(" ".join(line.split()) in " ".join(out.split()) for line in stage.examples)


@pytest.mark.parametrize("command", ["show", "lineage"])
def test_reading_an_artifact_loads_neither_torch_nor_numpy(chain, command):
    code, heavy, out = start(command, chain / "finetune-crt.safetensors")
    assert code == 0
    assert heavy == []
    assert "finetune-crt.safetensors" in out


UP_TO_DATE = [
    ("pretrain", "--backbone", "resnet20", "--epochs", "2"),
    ("dump-features", "--maps", "--views", "2"),
    ("covariances",),
    ("confusion",),
    ("finetune", "--method", "crt", "--epochs", "2"),
    ("evaluate",),
]


@pytest.mark.parametrize("args", UP_TO_DATE, ids=lambda args: args[0])
def test_a_stage_that_is_up_to_date_loads_neither_torch_nor_numpy(chain, args):
    code, heavy, out = start(*args, "--json", "-d", chain)
    assert code == 0
    assert heavy == []
    results = json.loads(out)
    for result in results if isinstance(results, list) else [results]:
        assert result["status"] == "up to date"


def test_a_split_that_is_up_to_date_loads_no_torch(chain):
    # The check of its parameters may load numpy.
    code, heavy, out = start("split", "digits", "--imbalance-factor", "10", "--json", "-d", chain)
    assert code == 0
    assert "torch" not in heavy
    assert json.loads(out)["status"] == "up to date"


@pytest.mark.parametrize(
    "args",
    [
        ("pretrain", "--lr", "-1"),
        ("pretrain", "--epocks", "3"),
        ("finetune", "--method", "nothing"),
        ("evaluate", "-d", "nowhere"),
        ("covariances", "--dry-run", "-d", "nowhere"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_told_without_torch(args):
    code, heavy, _ = start(*args)
    assert code in (2, 3)
    assert heavy == []


def test_the_help_of_a_stage_does_not_wait_for_pydantic():
    # Typer loads it to read options, and it takes longer than all the rest of the help.
    commands = [[stage.name, "--help"] for stage in STAGES]
    assert start_all(commands, ("pydantic",)) == [[words, 0, True, []] for words in commands]


def test_work_without_image_files_or_timm_s_networks_loads_no_timm_torchvision_or_compiler(copy):
    # torchvision drags in torch._dynamo, which takes longer than torch itself.
    commands = [
        ["pretrain", "--backbone", "resnet20", "--epochs", "1", "--force"],
        ["dump-features", "--force"],
        ["covariances", "--force"],
        ["confusion", "--force"],
        ["stg-train", "--epochs", "1", "--force"],
        ["finetune", "--method", "ncm"],
        ["finetune", "--method", "crt", "--epochs", "1", "--force"],
        ["evaluate", "--force"],
        ["predict", "--help"],
    ]
    commands = [[*words, *(() if "--help" in words else ("-d", str(copy)))] for words in commands]
    found = start_all(commands, ("timm", "torchvision", "torch._dynamo"))
    assert found == [[words, 0, True, []] for words in commands]


@pytest.mark.parametrize("module", ["torchvision", "onnx"])
def test_nothing_is_said_at_the_exit_of_what_was_loaded(module):
    pytest.importorskip(module)
    program = f"import sys, {module}; sys.argv[1:] = ['--version']; from ltcli.cli.main import main"
    done = python("-c", f"{program}; main()")
    assert (done.returncode, done.stderr) == (0, "")
