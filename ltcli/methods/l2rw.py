"""L2RW, learning to reweight: the weight of a sample is its gradient's agreement with a meta batch.

    a_i = < grad l_i, grad M >               M the cross-entropy of the held-out batch, at theta
    w_i = max(a_i, 0) / sum_j max(a_j, 0)    all 0 where no a_j is positive
    theta <- SGD step on sum_i w_i l_i

a_i is minus the derivative of M by the weight of sample i, in a virtual step with all weights at
zero: it moves nothing, and its rate cancels.

Source: Ren, Zeng, Yang, Urtasun, ICML 2018, arXiv 1803.09050, algorithm 1. The long-tailed figures
come from Jamal et al., CVPR 2020, arXiv 2003.10780, with 10 held-out images per class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.methods import bilevel
from ltcli.methods.method import BOTH, Method, TrainingRun

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


def make_steps(options: bilevel.Reweighting, run: TrainingRun) -> Steps:
    """Steps with weights from the held-out batch."""

    def after(
        losses: torch.Tensor, agreed: torch.Tensor, _labels: torch.Tensor, _batch: Batch
    ) -> torch.Tensor:
        positive = agreed.clamp(min=0)
        # Without any agreement all weights stay 0, instead of 0 / 0.
        total = positive.sum()
        return (positive / (total + (total == 0)) * losses).sum()

    return bilevel.reweighting(options, run, None, after)


METHOD = Method(
    summary="samples weighted by how their gradients agree with a balanced batch",
    source="Ren et al., ICML 2018, arXiv 1803.09050",
    stages=BOTH,
    options=bilevel.Reweighting,
    defaults={"pretrain": {"schedule": "metasaug"}, "finetune": bilevel.SECOND_STAGE},
    check=bilevel.check_weights,
    reads=bilevel.reads,
    set_aside=bilevel.set_aside,
    steps=make_steps,
    alone=True,
    on_host=True,
)
