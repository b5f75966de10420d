"""Balanced softmax: the class prior enters the training softmax and is left out of the test.

    L = mean_i CE(z_i + log n, y_i)

Equal counts give cross-entropy; only ratios of counts matter; it is logit adjustment in the loss
with tau = 1.

Source: Ren, Yu, Sheng, Ma, Zhao, Yi, Li, NeurIPS 2020, arXiv 2007.10740.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.core.params import NoOptions
from ltcli.methods.method import BOTH, Method

if TYPE_CHECKING:
    import torch

    from ltcli.engine.steps import Batch
    from ltcli.methods.method import Loss
    from ltcli.methods.run import TrainingRun


def make_loss(_options: NoOptions, run: TrainingRun) -> Loss:
    """Return cross-entropy on logits plus log counts."""
    from torch.nn import functional as F

    shift = run.class_counts.float().log()

    def loss(logits: torch.Tensor, labels: torch.Tensor, _batch: Batch) -> torch.Tensor:
        return F.cross_entropy(logits + shift, labels, reduction="none")

    return loss


METHOD = Method(
    summary="cross-entropy on logits plus log class counts",
    source="Ren et al., NeurIPS 2020, arXiv 2007.10740",
    stages=BOTH,
    options=NoOptions,
    loss=make_loss,
)
