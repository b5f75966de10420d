"""Meta-class-weight: class-balanced weights, corrected for each sample on a balanced batch.

    theta'  = theta - rate grad sum_i w_{y_i} l_i          a virtual step, w by the effective number
    eps_i   = -meta_lr dM/dw_i = meta_lr rate < grad l_i, grad M(theta') >
    theta  <- SGD step on mean_i (w_{y_i} + eps_i) l_i

M is the cross-entropy of the held-out batch. In the released code the virtual step lowers a sum and
the real one a mean, as here, and eps is neither clipped nor kept. With its rates eps is of the
order 1e-5 times an inner product of gradients; the log has its mean size, ``weight_step``.
``--meta-lr 0`` is the control: class-balanced training with everything else alike.

Source: Jamal, Brown, Yang, Wang, Gong, CVPR 2020, arXiv 2003.10780, algorithm 1 and released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.core.params import param
from ltcli.methods import bilevel
from ltcli.methods.method import FINETUNE, Method, TrainingRun

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


@dataclass(frozen=True)
class Options(bilevel.Reweighting):
    """Options of meta-class-weight."""

    meta_lr: float = param(
        0.01, "learning rate of the sample weights; 0 is plain class-balanced training", ge=0
    )


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps with corrected class weights."""
    import dataclasses

    # Sums over the steps of an epoch, on the device: mean sizes of the corrections, their number.
    sizes = run.class_counts.new_zeros(2, dtype=run.network.classifier.weight.dtype)

    def before(losses: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        # A mean times the batch size: the sum of the virtual step.
        return run.reduce(losses, labels, batch) * len(losses)

    def after(
        losses: torch.Tensor, agreed: torch.Tensor, labels: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        # Minus the derivative of M: agreement with the held-out gradient raises a weight.
        corrections = options.meta_lr * run.optimizer.param_groups[0]["lr"] * agreed
        sizes[0] += corrections.abs().mean()
        sizes[1] += 1
        value: torch.Tensor = run.reduce(losses, labels, batch) + (corrections * losses).mean()
        return value

    def facts() -> dict[str, float]:
        total, count = sizes.tolist()
        sizes.zero_()  # The log shows every epoch by itself.
        return {"weight_step": total / max(count, 1.0)}

    return dataclasses.replace(bilevel.reweighting(options, run, before, after), facts=facts)


METHOD = Method(
    summary="class-balanced weights with a correction for every sample from held-out images",
    source="Jamal et al., CVPR 2020, arXiv 2003.10780",
    stages=FINETUNE,
    options=Options,
    defaults={
        "finetune": {**bilevel.SECOND_STAGE, "beta": 0.9999, "reduction": "mean-of-weighted"}
    },
    steps=make_steps,
    alone=True,
    on_host=True,
    reads=bilevel.reads,
    set_aside=bilevel.set_aside,
    check=bilevel.check,
)
