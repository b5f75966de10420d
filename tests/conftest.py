"""Fixtures that every test may use."""

import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ltcli.cli.main import run

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers, and the programs that they start, share the cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

# Thousands of tests live to the end: Python need not look through them for garbage.
gc.set_threshold(5000)


def pytest_collection_finish() -> None:
    """Leave the collected tests alone from now on."""
    gc.freeze()


@dataclass(frozen=True)
class Done:
    """What a command line gave."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The error lines, without the log before them."""
        lines = self.err.splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith("error: ")]
        return lines[starts[0] :] if starts else lines


@pytest.fixture(autouse=True)
def _log() -> None:
    """Let caplog see the log, which a command line of an earlier test has sent elsewhere."""
    logger = logging.getLogger("ltcli")
    logger.handlers[:], logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def ltcli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the command line in this process."""

    def call(*args: object) -> Done:
        capsys.readouterr()
        code = run([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny artifact of each kind; never write into it, copy it."""
    folder = tmp_path_factory.mktemp("chain")
    common = ["-q", "-d", str(folder)]
    assert run(["split", "digits", "--imbalance-factor", "10", *common]) == 0
    assert run(["pretrain", "--backbone", "resnet20", "--epochs", "2", *common]) == 0
    assert run(["dump-features", "--maps", "--views", "2", *common]) == 0
    assert run(["covariances", *common]) == 0
    assert run(["confusion", *common]) == 0
    assert run(["stg-train", "--epochs", "2", "--batch-size", "128", *common]) == 0
    assert run(["finetune", "--method", "crt", "--epochs", "2", *common]) == 0
    assert run(["evaluate", *common]) == 0
    return folder


@pytest.fixture
def copy(chain: Path, tmp_path: Path) -> Path:
    """A copy of the tiny chain that a test may change."""
    import shutil

    target = tmp_path / "chain"
    shutil.copytree(chain, target)
    return target


def python(*args: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
    """Run a fresh interpreter."""
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=timeout, check=False
    )
