"""Fixtures of the tests of methods."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ltcli import methods
from ltcli.artifacts.store import open_artifact
from ltcli.core.params import build
from ltcli.engine.fit import Batch
from ltcli.methods.method import Setting, weighted_mean
from ltcli.models import small_images
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network, build_backbone
from ltcli.stages import STAGES

COUNTS = torch.tensor([12, 6, 4, 2])
LABELS = torch.arange(4).repeat_interleave(COUNTS)


@dataclasses.dataclass(frozen=True)
class Weighting:
    """What a stage says of class weights."""

    beta: float = 0.0
    reduction: str = "weighted-mean"


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


@pytest.fixture
def bilevel():
    """Make a setting: 24 samples of 4 classes, 8 held-out ones; float64 unless it has images."""

    def make(whole=False, lr=0.05, weighting=Weighting()):
        rng = torch.Generator().manual_seed(1)
        dtype = torch.float32 if whole else torch.float64
        shape = (3, 8, 8) if whole else (5,)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            backbone = (
                build_backbone(small_images.backbone("resnet20")) if whole else torch.nn.Identity()
            )
            network = Network(backbone, Classifier(64 if whole else 5, 4)).to(dtype).train()
        network.classifier.bias.data = torch.randn(4, generator=rng, dtype=dtype)
        network.classifier.scales.data = torch.rand(4, generator=rng, dtype=dtype) + 0.5
        data = torch.randn(24, *shape, generator=rng, dtype=dtype)
        data = data + LABELS.view(24, *[1] * len(shape)) / 4
        held_out = torch.randn(8, *shape, generator=rng, dtype=dtype)
        moving = [p for p in network.parameters() if p.requires_grad]
        return Setting(
            network=network,
            whole=whole,
            optimizer=torch.optim.SGD(moving, lr=lr),
            inputs=lambda batch: data[batch.rows],
            maps=None,
            labels=LABELS,
            held_out=lambda batch: held_out[batch.rows],
            held_out_labels=torch.arange(8) % 4,
            class_counts=COUNTS,
            order=lambda epoch: torch.randperm(24, generator=torch.Generator().manual_seed(epoch)),
            reduce=weighted_mean(weighting, COUNTS),
            epochs=4,
            batch_size=12,
            seed=0,
            dtype=torch.float32,
        )

    return make


@pytest.fixture
def batch():
    """Make a batch: twelve rows with every class among them."""
    return Batch(0, 0, 0, torch.tensor([0, 1, 2, 3, 4, 12, 13, 14, 18, 19, 22, 23]))
