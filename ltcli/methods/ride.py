"""RIDE: several experts on a common first stage, kept diverse.

    z_e = s cos(w_ce, f_e)      logits of expert e; those of the network are their mean z
    L   = sum_e( mean_i w_y CE(z_e - s m_y [c = y], y) + diversity KL(softmax(z) || softmax(z_e)) )

m are LDAM's margins, w class weights from epoch 160 on, softmax(z) is held fixed, and a negative
diversity pushes the experts away from their mean. The experts share the first stage; their other
stages have three quarters of the width. Diversity 0 trains them independently, each by LDAM.

With diversity 0 the released code puts the mean logits into every expert's loss. It also divides
rare classes' logits by a temperature in the divergence, trains a router that sends images to fewer
experts, and distils: these three are left out.

Source: Wang, Lian, Miao, Liu, Yu, ICLR 2021, arXiv 2010.01809 and released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.core.params import param
from ltcli.methods.method import Head, Method, TrainingRun

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


@dataclass(frozen=True)
class Options:
    """Options of RIDE."""

    experts: int = param(3, "number of experts", ge=2, le=9)
    diversity: float = param(
        -0.45, "factor of the divergence between an expert and the mean of all", le=0
    )
    max_margin: float = param(0.5, "margin of the rarest class, cosine units", ge=0)
    scale: float = param(30.0, "factor of the cosines", gt=0)


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps on the sum of the experts' losses."""
    import torch
    from torch.nn import functional as F

    from ltcli.stats import losses

    classifier = run.network.classifier
    margins = losses.margins(run.class_counts.cpu(), options.max_margin) * options.scale
    margins = margins.float().to(run.class_counts.device)

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        each = classifier.each(features)
        # Gradients by way of the mean of the logits cancel over the experts.
        mean = each.mean(0).detach().softmax(1)
        terms = []
        for logits in each:
            lowered = losses.with_margins(logits, labels, margins)
            apart = F.kl_div(logits.log_softmax(1), mean, reduction="batchmean")
            plain = run.cross_entropy(lowered, labels, batch)
            terms.append(plain + options.diversity * apart)
        return torch.stack(terms).sum()

    return run.feature_steps(loss)


METHOD = Method(
    summary="several diverse experts with a common first stage, by LDAM",
    source="Wang et al., ICLR 2021, arXiv 2010.01809",
    stages=("pretrain",),
    options=Options,
    defaults={"pretrain": {"weight_decay": 5e-4, "nesterov": True, "beta": 0.9999, "defer": 160}},
    steps=make_steps,
    head=lambda options, _run: Head(
        trainable=("weight",), form=f"experts{options.experts}", scale=options.scale
    ),
    backbone=lambda options, _run: f"ride{options.experts}",
)
