"""Cross-entropy: maximum likelihood on the natural distribution.

    L = mean_i( -log softmax(z_i)[y_i] )

Every paper compared here has it as its reference. As a fine-tuning method it goes on training the
classifier, which makes it the control for the others.
"""

from __future__ import annotations

from ltcli.core.params import NoOptions
from ltcli.methods.method import BOTH, Loss, Method, TrainingRun


def make_loss(_options: NoOptions, _run: TrainingRun) -> Loss:
    """Cross-entropy of each sample."""
    from torch.nn import functional as F

    return lambda logits, labels, _batch: F.cross_entropy(logits, labels, reduction="none")


METHOD = Method(
    summary="plain cross-entropy, the reference for everything",
    source="maximum likelihood",
    stages=BOTH,
    options=NoOptions,
    loss=make_loss,
    balances=lambda _options, _run: False,
)
