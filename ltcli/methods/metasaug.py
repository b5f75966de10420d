"""MetaSAug: ISDA with class-balanced weights and covariances corrected on held-out images.

Every step has a batch of the long-tailed images and a balanced held-out batch:

    theta' = theta - a grad L(theta, Sigma)          a virtual step, a the learning rate
    Sigma' = Sigma - meta_lr grad_Sigma M(theta')    M the cross-entropy of the held-out batch
    theta  <- SGD step on L(theta, Sigma')
    L = mean over the batch of w_y base(z + strength_t / 2 Q[y]), w_y by the effective number

grad_Sigma is exact and in closed form, see ``ltcli.stats.meta_covariance``. The virtual step is
plain gradient descent on all trained parameters, without momentum or decay, as in the released
code. Running covariances start at zero and add a batch after its step. Sigma' is in general not
positive semi-definite, and no formula here requires it.

Running covariances of thousands of classes must be diagonal. Those of an artifact in factor form
need not: only the classes of a batch become matrices, which one step corrects for itself.

Paper and released code differ; ``variant``:

    code   Sigma' serves one step and is then dropped: the next starts from the running estimate.
    paper  Sigma' replaces the estimate (Algorithm 1).

The other differences are parameters: the strength grows from 0.8 to 1 of its value, as epoch / 200
does from epoch 160 (paper: constant, ``--ramp-start 1``); beta is 0.9999 (paper: (N - 1) / N); the
weighted mean (paper: a sum). LDAM's margins lower ordinary logits. The paper gives no equation for
the focal base; here it is the focal loss of the augmented logits.

``--meta-lr 0`` is the control: class-balanced ISDA with everything else alike.

Source: Li, Gong, Liu, Wang, Qiao, Cheng, CVPR 2021, arXiv 2103.12579.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.errors import ParamError
from ltcli.core.params import param
from ltcli.methods import bilevel, isda
from ltcli.methods.isda import CovarianceSource, covariances_of, require_room
from ltcli.methods.method import FINETUNE, Method, Run, TrainingRun
from ltcli.methods.options import Base, base_loss

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps
    from ltcli.stats.quadratic import Covariances, Diagonal, Full


@dataclass(frozen=True)
class Options(bilevel.MetaSet, Base, CovarianceSource):
    """Options of MetaSAug."""

    strength: float = param(0.5, "factor of the covariances", ge=0)
    ramp_start: float = param(
        0.8, "strength in the first epoch, as a fraction of --strength", ge=0, le=1
    )
    variant: Literal["code", "paper"] = param(
        "code", "use of the corrected covariances: for one step (code), or from then on (paper)"
    )
    meta_lr: float = param(0.1, "learning rate of the covariances; 0 is no meta step", ge=0)


def check(options: Options, run: Run) -> None:
    """Refuse an unsuitable model or meta set, and covariances that are too large."""
    bilevel.check(options, run)
    if options.source == "running":
        require_room(options.form, run.headers["model"])
    elif options.variant == "paper":
        hint = "those of an artifact are never replaced"
        raise ParamError("finetune", "variant must be code for --source artifact, got paper", hint)


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Bi-level steps."""
    import torch

    from ltcli.engine.schedules import ramp
    from ltcli.engine.steps import Steps, labels_on_host
    from ltcli.stats.meta_covariance import covariance_gradient
    from ltcli.stats.quadratic import Diagonal, as_matrices, by_sample

    order, meta = bilevel.meta_set(options, run)
    running, covariances = covariances_of(options, run)
    on_host, classifier = labels_on_host(order, run.labels), run.network.classifier
    base = base_loss(options, run.class_counts)
    # Sums over the steps of an epoch, on the device: relative sizes of the covariance steps, and
    # their number.
    sizes = run.class_counts.new_zeros(2, dtype=classifier.weight.dtype)

    def step(batch: Batch) -> torch.Tensor:
        x, labels, host = run.inputs(batch), run.labels[batch.rows], on_host(batch)
        features, known = run.features_of(x), covariances()
        strength = options.strength * ramp(options.ramp_start, batch.epoch, run.epochs)

        def mean_loss(logits: torch.Tensor) -> torch.Tensor:
            return run.reduce(base(logits, labels, batch), labels, batch)

        def augmented(features: torch.Tensor, under: Covariances) -> torch.Tensor:
            raised = by_sample(classifier.vectors(), under, host)
            return mean_loss(classifier(features) + 0.5 * strength * raised)

        corrected: Full | Diagonal | None = None
        if options.meta_lr > 0:  # Else the held-out batch would be work for nothing.
            tangents = bilevel.behind_virtual_step(
                lambda found: augmented(found, known), features, x, meta(batch), run, batch
            )
            classes = torch.unique(host)
            # The gradient is zero for all classes that are not in the batch.
            start = known if isinstance(known, Diagonal) else as_matrices(known, classes.tolist())
            gradient = covariance_gradient(
                mean_loss,
                features.detach(),
                labels,
                classifier.vectors().detach(),
                (classifier.scales * classifier.bias).detach(),
                start,
                tangents,
                classes=classes,
                strength=strength,
                rate=run.optimizer.param_groups[0]["lr"],
            )
            steps = -options.meta_lr * gradient
            corrected, norm = _moved(start, classes, steps)
            # A covariance of zero, as before the first batch, has no relative size.
            sizes[0] += torch.where(norm > 0, steps.norm() / norm, 0.0)
            sizes[1] += norm > 0
        run.optimizer.zero_grad()
        value = augmented(features, known if corrected is None else corrected)
        torch.autograd.backward(value)
        run.optimizer.step()
        if running is not None:
            # Corrected first: the update then adds this batch to the replaced estimate.
            if options.variant == "paper" and corrected is not None:
                running.replace(corrected)
            running.update(features, host)
        return value

    def facts() -> dict[str, float]:
        total, count = sizes.tolist()
        sizes.zero_()  # The log shows every epoch by itself.
        # An epoch of one batch may have no step that counts.
        return {"covariance_step": total / max(count, 1.0)}

    return Steps(step, order=order, state=running, facts=facts if options.meta_lr else dict)


def _moved(
    start: Full | Diagonal, classes: torch.Tensor, steps: torch.Tensor
) -> tuple[Full | Diagonal, torch.Tensor]:
    """Covariances after steps of some classes, and the norm that these classes had before."""
    import torch

    from ltcli.compute.transfer import to_device
    from ltcli.stats.quadratic import Diagonal, Full

    if isinstance(start, Diagonal):
        where = to_device(classes, start.variances.device)
        # A copy: the step must not change the running estimate.
        moved = Diagonal(start.variances.index_add(0, where, steps))
        return moved, start.variances[where].norm()
    # Matrices of other classes are shared with the estimate, not copied.
    matrices, present = list(start.matrices), classes.tolist()
    norm = torch.stack([matrices[c] for c in present]).norm()
    # Not in place, as the matrices belong to the estimate; one launch for all on a GPU.
    moved_ones = torch._foreach_add([matrices[c] for c in present], steps.unbind())
    for c, matrix in zip(present, moved_ones, strict=True):
        matrices[c] = matrix
    return Full(matrices), norm


METHOD = Method(
    summary="class-balanced ISDA with covariances that are learned on held-out images",
    source="Li et al., CVPR 2021, arXiv 2103.12579",
    stages=FINETUNE,
    options=Options,
    defaults={"finetune": {**bilevel.SECOND_STAGE, "beta": 0.9999}},
    steps=make_steps,
    alone=True,
    on_host=True,
    reads=lambda options, run: (*bilevel.reads(options, run), *isda.reads(options, run)),
    set_aside=bilevel.set_aside,
    check=check,
)
