"""MiSLAS, second stage: smoother labels for head classes, and a learned scale for every class.

    z = s * (W f + b)      W and b of the first stage, at classifier_rate times the rate of s
    l_i = (1 - e_{y_i}) (-log p_{y_i}) + e_{y_i} mean_c(-log p_c)
    e_c = smooth_tail + (smooth_head - smooth_tail) sin(pi/2 (n_c - n_min) / (n_max - n_min))

Class-aware sampling, no mixup; the first stage is ``pretrain --mixup 1 --schedule mislas``. e = 0
is cross-entropy. The paper spreads e over the other classes, the released code over all, as here.
The defaults are for CIFAR-10-LT at factor 100. Published, for factors 100 / 50 / 10: CIFAR-10
smooth_head .3 / .2 / .1, classifier_rate .5 / .2 / .2; CIFAR-100, with ``--shift-bn``, smooth_head
.4 / .3 / .2, smooth_tail .1 / 0 / 0, classifier_rate .2 / .1 / .1. ImageNet-LT and iNaturalist:
smooth_head .3, classifier_rate .05, with ``--shift-bn``.

Source: Zhong, Cui, Liu, Jia, CVPR 2021, arXiv 2104.00466 and released code.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltcli.core.params import param
from ltcli.methods.method import FINETUNE, Head, Loss, Method, TrainingRun


@dataclass(frozen=True)
class Options:
    """Options of MiSLAS's second stage."""

    smooth_head: float = param(0.3, "label smoothing of the largest class", ge=0, le=1)
    smooth_tail: float = param(0.0, "label smoothing of the smallest class", ge=0, le=1)
    classifier_rate: float = param(0.5, "multiple of the learning rate for the class vectors", ge=0)


def make_loss(options: Options, run: TrainingRun) -> Loss:
    """Cross-entropy with label-aware smoothing."""
    from ltcli.stats import losses

    # In float64 on the CPU, as MPS has none.
    by_class = losses.smoothing(run.class_counts.cpu(), options.smooth_head, options.smooth_tail)
    by_class = by_class.float().to(run.class_counts.device)

    return lambda logits, labels, _batch: losses.label_aware(logits, labels, by_class)


METHOD = Method(
    summary="label smoothing by class size and learned scales, class-aware sampling",
    source="Zhong et al., CVPR 2021, arXiv 2104.00466",
    stages=FINETUNE,
    options=Options,
    defaults={"finetune": {"sampler": "class-aware", "weight_decay": 2e-4}},
    loss=make_loss,
    head=lambda options, _run: Head(
        trainable=("weight", "bias", "scales"),
        rates=dict.fromkeys(("weight", "bias"), options.classifier_rate),
    ),
    balances=lambda _options, _run: False,
)
