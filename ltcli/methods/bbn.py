"""BBN: one branch for the natural distribution, one for rare classes, mixed over the epochs.

    f   = 2 [a f_c ; (1 - a) f_r],    a = 1 - (t / T)^2 in epoch t = 0 ... T - 1 of T
    L   = mean_i( a CE(z_i, y_c,i) + (1 - a) CE(z_i, y_r,i) ),    z = W f + b

The first branch gives f_c for images of the natural distribution, the second f_r for images of the
reversed sampler. The branches share everything before their last block. At a = 1 the second learns
nothing. A test image goes through both, and f = [f_c ; f_r], which is a = 1/2.

T is the last epoch in the paper, and as above in the released code. Published schedule: ``bbn``.

Source: Zhou, Cui, Wei, Chen, CVPR 2020, arXiv 1912.02413 and released code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.core.params import NoOptions
from ltcli.methods.method import Method, TrainingRun, refuse_class_weights

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


def share(epoch: int, epochs: int) -> float:
    """Weight a of the first branch in an epoch."""
    return 1 - (epoch / epochs) ** 2  # Quadratic: rare classes gain weight late in the run.


def make_steps(_options: NoOptions, run: TrainingRun) -> Steps:
    """Steps on two batches, one for each branch."""
    import torch
    from torch.nn import functional as F

    from ltcli.compute.device import autocast
    from ltcli.engine.steps import Steps, descent, second_batches
    from ltcli.models.resnet import TwoBranches

    network, labels = run.network, run.labels
    backbone = network.backbone
    # Not a user's error: the record below asks for this backbone.
    if not isinstance(backbone, TwoBranches):
        raise ValueError("bbn trains a backbone of two branches")
    classes = len(run.class_counts)
    second = second_batches(labels, classes, "reversed", seed=run.seed, epochs=run.epochs)

    def objective(batch: Batch) -> torch.Tensor:
        a = share(batch.epoch, run.epochs)
        # As many images of the other sampler, so that both branches see equal batches.
        rare = second(batch)
        with autocast(labels.device, run.dtype):
            usual = backbone.of_branch(run.inputs(batch), 0).float()
            other = backbone.of_branch(run.inputs(rare), 1).float()
        # The factor 2 gives the features of training the scale of those at test time.
        logits = network.classifier(2 * torch.cat([a * usual, (1 - a) * other], dim=1))
        parts = ((a, labels[batch.rows]), (1 - a, labels[rare.rows]))
        values = [part * F.cross_entropy(logits, y, reduction="none") for part, y in parts]
        return (values[0] + values[1]).mean()

    return Steps(descent(run.optimizer, objective))


METHOD = Method(
    summary="two branches, for the natural distribution and for rare classes, mixed over time",
    source="Zhou et al., CVPR 2020, arXiv 1912.02413",
    stages=("pretrain",),
    options=NoOptions,
    defaults={"pretrain": {"schedule": "bbn"}},
    steps=make_steps,
    alone=True,
    on_host=True,
    check=lambda _options, run: refuse_class_weights(
        run, "the second branch sees rare classes more often instead"
    ),
    backbone=lambda _options, _run: "bbn",
)
