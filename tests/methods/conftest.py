"""Fixtures of the tests of methods."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ltcli import methods
from ltcli.artifacts.store import open_artifact
from ltcli.core.params import build
from ltcli.engine.fit import Batch
from ltcli.methods.method import weighted_mean
from ltcli.stages import STAGES


def parameters(name: str, stage: str, **given: object) -> Any:
    """The parameters of a stage with a method's own and its defaults."""
    params = next(entry.params for entry in STAGES if entry.name == stage)
    record = methods.with_options(params, methods.METHODS[name], stage)
    return build(record, {"method": name, **given}, stage)


@pytest.fixture
def options() -> Callable[..., Any]:
    return parameters


@pytest.fixture
def objective() -> Callable[..., Callable[..., torch.Tensor]]:
    """The mean loss of a batch that a method minimises: its losses, reduced with its weights."""

    def made(
        name: str, counts: list[int], stage: str = "pretrain", **given: object
    ) -> Callable[..., torch.Tensor]:
        params, class_counts = parameters(name, stage, **given), torch.tensor(counts)
        loss = methods.make_loss(methods.METHODS[name], params, class_counts)
        mean = weighted_mean(params, class_counts, getattr(params, "defer", 0))

        def value(logits: torch.Tensor, labels: torch.Tensor, epoch: int = 0) -> torch.Tensor:
            batch = Batch(epoch, 0, 0, torch.arange(len(labels)))
            return mean(loss(logits, labels, batch), labels, batch)

        return value

    return made


@pytest.fixture
def kept(ltcli, copy: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """Train two epochs on the tiny split, and return each tensor after each of them."""

    def trained(name: str, *given: str) -> dict[str, torch.Tensor]:
        out = copy / f"kept-{name}.safetensors"
        command = ("pretrain", "--backbone", "resnet20", "--epochs", "2", "--snapshots", "2")
        done = ltcli(*command, "--method", name, *given, "--out", out, "--force", "-q", "-d", copy)
        assert done.code == 0, done.err
        with open_artifact(out) as model:
            return model.load("snapshots.*")

    return trained
