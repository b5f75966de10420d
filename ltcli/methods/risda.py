"""RISDA: ISDA whose tail classes borrow from the classes that they are confused with.

The confusion graph eps [C, C] has the fractions of class-i training images predicted as class j. A
tail class c gets a reasoning covariance and a reasoning prototype from the other Sigma_i and mu_i:

    Sigma^r_c = sum_{i != c} eps_ci Sigma_i        mu^r_c = sum_{i != c} eps_ci mu_i
    z~_c = z_c + shift_t (w_c - w_y)' mu^r_y + 1/2 strength_t (w_c - w_y)'(Sigma_y + Sigma^r_y)(...)
    L = mean over the batch of w_y CE(z~, y), w_y by the effective number of samples

shift_t and strength_t grow as in ISDA. The shift displaces the feature: it changes z by that term
and by one number for all classes. ``base`` takes another loss of z~. Strength and shift 0 give
class-balanced cross-entropy; no reasoning gives class-balanced ISDA.

Paper and released code differ; ``variant``:

    paper  as above. Head classes keep their own covariance and are not shifted.
    code   eps is rounded to two decimals, and its diagonal takes part. Every class, head classes
           too, is displaced by eps mu - mu (towards the classes that it is predicted as), and
           twice: once in the feature, once more in the logits. A tail class has the covariance
           sum_i eps_ci Sigma_i, without its own on top; with running covariances this overwrites
           the estimate in every step, and the next update, with features displaced once, starts
           from it. Prototypes are those before fine-tuning. Classes must be sorted by size.

Both use the weighted mean, update running covariances before the loss, have no factor 1/N_c (with w
it would weigh twice), and ramp from ramp_start towards 1 over all epochs (0.8 to 0.995 in the
released code). The paper tunes the whole network for 40 epochs; so does ``--data images --train
all``. It has no figures for CIFAR-10. The artifact's covariances keep the divisor of their stage.

Mixtures of matrices and variances are formed once (running: in each step), those of factors for the
classes of each batch; see ``ltcli.stats.quadratic``.

Source: Chen, Zhou, Wu, Yang, Xie, Wang, Li, AAAI 2022, arXiv 2112.07928.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.errors import ParamError
from ltcli.core.params import param
from ltcli.methods.isda import require_room
from ltcli.methods.method import FINETUNE, Method, Run, TrainingRun, require_linear
from ltcli.methods.options import Base, HeadRule, base_loss, head_of

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps
    from ltcli.stats.quadratic import Covariances
    from ltcli.stats.running_moments import Estimator


@dataclass(frozen=True)
class Options(HeadRule, Base):
    """Options of RISDA."""

    shift: float = param(0.5, "factor of the reasoning prototypes (the paper's alpha)", ge=0)
    strength: float = param(0.75, "factor of the covariances (the paper's beta)", ge=0)
    ramp_start: float = param(
        0.8, "shift and strength in the first epoch, as a fraction of their values", ge=0, le=1
    )
    variant: Literal["paper", "code"] = param(
        "paper", "equations of the paper, or of the released code"
    )
    reasoning: Literal["both", "covariance", "prototype", "none"] = param(
        "both", "statistics that tail classes borrow from other classes"
    )
    source: Literal["artifact", "running"] = param(
        "artifact", "covariances and prototypes of ltcli covariances, or estimated batch by batch"
    )
    form: Literal["full", "diagonal"] = param("full", "form of the running covariances")


def check(options: Options, run: Run) -> None:
    """Refuse an unsuitable model, head rule or variant."""
    model = run.headers["model"]
    require_linear(model)
    if options.source == "running":
        require_room(options.form, model)
    counts = model.info["class_counts"]
    head_of(options, counts, "finetune")
    if options.variant == "code" and counts != sorted(counts, reverse=True):
        rule = "variant must be paper for classes that are not sorted by size, got code"
        hint = "the released code takes the first classes for the largest"
        raise ParamError("finetune", rule, hint)


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps with reasoning for tail classes."""
    import torch

    from ltcli.engine.schedules import ramp
    from ltcli.engine.steps import labels_on_host
    from ltcli.stats import quadratic

    if run.graph is None:
        raise ValueError("risda reads a confusion graph")
    classifier = run.network.classifier
    base = base_loss(options, run.class_counts)
    on_host = labels_on_host(run.order, run.labels)
    head = head_of(options, run.class_counts.tolist(), "finetune")
    tail = ~torch.tensor(head, device=run.class_counts.device)
    code = options.variant == "code"
    lent = prototype_weights(run.graph, tail, options.variant)
    shift = options.shift if options.reasoning in ("both", "prototype") else 0.0
    weights = covariance_weights(run.graph, tail, options.variant)
    running, covariances = _covariances(options, run, weights, tail)

    def prototypes() -> torch.Tensor:
        if run.means is not None:
            return run.means
        if running is None:
            raise ValueError("risda reads class means unless they are running")
        return running.means

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        host, ramped = on_host(batch), ramp(options.ramp_start, batch.epoch, run.epochs)
        if running is not None and not code:
            running.update(features, host)
        moved = ramped * shift * (lent[labels] @ prototypes())
        # The released code estimates covariances of the displaced features.
        if running is not None and code:
            running.update(features + moved, host)
        # The released code moves the features, and then adds the effect on the logits once more.
        logits = classifier(features + (2 * moved if code else moved))
        raised = quadratic.by_sample(classifier.vectors(), covariances(host), host)
        values = base(logits + 0.5 * ramped * options.strength * raised, labels, batch)
        return run.reduce(values, labels, batch)

    return run.feature_steps(loss, state=running)


def prototype_weights(
    graph: torch.Tensor, tail: torch.Tensor, variant: Literal["paper", "code"]
) -> torch.Tensor:
    """Weights of the class means in the displacement of each class, float [C, C].

    paper: eps of the other classes, for tail classes only. code: eps - 1, for every class, which
    leads from its own mean towards the mean of its predictions. ``tail`` is bool [C].
    """
    import torch

    if variant == "code":
        return graph.round(decimals=2) - torch.eye(len(graph)).to(graph)
    return graph.clone().fill_diagonal_(0).mul_(tail.unsqueeze(1))


def covariance_weights(
    graph: torch.Tensor, tail: torch.Tensor, variant: Literal["paper", "code"]
) -> torch.Tensor:
    """Weights of the class covariances in the one that augments each class, float [C, C].

    A head class has its own. A tail class has eps of all classes; paper: with its own in full.
    """
    # In place: [C, C] of thousands of classes is large.
    weights = graph.round(decimals=2) if variant == "code" else graph.clone().fill_diagonal_(1)
    weights[~tail] = 0
    weights.diagonal()[~tail] = 1
    return weights


def _covariances(
    options: Options, run: TrainingRun, weights: torch.Tensor, tail: torch.Tensor
) -> tuple[Estimator | None, Callable[[torch.Tensor], Covariances]]:
    """Running estimator, if any, and function from labels to mixed covariances."""
    from ltcli.stats.running_moments import Estimator

    borrows = options.reasoning in ("both", "covariance")
    borrowers: list[int] = tail.nonzero().flatten().tolist() if borrows else []
    if run.covariances is not None and options.source == "artifact":
        fixed = run.covariances.mixed(weights, borrowers)
        return None, lambda _host: fixed
    num_classes, dim = run.network.classifier.weight.shape
    running = Estimator(num_classes, dim, options.form, run.labels.device)

    def overwritten(_host: torch.Tensor) -> Covariances:
        running.replace(running.covariances.mixed(weights, borrowers))
        return running.covariances

    def mixed(host: torch.Tensor) -> Covariances:
        # The estimate stays each class's own, so only the batch's mixtures are formed.
        present = sorted(set(host.tolist()) & set(borrowers))
        return running.covariances.mixed(weights, present)

    return running, overwritten if options.variant == "code" else mixed


METHOD = Method(
    summary="ISDA with covariances and prototypes of confused classes for the tail",
    source="Chen et al., AAAI 2022, arXiv 2112.07928",
    stages=FINETUNE,
    options=Options,
    # Of three rates, 0.01 had the lowest validation loss on CIFAR-10-LT at factor 100.
    defaults={"finetune": {"lr": 0.01, "beta": 0.9999}},
    steps=make_steps,
    on_host=True,
    # The code variant moves features by means from before fine-tuning.
    reads=lambda options, _run: (
        ("confusion",)
        if options.source == "running" and options.variant == "paper"
        else ("covariances", "confusion")
    ),
    check=check,
)
