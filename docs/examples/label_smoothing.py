"""Label smoothing: a part of each label goes to all classes alike.

    L = mean_i [ (1 - s) CE(z_i, y_i) + s/C sum_c CE(z_i, c) ]

s = 0 is cross-entropy.

Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, CVPR 2016, arXiv 1512.00567.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.core.params import param
from ltcli.methods.method import BOTH, Method

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.methods.method import Loss, TrainingRun


@dataclass(frozen=True)
class Options:
    """Options of label smoothing."""

    smoothing: float = param(0.1, "part of each label that all classes share", ge=0, lt=1)


def make_loss(options: Options, _run: TrainingRun) -> Loss:
    """Return cross-entropy with smoothed labels."""
    from torch.nn import functional as F

    def loss(logits: torch.Tensor, labels: torch.Tensor, _batch: Batch) -> torch.Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=options.smoothing, reduction="none")

    return loss


METHOD = Method(
    summary="cross-entropy with a part of each label spread over all classes",
    source="Szegedy et al., CVPR 2016, arXiv 1512.00567",
    stages=BOTH,
    options=Options,
    loss=make_loss,
    # The classifier still follows the class prior of the training images.
    balances=lambda _options, _run: False,
)
