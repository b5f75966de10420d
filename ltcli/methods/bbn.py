"""BBN: two branches, one for the data as they are and one for rare classes, mixed as time goes on.

    f   = 2 [a f_c ; (1 - a) f_r],    a = 1 - (t / T)^2 in epoch t = 0 ... T - 1 of T
    L   = mean_i( a CE(z_i, y_c,i) + (1 - a) CE(z_i, y_r,i) ),    z = W f + b

f_c are features of images drawn as they are, by the first branch; f_r of images drawn with the
reversed sampler, by the second. The branches share everything before their last block. At a = 1 the
second learns nothing. A test image goes through both, and f = [f_c ; f_r], which is a = 1/2.

The paper writes T for the last epoch, the released code as above. Published schedule: ``bbn``.

Source: Zhou, Cui, Wei, Chen, CVPR 2020, arXiv 1912.02413 and released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ltcli.methods.method import Method, NoParams, Steps
from ltcli.methods.refusals import takes_no_weights

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.engine.fit import Batch
    from ltcli.methods.method import Setting


def share(epoch: int, epochs: int) -> float:
    """Return a: how much the first branch counts in an epoch."""
    return 1 - (epoch / epochs) ** 2


def make_steps(_params: NoParams, setting: Setting) -> Steps:
    """Return steps on two batches, one for each branch."""
    import torch
    from torch.nn import functional as F

    from ltcli.compute.device import autocast
    from ltcli.engine.steps import descent, second_batches
    from ltcli.models.several import TwoBranches

    network, labels = setting.network, setting.labels
    backbone = network.backbone
    if not isinstance(backbone, TwoBranches):
        raise ValueError("bbn trains a backbone of two branches")
    second = second_batches(
        labels, len(setting.class_counts), "reversed", seed=setting.seed, epochs=setting.epochs
    )

    def objective(batch: Batch) -> torch.Tensor:
        a = share(batch.epoch, setting.epochs)
        rare = second(batch)
        with autocast(labels.device, setting.dtype):
            usual = backbone.of_branch(setting.inputs(batch), 0).float()
            other = backbone.of_branch(setting.inputs(rare), 1).float()
        logits = network.classifier(2 * torch.cat([a * usual, (1 - a) * other], dim=1))
        parts = ((a, labels[batch.rows]), (1 - a, labels[rare.rows]))
        values = [part * F.cross_entropy(logits, y, reduction="none") for part, y in parts]
        return (values[0] + values[1]).mean()

    return Steps(descent(setting.optimizer, objective))


def check(params: Any, headers: Mapping[str, Header]) -> None:
    """Refuse class weights: the second branch is what the method has for rare classes."""
    takes_no_weights(params, headers, "the second branch sees rare classes more often instead")


METHOD = Method(
    summary="two branches, for the data as they are and for rare classes, mixed over time",
    source="Zhou et al., CVPR 2020, arXiv 1912.02413",
    stages=("pretrain",),
    defaults={"pretrain": {"schedule": "bbn"}},
    steps=make_steps,
    alone=True,
    check=check,
    backbone=lambda _options: "bbn",
)
