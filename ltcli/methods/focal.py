"""Focal loss: samples that are predicted correctly count less.

    softmax: l_i = (1 - p)^gamma (-log p),                       p = softmax(z_i)[y_i]
    sigmoid: l_i = sum_c (1 - p_c)^gamma (-log p_c),  p_c = sigmoid(z_ic) for c = y_i,
                                                      p_c = 1 - sigmoid(z_ic) for the others

gamma = 0 gives cross-entropy, or the sum of binary ones. Class weights stand outside the formula,
and gradients flow through the factor too: code that puts the weight into p, or detaches p, has
another loss. In the sigmoid form the bias starts at -log(C - 1), where every class has probability
1/C, and has no weight decay.

Source: Lin, Goyal, Girshick, He, Dollar, ICCV 2017, arXiv 1708.02002 (sigmoid); softmax form:
released code of Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019, arXiv 1906.07413.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ltcli.core.params import param
from ltcli.methods.method import BOTH, Head, Loss, Method, TrainingRun


@dataclass(frozen=True)
class Options:
    """Options of the focal loss."""

    gamma: float = param(1.0, "exponent of the factor for easy samples; 0 is cross-entropy", ge=0)
    form: Literal["softmax", "sigmoid"] = param(
        "softmax", "softmax over the classes, or one sigmoid per class"
    )


def make_loss(options: Options, _run: TrainingRun) -> Loss:
    """Focal loss of each sample."""
    from ltcli.stats import losses

    formula = losses.focal if options.form == "softmax" else losses.sigmoid_focal

    return lambda logits, labels, _batch: formula(logits, labels, options.gamma)


METHOD = Method(
    summary="samples that are predicted correctly count less",
    source="Lin et al., ICCV 2017, arXiv 1708.02002",
    stages=BOTH,
    options=Options,
    loss=make_loss,
    # With a bias of 0 the C - 1 other classes start at probability 1/2 and swamp the first steps.
    head=lambda options, _run: Head(rare_bias=options.form == "sigmoid"),
    balances=lambda _options, _run: False,
)
