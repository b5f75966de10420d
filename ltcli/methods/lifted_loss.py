"""Lifted structured loss: cross-entropy, and pairs of one class nearer than samples of others.

    L = mean_i CE(z_i, y_i) + weight L_lifted        see ``ltcli.stats.metric.lifted``

Weight 0 gives cross-entropy. Long-tailed papers quote the figures of OLTR's comparison, whose code
once had this loss with a margin of 5. Its combination with a classifier is unknown; others take the
sum.

Source: Oh Song, Xiang, Jegelka, Savarese, CVPR 2016, arXiv 1511.06452.
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
    """Options of the lifted structured loss."""

    # The sum with equal parts, as no source gives another weight.
    weight: float = param(1.0, "factor of the lifted loss; 0 is cross-entropy", ge=0)
    # 1 as in the paper.
    pair_margin: float = param(
        1.0, "margin between a pair and samples of other classes, feature units", ge=0
    )


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps with the lifted loss of the batch."""
    from ltcli.stats.metric import lifted

    classifier = run.network.classifier

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        plain = run.cross_entropy(classifier(features), labels, batch)
        return plain + options.weight * lifted(features, labels, options.pair_margin)

    return run.feature_steps(loss)


METHOD = Method(
    summary="cross-entropy with pairs of a class nearer than all others",
    source="Oh Song et al., CVPR 2016, arXiv 1511.06452",
    stages=BOTH,
    options=Options,
    steps=make_steps,
    # A trained network needs small steps; pre-training keeps the rate of its schedule.
    defaults={"finetune": {"data": "images", "train": "all", "lr": 1e-3}},
    check=lambda _options, run: require_moving_backbone(run),
    balances=lambda _options, _run: False,
)
