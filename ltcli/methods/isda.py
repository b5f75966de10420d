"""ISDA, implicit semantic data augmentation: a Gaussian around every feature, in closed form.

    z~_ic = z_ic + 1/2 strength_t (w_c - w_y)' Sigma_y (w_c - w_y), with y the label of sample i
    strength_t = strength (ramp_start + (1 - ramp_start) t / T), in epoch t = 0 ... T - 1 of T
    L = mean_i( -log softmax(z~_i)[y_i] )

L is an upper bound of the expected cross-entropy over draws from N(f_i, strength_t Sigma_y). The
target's logit stays; each other logit rises by half the variance of its difference to it. Strength
0, or covariances of zero, give cross-entropy. Covariances are constants of the loss; gradients flow
through features, class vectors and bias.

The running estimator starts at zero and adds each batch before its loss, as in the released code.
That code has full covariances on CIFAR, with strength 0.5, and diagonal ones on ImageNet, to save
memory, with strength 7.5.

Source: Wang, Pan, Song, Zhang, Wu, Huang, NeurIPS 2019, arXiv 1909.12220.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.errors import ResourceError
from ltcli.core.params import param
from ltcli.core.text import plural
from ltcli.methods.method import FINETUNE, Method, Run, TrainingRun, require_linear

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps
    from ltcli.stats.quadratic import Covariances
    from ltcli.stats.running_moments import Estimator

# Limit of full running covariances: each class has a matrix, however few images it has.
MAX_FULL_BYTES = 8e9


@dataclass(frozen=True)
class CovarianceSource:
    """Options of methods whose covariances are running, or those of an artifact."""

    source: Literal["running", "artifact"] = param(
        "running", "covariances estimated batch by batch, or those of ltcli covariances"
    )
    form: Literal["full", "diagonal"] = param("full", "form of the running covariances")


@dataclass(frozen=True)
class Options(CovarianceSource):
    """Options of ISDA."""

    strength: float = param(0.5, "factor of the covariances; 0 is no augmentation", ge=0)
    ramp_start: float = param(
        0.0, "strength in the first epoch, as a fraction of --strength", ge=0, le=1
    )


def check(options: Options, run: Run) -> None:
    """Refuse a non-linear classifier, and covariances that are too large."""
    require_linear(run.headers["model"])
    if options.source == "running":
        require_room(options.form, run.headers["model"])


def require_room(form: str, model: Header) -> None:
    """Refuse full running covariances that are too large, with ResourceError."""
    # At once: they grow batch by batch, and would fill the memory only after some epochs.
    classes, dim = model.tensors["classifier.weight"][1]
    size = 4 * classes * dim**2
    if form == "full" and size > MAX_FULL_BYTES:
        rule = f"full running covariances of {plural(classes, 'class')} must take at most"
        sizes = f"{MAX_FULL_BYTES / 1e9:.0f} GB, got {size / 1e9:.1f} GB"
        raise ResourceError("finetune", f"{rule} {sizes}", "use --form diagonal")


def reads(options: CovarianceSource, _run: Run) -> tuple[str, ...]:
    """Inputs of the covariances beside model and data."""
    return ("covariances",) if options.source == "artifact" else ()


def covariances_of(
    options: CovarianceSource, run: TrainingRun
) -> tuple[Estimator | None, Callable[[], Covariances]]:
    """Running estimator, if any, and function that gives the present covariances."""
    from ltcli.stats.running_moments import Estimator

    if options.source == "running":
        num_classes, dim = run.network.classifier.weight.shape
        running = Estimator(num_classes, dim, options.form, run.labels.device)
        return running, lambda: running.covariances
    # ``reads`` has asked for them, so their absence is a bug.
    known = run.covariances
    if known is None:
        raise ValueError("the method reads covariances unless they are running")
    return None, lambda: known


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps with the augmented logits."""
    from ltcli.engine.schedules import ramp
    from ltcli.engine.steps import labels_on_host
    from ltcli.stats import quadratic

    classifier = run.network.classifier
    running, covariances = covariances_of(options, run)
    on_host = labels_on_host(run.order, run.labels)

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        # With labels on the CPU, no step waits to learn the classes of its batch.
        host = on_host(batch)
        # Before the loss, as in the released code.
        if running is not None:
            running.update(features, host)
        strength = options.strength * ramp(options.ramp_start, batch.epoch, run.epochs)
        raised = quadratic.by_sample(classifier.vectors(), covariances(), host)
        return run.cross_entropy(classifier(features) + 0.5 * strength * raised, labels, batch)

    return run.feature_steps(loss, state=running)


METHOD = Method(
    summary="cross-entropy under implicit Gaussian augmentation of features",
    source="Wang et al., NeurIPS 2019, arXiv 1909.12220",
    stages=FINETUNE,
    options=Options,
    steps=make_steps,
    on_host=True,
    balances=lambda _options, _run: False,
    reads=reads,
    check=check,
)
