"""OLTR, second stage: a memory of class centroids enriches the features.

    z_c = s (w_c / |w_c| . v),    v by ``ltcli.models.classifier.Memory`` from f and the centroids M
    L   = mean_i CE(z_i, y_i) + centre_weight (mean_i |f_i - M_{y_i}|^2 / 2 + push_weight L_push)
    L_push = max(0, push_margin - sum over i and c != y_i of |f_i - M_c|^2 / (B C))

Class-aware sampling. The centroids start at the class means of the initial model, from its
``covariances``, and learn only from the second part of L. Backbone and centroids have a tenth of
the rate. The released code also divides a centroid's gradient by one more than its samples in the
batch, and starts the layer that recalls centroids as the first stage's classifier. The rejection of
unknown classes is left out: every test image has a known class here.

Source: Liu, Miao, Zhan, Wang, Gong, Yu, CVPR 2019, arXiv 1904.05160 and released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.core.params import param
from ltcli.methods.method import FINETUNE, Head, Method, TrainingRun

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


@dataclass(frozen=True)
class Options:
    """Options of OLTR's second stage."""

    # All four values are those of the released code.
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
    """Loss of the distances to the own centroid and of nearness to the others, float [].

    Features are float [B, D], labels int64 [B], centroids float [C, D].
    """
    from ltcli.stats.metric import squared_distances

    distances = squared_distances(features, centroids)
    own = distances.gather(1, labels.unsqueeze(1)).sum()
    # All distances less the own ones: no mask of [B, C] is needed.
    others = (distances.sum() - own) / distances.numel()
    near = (options.push_margin - others).clamp(min=0)
    return 0.5 * own / len(labels) + options.push_weight * near


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps with the centroid loss."""
    import torch

    classifier, means = run.network.classifier, run.means
    memory = classifier.memory
    if means is None or memory is None:
        raise ValueError("oltr reads class means, and trains a classifier with a memory")
    with torch.no_grad():
        # Means, so that the memory recalls real classes from the first step on.
        memory.centroids.copy_(means)

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        apart = centroid_loss(features, labels, memory.centroids, options)
        plain = run.cross_entropy(classifier(features), labels, batch)
        return plain + options.centre_weight * apart

    return run.feature_steps(loss)


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
    head=lambda options, _run: Head(
        start="fresh",
        trainable=("weight", "memory"),
        rates={"memory.centroids": 0.1, "backbone": 0.1},
        form="memory",
        scale=options.scale,
    ),
    balances=lambda _options, _run: False,
    reads=lambda _options, _run: ("covariances",),
)
