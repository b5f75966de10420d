"""Class-balanced cross-entropy: each class weighted by its inverse effective number.

    w_c = (1 - beta) / (1 - beta^n_c), scaled to mean 1
    weighted-mean:    L = sum_i w_{y_i} l_i / sum_i w_{y_i}
    mean-of-weighted: L = mean_i( w_{y_i} l_i )

beta = 0 or equal counts give cross-entropy. The released TensorFlow code averages over the batch;
nearly all PyTorch code divides by the weights of the batch, a factor that changes from batch to
batch.

Source: Cui, Jia, Lin, Song, Belongie, CVPR 2019, arXiv 1901.05555.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.params import param
from ltcli.methods.method import BOTH, Method, WeightedBase, base_loss

if TYPE_CHECKING:
    import torch

    from ltcli.methods.method import Loss


@dataclass(frozen=True)
class Params:
    """Parameters of class-balanced cross-entropy."""

    beta: float = param(0.9999, "effective number: 0 is no weighting, near 1 is 1/n", ge=0, lt=1)
    reduction: Literal["weighted-mean", "mean-of-weighted"] = param(
        "weighted-mean", "what the weighted losses of a batch are divided by"
    )


def make_loss(params: Params, class_counts: torch.Tensor) -> Loss:
    """Return the weighted cross-entropy."""
    return base_loss(WeightedBase(beta=params.beta, reduction=params.reduction), class_counts)


METHOD = Method(
    summary="cross-entropy weighted by the effective number of samples",
    source="Cui et al., CVPR 2019, arXiv 1901.05555",
    stages=BOTH,
    params=Params,
    loss=make_loss,
)
