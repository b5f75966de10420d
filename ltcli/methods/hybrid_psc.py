"""Hybrid-PSC: prototypes train the features, balanced batches the classifier, mixed over time.

    L   = a mean_i L_i + (1 - a) mean_j CE(z_j, y_j),    a = 1 - (t / T)^2 in epoch t of T
    L_i = -log( e^(u_i . p_{y_i} / temperature) / sum over c != y_i of e^(u_i . p_c / temperature) )

i runs over images of the natural distribution, j over a class-aware batch. u = h(f) / |h(f)| with a
projection h of two layers, p_c is a learned prototype of length 1. The denominator leaves out the
own class, so the loss can be negative. a = 0 is cross-entropy on class-aware batches. Projection
and prototypes serve only training; they are the state of the method.

The formulas come from a secondary source, as the primary code was not available. It also turns
images grey at random, which is left out here; temperature 1 for CIFAR-10, 0.1 for CIFAR-100.

Source: Wang, Han, Shi, Gao, Xu, Zhang, Wang, CVPR 2021, arXiv 2103.14267.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.core.params import param
from ltcli.methods.bbn import share
from ltcli.methods.method import Method, TrainingRun

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


@dataclass(frozen=True)
class Options:
    """Options of Hybrid-PSC."""

    temperature: float = param(1.0, "temperature of the similarities to prototypes", gt=0)
    projection: int = param(128, "dimension of the projection", ge=1)


def contrast(
    features: torch.Tensor, labels: torch.Tensor, prototypes: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Prototypical loss of each sample, float [B].

    Features are float [B, P], projected, labels int64 [B], prototypes float [C, P], none of them 0.
    """
    from torch.nn import functional as F

    similar = F.normalize(features) @ F.normalize(prototypes).T / temperature
    own = F.one_hot(labels, len(prototypes)).bool()
    others = similar.masked_fill(own, -float("inf")).logsumexp(1)
    return others - similar.gather(1, labels.unsqueeze(1)).squeeze(1)


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps on two batches, one for features and one for the classifier."""
    import torch
    from torch import nn

    from ltcli.compute.seeds import derive
    from ltcli.engine.state import ModuleState
    from ltcli.engine.steps import Steps, descent, second_batches, train_too

    labels, classifier = run.labels, run.network.classifier
    classes, dim = classifier.weight.shape
    # Drawn on the CPU from a stream of its own: the same start on every device.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("hybrid-psc", run.seed))
        layers = [nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, options.projection)]
        project = nn.Sequential(*layers).to(labels.device)
        prototypes = nn.Parameter(torch.randn(classes, options.projection).to(labels.device))
    train_too(run.optimizer, [*project.parameters(), prototypes])
    # One module, so that a checkpoint keeps both.
    state = nn.ModuleDict({"project": project})
    state.register_parameter("prototypes", prototypes)
    second = second_batches(labels, classes, "class-aware", seed=run.seed, epochs=run.epochs)

    def objective(batch: Batch) -> torch.Tensor:
        a, balanced = share(batch.epoch, run.epochs), second(batch)
        projected = project(run.features(batch))
        pulled = contrast(projected, labels[batch.rows], prototypes, options.temperature)
        logits = classifier(run.features(balanced))
        plain = run.cross_entropy(logits, labels[balanced.rows], batch)
        # Class weights, if any, are for the classifier alone.
        return a * pulled.mean() + (1 - a) * plain

    return Steps(descent(run.optimizer, objective), state=ModuleState(state))


METHOD = Method(
    summary="prototypes for the features, class-aware batches for the classifier, mixed over time",
    source="Wang et al., CVPR 2021, arXiv 2103.14267",
    stages=("pretrain",),
    options=Options,
    defaults={
        "pretrain": {
            "batch_size": 512,
            "lr": 0.5,
            "milestones": (120, 160),
            "factors": (0.1, 0.01),
            "weight_decay": 1e-4,
        }
    },
    steps=make_steps,
    on_host=True,
)
