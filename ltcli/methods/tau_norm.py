"""tau-normalisation: class vectors divided by a power of their length; no training.

    w_c <- w_c / ||w_c||^tau, b <- 0

tau = 0 keeps the weights (and drops the bias), tau = 1 makes all class vectors equally long. It is
LWS without bias at s_c = ||w_c||^-tau.

Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, ICLR 2020, arXiv 1910.09217.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltcli.core.errors import ParamError
from ltcli.core.params import param
from ltcli.methods.method import FINETUNE, Method, Run, SolvingRun, require_linear

if TYPE_CHECKING:
    import torch

    from ltcli.models.classifier import Classifier


@dataclass(frozen=True)
class Options:
    """Options of tau-normalisation."""

    tau: float | None = param(
        None,
        "power of the length of class vectors; default: best of 0, 0.1, ..., 2 on validation",
        ge=0,
    )


def normalised(weight: torch.Tensor, tau: float) -> torch.Tensor:
    """Class vectors float [C, D] divided by their length to the power tau."""
    lengths: torch.Tensor = weight.norm(dim=1, keepdim=True)
    return weight / lengths**tau


def check(options: Options, run: Run) -> None:
    """Refuse a non-linear classifier, and a choice of tau without validation images."""
    require_linear(run.headers["model"])
    if options.tau is None and not run.data.size("val.labels", 0):
        hint = "give --tau, or make the split with --val-per-class"
        raise ParamError("finetune", "tau must be given: there are no validation images", hint)


def solve(options: Options, run: SolvingRun) -> tuple[Classifier, dict[str, Any]]:
    """Classifier with normalised class vectors, and the tau that was used."""
    classifier = run.classifier
    # With the scales of an LWS model, which are part of its class vectors.
    weight = classifier.vectors().detach()
    tau = _choose(weight, run) if options.tau is None else options.tau
    classifier.weight.data = normalised(weight, tau)
    # Dropped, as in the paper.
    classifier.bias.data.zero_()
    classifier.scales.data.fill_(1)
    return classifier, {"tau": tau}


def _choose(weight: torch.Tensor, run: SolvingRun) -> float:
    """Tau with the best balanced validation accuracy, the smallest among equals."""
    labels = run.val_labels
    weights = 1 / labels.bincount(minlength=len(weight)).double()[labels]

    def score(tau: float) -> float:
        correct = (run.val_features @ normalised(weight, tau).T).argmax(1) == labels
        # Rounded, so that equal scores are equal in any order of their sums.
        return round(float((correct * weights).sum()), 9)

    return max((step / 10 for step in range(21)), key=score)


METHOD = Method(
    summary="class vectors divided by a power of their length",
    source="Kang et al., ICLR 2020, arXiv 1910.09217",
    stages=FINETUNE,
    options=Options,
    solve=solve,
    # A tau chosen on validation images is known only afterwards; the stage then corrects this.
    balances=lambda options, _run: options.tau is None or options.tau > 0,
    check=check,
    reads=lambda options, _run: ("held-out",) if options.tau is None else (),
)
