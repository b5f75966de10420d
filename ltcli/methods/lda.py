"""LDA: linear discriminant analysis with a shrunk covariance and a stated prior; no training.

    z_c = m_c' S^-1 f - m_c' S^-1 m_c / 2 + log prior_c

Means and covariances are those of ``ltcli covariances``. S is the mean of the class covariances,
each with the weight of its images, shrunk towards its diagonal. A uniform prior is logit adjustment
built in; the prior changes biases alone.

Source: Fisher, Annals of Eugenics 1936; Ledoit, Wolf, Journal of Multivariate Analysis 2004.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli.core.errors import NumericalError
from ltcli.core.params import param
from ltcli.methods.method import FINETUNE, Method, SolvingRun

if TYPE_CHECKING:
    from ltcli.models.classifier import Classifier


@dataclass(frozen=True)
class Options:
    """Options of linear discriminant analysis."""

    shrinkage: float | None = param(
        None,
        "share of the diagonal in the covariance; default: the estimate of Ledoit and Wolf",
        ge=0,
        le=1,
    )
    prior: Literal["uniform", "train"] = param(
        "uniform", "class prior of the images to predict: equal, or that of the training images"
    )


def solve(options: Options, run: SolvingRun) -> tuple[Classifier, dict[str, Any]]:
    """Linear classifier of the class means, and the shrinkage that was used."""
    from ltcli.models.classifier import Classifier
    from ltcli.stats import discriminant
    from ltcli.stats.adjustment import log_prior

    if run.means is None or run.covariances is None or run.covariance_counts is None:
        raise ValueError("lda reads covariances")
    # Weighted by what they were divided by, class covariances add up to all residuals.
    unbiased = int(run.headers["covariances"].parameters.get("divisor") == "n-1")
    divisors = (run.covariance_counts.double() - unbiased).clamp(min=0)
    if not divisors.any():
        hint = "no covariance is known of classes of one image"
        raise NumericalError("lda", "some class must have two images or more", hint)
    shared = discriminant.pooled(run.covariances, divisors / divisors.sum())
    s = options.shrinkage
    if s is None:
        s = discriminant.shrinkage(run.features.double() - run.means.double()[run.labels])
    weight, bias = discriminant.discriminant(run.means, shared, s)
    if options.prior == "train":
        bias = bias + log_prior(run.class_counts)
    classifier = Classifier(weight.shape[1], weight.shape[0])
    classifier.weight.data.copy_(weight)
    classifier.bias.data.copy_(bias)
    return classifier, {"shrinkage": s}


METHOD = Method(
    summary="Gaussian classes with one shrunk covariance and a stated prior",
    source="Fisher, Annals of Eugenics 1936; Ledoit and Wolf, J. Multivariate Analysis 2004",
    stages=FINETUNE,
    options=Options,
    solve=solve,
    balances=lambda options, _run: options.prior == "uniform",
    reads=lambda _options, _run: ("covariances",),
)
