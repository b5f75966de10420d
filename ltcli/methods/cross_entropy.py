"""Cross-entropy: maximum likelihood on the natural distribution.

    L = mean_i( -log softmax(z_i)[y_i] )

Every paper compared here has it as its reference. As a fine-tuning method it goes on training the
classifier, which makes it the control for the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.core.params import NoOptions
from ltcli.methods.method import BOTH, Method

if TYPE_CHECKING:
    import torch

    from ltcli.engine.steps import Batch
    from ltcli.methods.method import Loss, TrainingRun


def make_loss(_options: NoOptions, _run: TrainingRun) -> Loss:
    """Cross-entropy of each sample."""
    from torch.nn import functional as F

    def loss(logits: torch.Tensor, labels: torch.Tensor, _batch: Batch) -> torch.Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    return loss


METHOD = Method(
    summary="plain cross-entropy, the reference for everything",
    source="maximum likelihood",
    stages=BOTH,
    options=NoOptions,
    loss=make_loss,
    balances=lambda _options, _run: False,
)
