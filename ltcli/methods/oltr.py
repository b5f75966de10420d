"""OLTR, second stage: features are enriched from a memory of class centroids.

    z_c = s (w_c / |w_c| . v),    v by ``ltcli.models.classifier.Memory`` from f and the centroids M
    L   = mean_i CE(z_i, y_i) + centre_weight (mean_i |f_i - M_{y_i}|^2 / 2 + push_weight L_push)
    L_push = max(0, push_margin - sum over i and c != y_i of |f_i - M_c|^2 / (B C))

Class-aware sampling. The centroids start at the class means of the model that training starts from,
as its ``covariances`` have them, and learn from the second part of L alone. Backbone and centroids
move at a tenth of the rate. In the released code a centroid's gradient is divided by one more than
its samples in the batch, and what recalls centroids starts as the first stage's classifier; here
neither is so. The rejection of unknown classes is left out: every test image has a known one here.

Source: Liu, Miao, Zhan, Wang, Gong, Yu, CVPR 2019, arXiv 1904.05160 and released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.core.params import param
from ltcli.methods.method import FINETUNE, Head, Method

if TYPE_CHECKING:
    import torch

    from ltcli.engine.steps import Batch, Steps
    from ltcli.methods.run import Run, TrainingRun


@dataclass(frozen=True)
class Options:
    """Options of OLTR's second stage."""

    scale: float = param(16.0, "factor of the logits", gt=0)
    centre_weight: float = param(0.01, "factor of the centroid loss", ge=0)
    push_weight: float = param(
        0.01, "factor of the distance to other centroids, within the centroid loss", ge=0
    )
    push_margin: float = param(
        10.0, "mean squared distance from which other centroids are far enough", ge=0
    )


def centroid_loss(
    features: torch.Tensor, labels: torch.Tensor, centroids: torch.Tensor, options: Options
) -> torch.Tensor:
    """Return how far features are from their centroid, and too near to others, float [].

    Args:
        features: float [B, D].
        labels: int64 [B].
        centroids: float [C, D].
        options: Weight and margin of the second part.
    """
    from ltcli.stats.metric import squared_distances

    distances = squared_distances(features, centroids)
    own = distances.gather(1, labels.unsqueeze(1)).sum()
    others = (distances.sum() - own) / distances.numel()
    return 0.5 * own / len(labels) + options.push_weight * (options.push_margin - others).clamp(
        min=0
    )


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Return steps with the centroid loss."""
    import torch
    from torch.nn import functional as F

    from ltcli.engine.steps import Steps, feature_step

    classifier, means = run.network.classifier, run.means
    memory = classifier.memory
    if means is None or memory is None:
        raise ValueError("oltr reads class means, and trains a classifier with a memory")
    with torch.no_grad():
        memory.centroids.copy_(means)

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        values = F.cross_entropy(classifier(features), labels, reduction="none")
        apart = centroid_loss(features, labels, memory.centroids, options)
        plain: torch.Tensor = run.reduce(values, labels, batch)
        return plain + options.centre_weight * apart

    return Steps(feature_step(run.features, run.optimizer, loss, run.labels))


def head(options: Options, _run: Run) -> Head:
    """Return a fresh classifier with a memory, and the rates of the parts."""
    return Head(
        start="fresh",
        trainable=("weight", "memory"),
        rates={"memory.centroids": 0.1, "backbone": 0.1},
        form="memory",
        scale=options.scale,
    )


METHOD = Method(
    summary="features enriched from a memory of class centroids, class-aware sampling",
    source="Liu et al., CVPR 2019, arXiv 1904.05160",
    stages=FINETUNE,
    options=Options,
    defaults={
        "finetune": {
            "data": "images",
            "train": "all",
            "epochs": 60,
            "decay": "steps",
            "milestones": (20, 40),
            "factors": (0.1, 0.01),
            "sampler": "class-aware",
        }
    },
    steps=make_steps,
    head=head,
    balances=lambda _options, _run: False,
    reads=lambda _options, _run: ("covariances",),
)
