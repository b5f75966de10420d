"""Lifted structured loss: cross-entropy, and pairs of a class nearer than all samples of others.

    L = mean_i CE(z_i, y_i) + weight L_lifted        see ``ltcli.stats.metric.lifted``

Weight 0 gives cross-entropy. The figures that long-tailed papers quote are from the comparison of
OLTR, whose code once held this loss with a margin of 5; how it was joined to a classifier is not
known, and the sum is what others do.

Source: Oh Song, Xiang, Jegelka, Savarese, CVPR 2016, arXiv 1511.06452.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.core.params import param
from ltcli.methods.method import BOTH, Method, Steps
from ltcli.methods.refusals import moves_backbone

if TYPE_CHECKING:
    import torch

    from ltcli.engine.fit import Batch
    from ltcli.methods.method import Setting


@dataclass(frozen=True)
class Params:
    """Parameters of the lifted structured loss."""

    weight: float = param(1.0, "factor of the lifted loss", ge=0)
    pair_margin: float = param(1.0, "by how much others shall be farther, feature units", ge=0)


def make_steps(params: Params, setting: Setting) -> Steps:
    """Return steps with the lifted loss of the batch."""
    from torch.nn import functional as F

    from ltcli.engine.steps import feature_step
    from ltcli.stats.metric import lifted

    classifier = setting.network.classifier

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        values = F.cross_entropy(classifier(features), labels, reduction="none")
        plain: torch.Tensor = setting.reduce(values, labels, batch)
        return plain + params.weight * lifted(features, labels, params.pair_margin)

    return Steps(feature_step(setting.features, setting.optimizer, loss, setting.labels))


METHOD = Method(
    summary="cross-entropy with pairs of a class nearer than all others",
    source="Oh Song et al., CVPR 2016, arXiv 1511.06452",
    stages=BOTH,
    params=Params,
    defaults={"finetune": {"data": "images", "train": "all", "lr": 1e-3}},
    steps=make_steps,
    check=moves_backbone,
    balances=lambda _params: False,
)
