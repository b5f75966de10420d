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

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.errors import ParamError
from ltcli.core.params import param
from ltcli.methods import bilevel, isda
from ltcli.methods.isda import CovarianceSource, covariances_of, require_room
from ltcli.methods.method import FINETUNE, Method
from ltcli.methods.options import Base, base_loss

if TYPE_CHECKING:
    import torch

    from ltcli.engine.steps import Batch, Steps
    from ltcli.methods.bilevel import Meta
    from ltcli.methods.method import Loss, Run, TrainingRun
    from ltcli.stats.quadratic import Covariances, Diagonal, Full
    from ltcli.stats.running_moments import Estimator


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


def reads(options: Options, run: Run) -> tuple[str, ...]:
    """Inputs beside model and data."""
    return (*bilevel.reads(options, run), *isda.reads(options, run))


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Bi-level steps."""
    from ltcli.engine.steps import Steps, labels_on_host

    order, meta = bilevel.meta_set(options, run)
    running, covariances = covariances_of(options, run)
    on_host = labels_on_host(order, run.labels)
    steps = _MetaSteps(options, run, running, covariances, meta, on_host)
    return Steps(steps.step, order=order, state=running, facts=steps.facts)


@dataclass(frozen=True)
class _Now:
    """Training batch of one step, and the constants of its losses.

    Attributes:
        batch: Rows of the step.
        x: Images or features that were drawn.
        features: float32 [B, D].
        labels: int64 [B].
        host: The labels on the CPU.
        covariances: Covariances before the meta step.
        strength: Strength in this epoch.
        rate: Learning rate of this epoch.
    """

    batch: Batch
    x: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor
    host: torch.Tensor
    covariances: Covariances
    strength: float
    rate: float


class _MetaSteps:
    """Steps of MetaSAug.

    Args:
        options: Options of the method.
        run: The run.
        running: Estimator that follows the steps, for running covariances.
        covariances: Function that gives the present covariances.
        meta: Function that makes the held-out batch of a step.
        on_host: Function that gives the labels of a step on the CPU.
    """

    def __init__(
        self,
        options: Options,
        run: TrainingRun,
        running: Estimator | None,
        covariances: Callable[[], Covariances],
        meta: Meta,
        on_host: Callable[[Batch], torch.Tensor],
    ) -> None:
        self._options, self._setting, self._running = options, run, running
        self._covariances = covariances
        self._meta, self._on_host = meta, on_host
        self._loss: Loss = base_loss(options, run.class_counts)
        # Sums over the steps of an epoch, on the device: relative sizes of the covariance steps,
        # and their number.
        self._sizes = run.class_counts.new_zeros(2, dtype=run.network.classifier.weight.dtype)

    def facts(self) -> dict[str, float]:
        """Mean relative size of the covariance steps since the last call, for the log."""
        if self._options.meta_lr == 0:
            return {}
        total, count = self._sizes.tolist()
        self._sizes.zero_()
        return {"covariance_step": total / max(count, 1.0)}

    def step(self, batch: Batch) -> torch.Tensor:
        """Do one step and return the loss with the corrected covariances."""
        import torch

        from ltcli.engine.schedules import ramp

        run, options = self._setting, self._options
        x = run.inputs(batch)
        now = _Now(
            batch=batch,
            x=x,
            features=run.features_of(x),
            labels=run.labels[batch.rows],
            host=self._on_host(batch),
            covariances=self._covariances(),
            strength=options.strength * ramp(options.ramp_start, batch.epoch, run.epochs),
            rate=run.optimizer.param_groups[0]["lr"],
        )
        corrected = self._corrected(now) if options.meta_lr > 0 else None
        covariances = now.covariances if corrected is None else corrected
        run.optimizer.zero_grad(set_to_none=True)
        value = self._augmented_loss(now, now.features, covariances)
        torch.autograd.backward(value)
        run.optimizer.step()
        if self._running is not None:
            # Corrected first: the update then adds this batch to the replaced estimate.
            if options.variant == "paper" and corrected is not None:
                self._running.replace(corrected)
            self._running.update(now.features, now.host)
        return value

    def _augmented_loss(
        self, now: _Now, features: torch.Tensor, covariances: Covariances
    ) -> torch.Tensor:
        from ltcli.stats.quadratic import by_sample

        classifier = self._setting.network.classifier
        raised = by_sample(classifier.vectors(), covariances, now.host)
        return self._mean_loss(now, classifier(features) + 0.5 * now.strength * raised)

    def _mean_loss(self, now: _Now, logits: torch.Tensor) -> torch.Tensor:
        values = self._loss(logits, now.labels, now.batch)
        return self._setting.reduce(values, now.labels, now.batch)

    def _corrected(self, now: _Now) -> Full | Diagonal:
        """Covariances after the meta step."""
        import torch

        from ltcli.compute.transfer import to_device
        from ltcli.stats.meta_covariance import covariance_gradient
        from ltcli.stats.quadratic import Diagonal, Full, as_matrices

        run, classifier = self._setting, self._setting.network.classifier
        classes = torch.unique(now.host)
        present: list[int] = classes.tolist()
        # The gradient is zero for all classes that are not in the batch.
        start = now.covariances
        if not isinstance(start, Diagonal):
            start = as_matrices(start, present)
        tangents = bilevel.behind_virtual_step(
            lambda features: self._augmented_loss(now, features, now.covariances),
            now.features,
            now.x,
            self._meta(now.batch),
            run,
            now.batch,
        )
        gradient = covariance_gradient(
            lambda logits: self._mean_loss(now, logits),
            now.features.detach(),
            now.labels,
            classifier.vectors().detach(),
            (classifier.scales * classifier.bias).detach(),
            start,
            tangents,
            classes=classes,
            strength=now.strength,
            rate=now.rate,
        )
        steps = -self._options.meta_lr * gradient
        if isinstance(start, Diagonal):
            before = start.variances
            where = to_device(classes, before.device)
            after: Full | Diagonal = Diagonal(before.index_add(0, where, steps))
            known = before[where]
        else:
            # Matrices of other classes are shared with the estimate, not copied.
            matrices = list(start.matrices)
            known = torch.stack([matrices[c] for c in present])
            for c, step in zip(present, steps, strict=True):
                matrices[c] = matrices[c] + step
            after = Full(matrices)
        # A covariance of zero, as before the first batch, has no relative size.
        norm = known.norm()
        self._sizes[0] += torch.where(norm > 0, steps.norm() / norm, 0.0)
        self._sizes[1] += norm > 0
        return after


METHOD = Method(
    summary="class-balanced ISDA with covariances that are learned on held-out images",
    source="Li et al., CVPR 2021, arXiv 2103.12579",
    stages=FINETUNE,
    options=Options,
    defaults={"finetune": {**bilevel.SECOND_STAGE, "beta": 0.9999}},
    steps=make_steps,
    alone=True,
    reads=reads,
    set_aside=bilevel.set_aside,
    check=check,
)
