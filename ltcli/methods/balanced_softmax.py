"""Balanced softmax: the training softmax includes the class prior, the test softmax does not.

    L = mean_i CE(z_i + log n, y_i)

Only ratios of counts n matter, and equal counts give cross-entropy. It is logit adjustment in the
loss with tau = 1.

Source: Ren, Yu, Sheng, Ma, Zhao, Yi, Li, NeurIPS 2020, arXiv 2007.10740.
"""

from __future__ import annotations

from ltcli.core.params import NoOptions
from ltcli.methods.method import BOTH, Loss, Method, TrainingRun


def make_loss(_options: NoOptions, run: TrainingRun) -> Loss:
    """Cross-entropy on logits plus log counts."""
    from torch.nn import functional as F

    # Counts instead of the prior: a constant on all logits changes no softmax.
    shift = run.class_counts.float().log()

    return lambda logits, labels, _batch: F.cross_entropy(logits + shift, labels, reduction="none")


METHOD = Method(
    summary="cross-entropy on logits plus log class counts",
    source="Ren et al., NeurIPS 2020, arXiv 2007.10740",
    stages=BOTH,
    options=NoOptions,
    loss=make_loss,
)
