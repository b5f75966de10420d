"""A small bi-level problem: what steps with a held-out batch work on."""

import dataclasses

import pytest
import torch

from ltcli.engine.fit import Batch
from ltcli.methods.method import Setting, weighted_mean
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network, build_backbone

COUNTS = torch.tensor([12, 6, 4, 2])
LABELS = torch.arange(4).repeat_interleave(COUNTS)


@dataclasses.dataclass(frozen=True)
class Weighting:
    """What a stage says of class weights."""

    beta: float = 0.0
    reduction: str = "weighted-mean"


@pytest.fixture
def bilevel():
    """Make a setting: 24 samples of 4 classes, 8 held-out ones; float64 unless it has images."""

    def make(whole=False, lr=0.05, weighting=Weighting()):
        rng = torch.Generator().manual_seed(1)
        dtype = torch.float32 if whole else torch.float64
        shape = (3, 8, 8) if whole else (5,)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            backbone = build_backbone("resnet20") if whole else torch.nn.Identity()
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
