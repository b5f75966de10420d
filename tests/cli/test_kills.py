"""Every command killed at every change that it makes to a folder, and run once more."""

import json
import os
import subprocess
import sys

import pytest

from ltcli.artifacts.store import open_artifact, save

# The interpreter that has loaded what is slow to load forks each process below. An audit hook is
# called before a file is opened, renamed or removed; os.fsync has no such event.
KILLER = """
import hashlib, json, os, signal, sys
from pathlib import Path
import pydantic
import torch
import torchvision
import ltcli.artifacts.store
import ltcli.engine.fit as fit
import ltcli.report.page
import ltcli.stages.exporting
from ltcli.cli.main import run

torch.set_num_threads(1)
fit.CHECKPOINT_SECONDS = 0 if "crt" in sys.argv else 30
folder, *argv = sys.argv[1:]
folder = Path(folder)
WRITES = os.O_WRONLY | os.O_RDWR


def kill_at(number):
    left = number

    def count(path):
        nonlocal left
        if os.fsdecode(path).startswith(str(folder)) and not os.fsdecode(path).endswith(".lock"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, args):
        if event == "open" and args[2] & WRITES and isinstance(args[0], (str, bytes, os.PathLike)):
            count(args[0])
        elif event in ("os.rename", "os.remove"):
            count(args[0])

    real = os.fsync

    def fsync(descriptor):
        count(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    sys.addaudithook(hook)
    os.fsync = fsync


def outcome(number):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if number is not None:
                kill_at(number)
            code = run(argv)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content():
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def ended(name):
    records = (folder / name).read_text().splitlines()
    return json.loads(records[-1])["event"] == "end"


before = content()
assert outcome(None) == 0
whole = content()
made = set(whole) - set(before)
kills = 0
while True:
    for name in set(content()) - set(before):
        (folder / name).unlink()
    code = outcome(kills)
    if code == 0:
        break
    assert code == -signal.SIGKILL, (kills, code)
    assert all((folder / name).read_bytes() == data for name, data in before.items()), kills
    code, after = outcome(None), content()
    assert code == 0, (kills, code)
    assert set(after) == set(whole), (kills, set(after) ^ set(whole))
    for name in made:
        if name.endswith(".run.jsonl"):
            assert ended(name), kills
        else:
            assert after[name] == whole[name], (kills, name)
    kills += 1
print(json.dumps(kills))
"""

SPLIT = ("split", "digits", "--imbalance-factor", "10", "-d")
MODEL = "pretrain.safetensors"
COMMANDS = {
    "split": (*SPLIT, "{0}", "--out", "{0}/x.safetensors"),
    "pretrain": ("pretrain", "--backbone", "resnet20", "--epochs", "2", "--schedule", "mislas"),
    "dump-features": ("dump-features",),
    "covariances": ("covariances",),
    "merge-covariances": ("merge-covariances", "--other", "{0}/other.safetensors"),
    "confusion": ("confusion",),
    "stg-train": ("stg-train", "--epochs", "2", "--batch-size", "128"),
    "finetune": ("finetune", "--method", "crt", "--epochs", "2"),
    "adjust": ("adjust", "--prior", "uniform"),
    "evaluate": ("evaluate", "--model", MODEL),
    "diagnose": ("diagnose",),
}


def of_other_images(path, target):
    """Save covariances again as if they were of another split."""
    with open_artifact(path) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    about = {"stage": header.stage, "parameters": header.parameters, "inputs": header.inputs}
    info = {**header.info, "split": "0" * 64}
    save(target, "covariances", tensors, **about, info=info)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMANDS, "report", "export"])
def test_whatever_a_kill_leaves_the_next_run_ends(copy, name):
    if name == "report":
        words = ("report", "-d", copy, "--out", copy / "x.html")
    elif name == "export":
        words = ("export", copy / MODEL, "--to", "torch", "--out", copy / "x.pt2")
    else:
        if name == "merge-covariances":
            of_other_images(copy / "covariances.safetensors", copy / "other.safetensors")
        files = {path.name for path in copy.iterdir()}
        words = [copy / word if word in files else word.format(copy) for word in COMMANDS[name]]
        if name != "split":
            words += ["-d", copy, "--out", copy / "x.safetensors"]
        words.append("-q")
    done = subprocess.run(
        [sys.executable, "-c", KILLER, copy, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) > 3
