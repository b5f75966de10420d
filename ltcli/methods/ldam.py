"""LDAM: label-distribution-aware margins on a cosine classifier.

    L = mean_i CE( s (cos(w_c, f_i) - m_{y_i} [c = y_i]), y_i )
    m_c ~ n_c^(-1/4), the largest of them max_margin

Only the target's logit falls, by s m_y. Margin 0 is cross-entropy on scaled cosines. The released
code trains the last layer without bias; with a plain linear layer this scale diverges. Where lbfgs
solves for a linear classifier, its L2 coefficient bounds the logits instead, and s is 1.

Source: Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019, arXiv 1906.07413.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltcli.core.params import param
from ltcli.methods.method import BOTH, Head, Loss, Method, TrainingRun


@dataclass(frozen=True)
class Options:
    """Options of LDAM."""

    # Margin and scale of the released code.
    max_margin: float = param(0.5, "margin of the rarest class, cosine units", ge=0)
    scale: float = param(30.0, "factor of the cosines", gt=0)


def make_loss(options: Options, run: TrainingRun) -> Loss:
    """Cross-entropy on scaled cosines with margins."""
    from torch.nn import functional as F

    from ltcli.stats import losses

    # Logits of cosines already have their factor, so the margins get it too.
    scale = 1.0 if run.solver == "lbfgs" else options.scale
    margins = losses.margins(run.class_counts.cpu(), options.max_margin) * scale
    margins = margins.float().to(run.class_counts.device)

    return lambda logits, labels, _batch: F.cross_entropy(
        losses.with_margins(logits, labels, margins), labels, reduction="none"
    )


METHOD = Method(
    summary="larger margins for rarer classes, on cosines",
    source="Cao et al., NeurIPS 2019, arXiv 1906.07413",
    stages=BOTH,
    options=Options,
    loss=make_loss,
    head=lambda options, run: (
        Head()
        if run.solver == "lbfgs"
        else Head(start="fresh", trainable=("weight",), form="cosine", scale=options.scale)
    ),
)
