"""Logit adjustment: the optimal classifier for a uniform prior, in the loss or afterwards.

    in the loss (pretrain):            L = mean_i CE(z_i + tau log prior, y_i), predict argmax z
    on a trained classifier (finetune): predict argmax z - tau log prior, which moves the bias

tau = 0 changes nothing. Together the two would correct twice, so ``finetune`` refuses a model whose
classifier no longer follows the class prior. ``adjust`` also chooses tau on validation images.

Source: Menon, Jayasumana, Rawat, Jain, Veit, Kumar, ICLR 2021, arXiv 2007.07314.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltcli.core.params import param
from ltcli.methods.method import BOTH, Loss, Method, SolvingRun, TrainingRun

if TYPE_CHECKING:
    from ltcli.models.classifier import Classifier


@dataclass(frozen=True)
class Options:
    """Options of logit adjustment."""

    tau: float = param(1.0, "strength of the adjustment; 0 is none", ge=0)


def make_loss(options: Options, run: TrainingRun) -> Loss:
    """Cross-entropy on logits plus tau times the log prior."""
    from torch.nn import functional as F

    from ltcli.stats.adjustment import log_prior

    # On the CPU, as MPS has no float64.
    shift = options.tau * log_prior(run.class_counts.cpu()).to(run.class_counts.device)

    return lambda logits, labels, _batch: F.cross_entropy(logits + shift, labels, reduction="none")


def solve(options: Options, run: SolvingRun) -> tuple[Classifier, dict[str, Any]]:
    """Classifier with its bias lowered by tau times the log prior."""
    from ltcli.stats.adjustment import for_tau

    run.classifier.add(for_tau(run.class_counts, options.tau))
    return run.classifier, {}


METHOD = Method(
    summary="log class prior: in the loss, or taken from a trained classifier's logits",
    source="Menon et al., ICLR 2021, arXiv 2007.07314",
    stages=BOTH,
    options=Options,
    loss=make_loss,
    solve=solve,
    balances=lambda options, _run: options.tau > 0,
)
