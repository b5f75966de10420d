"""Classifiers on features that are solved for instead of trained: which are, and their problem."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ltcli.core.context import Context
from ltcli.core.errors import ParamError
from ltcli.methods.method import Method, Run, TrainingRun
from ltcli.stages.stage import options_given, refuse_given

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.store import Artifact
    from ltcli.engine.convex import Problem

logger = logging.getLogger(__name__)

FOLDS = 5
# Samples times numbers times classes up to which ``auto`` solves: 3e9 take 7 minutes on two cores.
LARGEST = 4e9
# Parameters of training by steps.
_OF_STEPS = (
    *("schedule", "epochs", "warmup", "batch_size", "lr", "decay", "milestones", "factors"),
    *("momentum", "nesterov", "weight_decay", "reduction", "defer", "mixup", "shift_bn"),
    *("min_steps", "snapshots", "cuda_graph"),
)


def decided(run: Run, method: Method[Any], defaults: Mapping[str, Any]) -> str:
    """Return the optimiser of a run, with ``auto`` decided; ``defaults`` are the method's."""
    if run.params.optimizer != "auto":
        return run.params.optimizer
    if options_given(run.params, _OF_STEPS, defaults) or not _on_embeddings(run):
        return "sgd"
    samples, numbers = run.data.tensors["train.features"][1]
    large = samples * numbers * len(run.data.info["class_counts"]) > LARGEST
    return "sgd" if large or _why_not(run, method) else "lbfgs"


def check(run: Run, method: Method[Any], defaults: Mapping[str, Any]) -> None:
    """Refuse what cannot be solved for, and options that a run with its optimiser does not read."""
    if run.solver != "lbfgs":
        refuse_given(run.stage, run.params, ("l2",), "without --optimizer lbfgs")
        return
    reason = _why_not(run, method)
    if reason is not None:
        name = run.params.method
        raise ParamError(run.stage, f"optimizer must not be lbfgs for {name} here", reason)
    hint = "it has neither steps nor epochs; --optimizer sgd has"
    refuse_given(run.stage, run.params, _OF_STEPS, "with lbfgs", hint, defaults=defaults)


def _on_features(run: Run) -> bool:
    of_split = run.stage == "pretrain" and run.data.info["store"] == "features"
    return run.bank or of_split


def _on_embeddings(run: Run) -> bool:
    from ltcli.artifacts.backbone import backbone_of

    # Parameters are also looked at before the inputs are known.
    if run.source not in run.headers or not _on_features(run):
        return False
    return run.stage == "pretrain" or not backbone_of(run.data).image_size


def _why_not(run: Run, method: Method[Any]) -> str | None:
    """Why a run is no convex problem of a linear classifier, or None."""
    params = run.params
    if not _on_features(run):
        return "it needs features: those of a bank, or embeddings"
    if method.loss is None:
        return "it is for methods with a loss of logits"
    if "weight" not in method.head(params.options, run).trainable:
        return "it solves for the class vectors, which this method keeps"
    if params.sampler == "progressive" or getattr(params, "defer", False):
        return "the samples have one weight each, not one in each epoch"
    return "mixed samples have no fixed features" if params.mixup else None


def solve(
    run: TrainingRun, method: Method[Any], inputs: Mapping[str, Artifact], context: Context
) -> None:
    """Put the solution into the linear classifier of a run."""
    import torch

    from ltcli.data.batches import Batch
    from ltcli.data.folds import folds
    from ltcli.engine.convex import Problem, Scaling, minimise

    labels, source = run.labels, inputs[run.source]
    # The loss of a method asks for a batch, and none with a loss of logits reads it.
    every = Batch(0, 0, 0, torch.arange(len(labels), device=labels.device))
    features, loss = run.inputs(every), method.loss
    assert loss is not None
    by_logits = loss(run.params.options, run)
    scaling = Scaling.of(features)
    problem = Problem(
        scaling(features),
        labels,
        _weights(run)[labels],
        lambda logits, of: by_logits(logits, of, every),
        len(run.class_counts),
    )
    l2 = run.params.l2
    if l2 is None:
        known = "train.groups" in source.header.tensors
        groups = source.tensor("train.groups").numpy() if known else None
        held_out = torch.from_numpy(folds(labels.cpu().numpy(), FOLDS, run.seed, groups))
        l2 = _best(problem, held_out.to(labels.device), context)
    weight, bias = scaling.undone(minimise(problem, l2))
    classifier = run.network.classifier
    classifier.weight.data.copy_(weight)
    classifier.bias.data.copy_(bias)
    chosen = "" if run.params.l2 else f", chosen by {FOLDS} folds"
    logger.info("%s: solved with l2 %g%s", context.name, l2, chosen)
    context.log({"event": "solved", "l2": l2})


def _best(problem: Problem, folds: torch.Tensor, context: Context) -> float:
    """Return the l2 with the least loss on held-out samples; the strongest where there are none."""
    from ltcli.engine.convex import PATH, held_out_losses

    # To rank penalties, products in single precision will do.
    ranked = dataclasses.replace(problem, features=problem.features.float())
    found: dict[float, float] = {}
    if folds.max() >= 0:
        for l2, loss in held_out_losses(ranked, folds):
            logger.info("l2 %g: loss %.4f on held-out samples", l2, loss)
            found[l2] = loss
    context.log({"event": "folds", "l2": list(found), "losses": list(found.values())})
    return min(found, key=found.__getitem__) if found else PATH[0]


def _weights(run: TrainingRun) -> torch.Tensor:
    """Weight of a sample of each class, float64 [C]: how often it is drawn, times its own."""
    from ltcli.data.samplers import class_probabilities
    from ltcli.stats.class_weights import effective_number_weights

    counts, sampler = run.class_counts.cpu(), run.params.sampler
    weights = effective_number_weights(counts, run.params.beta)
    if sampler != "instance-balanced":
        # The progressive sampler ends where the class-aware one begins.
        drawn = class_probabilities(counts, sampler, 1.0)
        weights = weights * drawn / counts.clamp(min=1)
    return weights.to(run.labels.device)
