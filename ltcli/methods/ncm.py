"""NCM, nearest class mean: class vectors are means of normalised features; no training.

    w_c = mean over class c of f / ||f||,  z_c = scale * cos(f, w_c)

The scale does not change predictions, only probabilities.

Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, ICLR 2020, arXiv 1910.09217.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltcli.core.params import param
from ltcli.methods.method import FINETUNE, Method, SolvingRun

if TYPE_CHECKING:
    from ltcli.models.classifier import Classifier


@dataclass(frozen=True)
class Options:
    """Options of nearest class mean."""

    scale: float = param(16.0, "factor of the cosines; changes probabilities only", gt=0)


def solve(options: Options, run: SolvingRun) -> tuple[Classifier, dict[str, Any]]:
    """Cosine classifier whose class vectors are the means of normalised features."""
    from torch.nn import functional as F

    from ltcli.models.classifier import Classifier
    from ltcli.stats.moments import class_means

    num_classes, feature_dim = run.classifier.weight.shape
    classifier = Classifier(feature_dim, num_classes, "cosine")
    classifier.scales.data.fill_(options.scale)
    # Normalised first: otherwise long features dominate the mean.
    unit = F.normalize(run.features)
    classifier.weight.data.copy_(class_means(unit, run.labels, num_classes))
    classifier.bias.data.zero_()
    return classifier, {}


METHOD = Method(
    summary="nearest class mean by cosine",
    source="Kang et al., ICLR 2020, arXiv 1910.09217",
    stages=FINETUNE,
    options=Options,
    solve=solve,
)
