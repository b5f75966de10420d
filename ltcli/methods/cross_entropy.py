"""Cross-entropy: maximum likelihood on the data as they are.

    L = mean_i( -log softmax(z_i)[y_i] )

The reference of every paper compared here. As a fine-tuning method it continues
to train the classifier, which makes it the control for the others.
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


def make_loss(_options: NoOptions, _run: TrainingRun) -> Loss:
    """Return the cross-entropy."""
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
