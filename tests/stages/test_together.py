"""Stages run by two processes, against one process."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from tests.conftest import python

PRETRAIN = ("pretrain", "--backbone", "resnet20", "--batch-size", "64", "--precision", "fp32")


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def launch(*args, size=2):
    """Start a command as so many processes, as torchrun does."""
    return start("-m", "ltcli", *args, "--device", "cpu", size=size)


def start(*args, size=2):
    """Start Python as so many processes that can find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, args)],
            env=os.environ | place | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL if rank == 0 else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def together(*args):
    """Run a command as two processes, and return their codes and what each said."""
    processes = launch(*args)
    said = [process.communicate(timeout=120) for process in processes]
    said = [said[0][1], "".join(said[1])]
    return [process.returncode for process in processes], said


# torchvision is what first imports ``torch.distributed.nn``, in the middle of a run.
LATE = """
import os, sys, weakref
import torch
import torch.distributed as dist
from ltcli.compute.parallel import connected

with connected(int(os.environ["RANK"]), 2, torch.device("cpu")) as world:
    assert "torchvision" not in sys.modules
    import torchvision
    group = weakref.ref(dist.group.WORLD)
    assert world.agreed(True)
sys.exit(group() is not None)
"""


@pytest.mark.slow
def test_nothing_of_the_connection_outlives_it():
    # Threads that do would abort a process at its end, now and then.
    processes = start("-c", LATE)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said


def test_a_stage_that_shares_no_work_is_for_one_process(ltcli, chain, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = ltcli("covariances", "-d", chain)
    hint = "hint: start it without torchrun"
    line = "error: covariances: it must be run by 1 process, got 2"
    assert (done.code, done.lines) == (2, [line, hint])


@pytest.mark.parametrize(
    ("stage", "method"),
    [
        ("pretrain", "l2rw"),
        ("pretrain", "meta-weight-net"),
        ("finetune", "metasaug"),
        ("finetune", "meta-class-weight"),
    ],
)
def test_steps_that_are_differentiated_are_for_one_process(
    ltcli, chain, monkeypatch, stage, method
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = ltcli(stage, "--method", method, "-d", chain)
    line = f"error: {stage}: {method} must be run by 1 process, got 2"
    assert (done.code, done.lines) == (2, [line, "hint: start it without torchrun"])


@pytest.mark.slow
def test_two_processes_make_what_one_makes(ltcli, copy, monkeypatch):
    one, two = copy / "one", copy / "two"
    for folder in (one, two):
        folder.mkdir()
        shutil.copy(copy / "split.safetensors", folder)
    # At the usual rate, rounding alone moves a run of one process with another number of threads by
    # a tenth in one epoch.
    commands = (
        (*PRETRAIN, "--epochs", "1", "--lr", "0.001"),
        ("dump-features", "--precision", "fp32"),
        ("finetune", "--method", "crt", "--data", "images", "--epochs", "1"),
        ("evaluate", "--precision", "fp32"),
    )
    for command in commands:
        alone = [part.format(one) for part in command]
        assert ltcli(*alone, "-d", one).code == 0
        shared = [part.format(two) for part in command]
        codes, said = together(*shared, "-d", two)
        assert codes == [0, 0], said
        # One speaks for both.
        assert "done in" in said[0]
        assert said[1] == ""
    for name in ("pretrain", "finetune-crt", "evaluate-pretrain", "dump-features"):
        expected, made = (tensors_of(f / f"{name}.safetensors") for f in (one, two))
        assert expected.keys() == made.keys()
        for key, tensor in expected.items():
            if tensor.is_floating_point():
                scale = max(1.0, tensor.abs().max().item())
                gap = (made[key] - tensor).abs().max().item()
                assert gap < 1e-3 * scale, (name, key, gap)
            else:
                assert made[key].equal(tensor), (name, key)
    # Batches are not parted: features of one model are the same to the last bit, if one process
    # has the same number of threads.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "ltcli", "dump-features", "--precision", "fp32", "--force"]
    subprocess.run([*command, "-d", str(two), "-q"], check=True, capture_output=True)
    again = tensors_of(two / "dump-features.safetensors")
    assert all(again[key].equal(tensor) for key, tensor in made.items())


@pytest.mark.slow
def test_torchrun_evaluates_every_model_of_a_folder(copy):
    # It keeps what processes tell each other from one model to the next.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = ("torch.distributed.run", "--nproc-per-node", "2", "--master-port", port)
    command = ("-m", "ltcli", "evaluate", "--force", "--device", "cpu", "-d", str(copy))
    done = python("-m", *torchrun, *command)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("evaluate: done in") == 2
    for name in ("pretrain", "finetune-crt"):
        assert done.stdout.count(f"{copy}/evaluate-{name}.safetensors") == 1


@pytest.mark.slow
def test_a_signal_to_all_saves_and_the_next_run_goes_on(copy):
    out, checkpoint = copy / "long.safetensors", copy / "long.resume.safetensors"
    command = (*PRETRAIN, "--epochs", "25", "--out", out, "-d", copy)
    processes = launch(*command)
    until = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.05)
    for process in reversed(processes):
        process.send_signal(signal.SIGTERM)
    said = processes[0].communicate(timeout=60)[1]
    processes[1].communicate(timeout=60)
    assert processes[0].returncode == 143
    assert said.splitlines()[-1] == "hint: run the same command again to go on"
    position = read_header(checkpoint).info["position"]
    assert (position["epoch"], position["step"]) > (0, 0)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_the_next_one_goes_on(copy):
    out = copy / "long.safetensors"
    command = (*PRETRAIN, "--epochs", "25", "--out", out, "-d", copy)
    processes = launch(*command)
    checkpoint = copy / "long.resume.safetensors"
    until = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    said = processes[0].communicate(timeout=60)[1]
    processes[1].communicate(timeout=60)
    assert processes[0].returncode == 6
    line, hint = said.splitlines()[-2:]
    # Behind it is what the connection says, with its addresses.
    lost = r"error: torchrun: another process of this run has died: .*(closed|reset|Broken pipe).*"
    assert re.fullmatch(lost, line)
    assert hint == "hint: the same command again goes on"
    assert not out.exists()
    before = read_header(checkpoint).info["position"]["epoch"]
    assert before > 0
    codes, said = together(*command)
    assert codes == [0, 0]
    first = re.search(r"epoch (\d+)/25", said[0])
    assert int(first[1]) > before
    assert torch.isfinite(tensors_of(out)["classifier.weight"]).all()
