"""Range loss: cross-entropy, with narrow classes whose centres are apart, within each batch.

    L = mean_i CE(z_i, y_i) + within L_within + between L_between

L_within sums, over the classes of the batch, the harmonic mean of the largest squared distances
between their samples; L_between is the margin less the smallest squared distance between two class
centres; see ``ltcli.stats.metric``. Weights of 0 give cross-entropy.

Long-tailed papers quote the figures of OLTR's comparison. Its code once had a variant with the two
largest distances of the whole batch, not squared, learned centres, a margin of 5 and weights of 1.
Re-implementations weight both terms by 0.5. With squared distances, as here, that shrinks all
features of the digits (ResNet-20, 25 epochs) to a point (accuracy 10 %); 0.01 costs 17 points of
87, 0.001 and less nothing. Class-aware sampling puts several samples of a class in a batch.

Source: Zhang, Fang, Wen, Li, Qiao, ICCV 2017, arXiv 1611.08976.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.core.params import param
from ltcli.methods.method import BOTH, Method, TrainingRun, require_moving_backbone

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


@dataclass(frozen=True)
class Options:
    """Options of range loss."""

    # A tenth of the largest factor that cost no accuracy, see above.
    within: float = param(1e-4, "factor of the ranges within classes", ge=0)
    between: float = param(1e-4, "factor of the distance between class centres", ge=0)
    largest: int = param(2, "number of largest distances within a class that count", ge=1)
    centre_margin: float = param(
        0.1, "squared distance between class centres from which they are far enough", ge=0
    )


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps with both terms."""
    from ltcli.stats import metric

    classifier, num_classes = run.network.classifier, len(run.class_counts)

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        narrow = metric.range_within(features, labels, num_classes, options.largest)
        apart = metric.range_between(features, labels, num_classes, options.centre_margin)
        plain = run.cross_entropy(classifier(features), labels, batch)
        return plain + options.within * narrow + options.between * apart

    return run.feature_steps(loss)


METHOD = Method(
    summary="cross-entropy with narrow classes whose centres are apart",
    source="Zhang et al., ICCV 2017, arXiv 1611.08976",
    stages=BOTH,
    options=Options,
    # A trained network needs small steps; pre-training keeps the rate of its schedule.
    defaults={"finetune": {"data": "images", "train": "all", "lr": 1e-3}},
    steps=make_steps,
    check=lambda _options, run: require_moving_backbone(run),
    balances=lambda _options, _run: False,
)
