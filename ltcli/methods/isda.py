"""ISDA, implicit semantic data augmentation: every feature stands for a Gaussian around it.

    z~_ic = z_ic + 1/2 strength_t (w_c - w_y)' Sigma_y (w_c - w_y), with y the label of sample i
    strength_t = strength (ramp_start + (1 - ramp_start) t / T), in epoch t = 0 ... T - 1 of T
    L = mean_i( -log softmax(z~_i)[y_i] )

This is an upper bound of the expected cross-entropy over infinitely many draws from
N(f_i, strength_t Sigma_y). The target's logit stays, the others rise by half the variance of their
difference to it. Strength 0, or covariances of zero, give cross-entropy. Covariances are constants
of the loss; gradients flow through features, class vectors and bias.

The running estimator starts from nothing and takes each batch into account before its loss, as in
the released code. That has full covariances on CIFAR, of strength 0.5, and on ImageNet diagonal
ones for their memory, of strength 7.5.

Source: Wang, Pan, Song, Zhang, Wu, Huang, NeurIPS 2019, arXiv 1909.12220.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli.core.errors import ArtifactError, ResourceError
from ltcli.core.params import param
from ltcli.core.text import plural
from ltcli.methods.method import FINETUNE, Method, Steps

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.engine.fit import Batch
    from ltcli.methods.method import Setting
    from ltcli.stats.quadratic import Covariances
    from ltcli.stats.running_moments import Estimator

# What full running covariances may take: a matrix a class, however few images it has.
MAX_FULL_BYTES = 8e9


@dataclass(frozen=True)
class CovarianceSource:
    """Parameters of methods whose covariances are running, or those of an artifact."""

    source: Literal["running", "artifact"] = param(
        "running", "covariances: estimated batch by batch, or of the stage covariances"
    )
    form: Literal["full", "diagonal"] = param("full", "of the running covariances")


@dataclass(frozen=True)
class Params(CovarianceSource):
    """Parameters of ISDA."""

    strength: float = param(0.5, "factor of the covariances", ge=0)
    ramp_start: float = param(0.0, "share of the strength in the first epoch", ge=0, le=1)


def check(params: Any, headers: Mapping[str, Header]) -> None:
    """Refuse a classifier whose logits are not linear, and covariances that are too large."""
    require_linear(headers["model"])
    if params.source == "running":
        require_room(params.form, headers["model"])


def require_linear(model: Header) -> None:
    """Refuse a model whose logits are not linear in the features.

    Raises:
        ArtifactError: Its classifier is not linear.
    """
    form = model.info["classifier"]
    if form != "linear":
        hint = "start from a model whose logits are linear in the features, not one of ldam or ncm"
        raise ArtifactError(model.path, f"classifier must be linear, got {form}", hint)


def require_room(form: str, model: Header) -> None:
    """Refuse running covariances that are too large, before they grow batch by batch.

    Raises:
        ResourceError: There are too many classes and features for the full form.
    """
    classes, dim = model.tensors["classifier.weight"][1]
    size = 4 * classes * dim**2
    if form == "full" and size > MAX_FULL_BYTES:
        rule = f"full running covariances of {plural(classes, 'class')} must take at most"
        sizes = f"{MAX_FULL_BYTES / 1e9:.0f} GB, got {size / 1e9:.1f} GB"
        raise ResourceError("finetune", f"{rule} {sizes}", "use --form diagonal")


def reads(params: CovarianceSource) -> tuple[str, ...]:
    """Return what the covariances need beside model and data."""
    return ("covariances",) if params.source == "artifact" else ()


def covariances_of(
    params: CovarianceSource, setting: Setting
) -> tuple[Estimator | None, Callable[[], Covariances]]:
    """Return the running estimator, if there is one, and what gives the covariances of now."""
    from ltcli.stats.running_moments import Estimator

    if params.source == "running":
        num_classes, dim = setting.network.classifier.weight.shape
        running = Estimator(num_classes, dim, params.form, setting.labels.device)
        return running, lambda: running.covariances
    known = setting.covariances
    if known is None:
        raise ValueError("the method reads covariances unless they are running")
    return None, lambda: known


def make_steps(params: Params, setting: Setting) -> Steps:
    """Return steps with the augmented logits."""
    from torch.nn import functional as F

    from ltcli.engine.schedules import ramp
    from ltcli.engine.steps import feature_step, labels_on_host
    from ltcli.stats import quadratic

    classifier = setting.network.classifier
    running, covariances = covariances_of(params, setting)
    on_host = labels_on_host(setting.order, setting.labels)

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        host = on_host(batch)
        if running is not None:
            running.update(features, host)
        strength = params.strength * ramp(params.ramp_start, batch.epoch, setting.epochs)
        raised = quadratic.by_sample(classifier.vectors(), covariances(), host)
        augmented = classifier(features) + 0.5 * strength * raised
        return setting.reduce(F.cross_entropy(augmented, labels, reduction="none"), labels, batch)

    step = feature_step(setting.features, setting.optimizer, loss, setting.labels)
    return Steps(step, state=running)


METHOD = Method(
    summary="cross-entropy under implicit Gaussian augmentation of features",
    source="Wang et al., NeurIPS 2019, arXiv 1909.12220",
    stages=FINETUNE,
    params=Params,
    steps=make_steps,
    balances=lambda _params: False,
    reads=reads,
    check=check,
)
