"""The record of a stage: data plus one function, and the checks that several stages make."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ltcli.compute.environment import processes
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import specs

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact


P = TypeVar("P")
"""The frozen dataclass of a stage's parameters."""

# Roles of inputs that are fingerprinted but are no artifacts: lineage cannot find them again.
OUTSIDE = ("folder", "data", "weights", "prior", "costs")


@dataclass(frozen=True)
class Input:
    """One artifact that a stage reads.

    Attributes:
        name: Its role and its option, ``--name``.
        file: Stem of the file that is read from ``--dir`` when the option is not given; None where
            it is optional, and read only if it is named.
        may_differ: Checks that this input is spared, ``split`` or ``model``.
    """

    name: str
    kind: str
    file: str | None
    help: str
    may_differ: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """The tensors and the metadata of a stage's output kind."""

    tensors: Mapping[str, torch.Tensor]
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Checked:
    """Findings of a stage's check that the run goes on with.

    Attributes:
        inputs: SHA-256 by role of inputs that are no artifacts; see ``OUTSIDE``.
        warnings: Lines for people.
        start: Passed to ``run`` in its context, so that it is worked out only once.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    start: object = None


@dataclass(frozen=True)
class Stage(Generic[P]):
    """A stage of the toolkit.

    Attributes:
        name: Command and stem of the default output.
        params: Frozen dataclass of ``param`` fields.
        output: The kind it writes.
        run: Does the work. Imports torch in its first lines, never before.
        examples: Runnable command lines for ``--help``.
        needs: Names of the inputs that a run with these parameters reads; None for all of them.
        output_stem: Stem of the default output, where it is not the name.
        check: Looks at parameters and headers before any work.
        group: Heading in ``ltcli --help``.
        has_methods: Whether ``params.method`` chooses a method, whose options are added.
        unread: Name of a method to the names of parameters that nothing reads with it.
        defaults: Defaults for fields of ``params``, instead of the declared ones.
        for_each: An input; where it is not named, the stage runs once for each one in ``--dir``.
        shares_work: Whether several processes may run it together.
        show: Lines for people about a finished artifact, from its header.
        preview: Lines for people about the output of a run, from the headers of its inputs.
    """

    name: str
    summary: str
    params: type[P]
    inputs: tuple[Input, ...]
    output: str
    run: Callable[[P, Mapping[str, Artifact], Context], Result]
    examples: tuple[str, ...]
    needs: Callable[[P], Collection[str]] | None = None
    output_stem: Callable[[P, Mapping[str, Path]], str] | None = None
    check: Callable[[P, Mapping[str, Header]], Checked | None] | None = None
    group: str = "The chain"
    has_methods: bool = False
    unread: Callable[[str], Collection[str]] = lambda _method: ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    for_each: str | None = None
    shares_work: bool = False
    show: Callable[[Header], list[str]] | None = None
    preview: Callable[[P, Mapping[str, Header]], list[str]] | None = None


def of_bank(info: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance that statistics of a feature bank take over from its metadata."""
    keys = ("class_names", "class_counts", "split", "model", "epoch")
    return {key: info[key] for key in keys if key in info}


def recipe(before: list[Any], stage: str, parameters: Mapping[str, Any]) -> list[Any]:
    """The chain of stages and parameters that led to a model, with one more stage at the end."""
    # Without seeds: models of one recipe are runs of one row in a comparison.
    kept = dict(parameters)
    kept.pop("seed", None)
    return [*before, [stage, kept]]


def check_together(
    stage: str, headers: Mapping[str, Header], may_differ: Mapping[str, tuple[str, ...]]
) -> None:
    """Check that inputs come from one split, one model and one list of classes.

    ``may_differ`` maps a role to the checks that it is spared, ``split`` or ``model``.
    """
    # Another list of classes would give the logits another meaning.
    for key, words in (("split", "split"), ("model", "model"), ("class_names", "list of classes")):
        seen: dict[str, object] = {}
        for role, header in headers.items():
            value = header.digest if header.kind == key else header.info.get(key)
            if key == "model" and header.kind == "predictions":
                # Predictions of two models on one split may be compared.
                value = None
            if value is not None and key not in may_differ.get(role, ()):
                seen[role] = value
        for role, value in seen.items():
            first = next(iter(seen))
            if value != seen[first]:
                rule = f"{headers[role].path} belongs to another {words} than {headers[first].path}"
                hint = "make both from the same artifacts, or name others"
                raise ArtifactError(stage, rule, hint)


def check_follows_prior(stage: str, model: Header) -> None:
    """Check that a model still follows the class prior of its training images."""
    if model.info["balanced"]:
        rule = f"{model.path}, by {model.info['method']}, corrects for the class prior already"
        hint = "start from plain cross-entropy, without class weights, another sampler or remix"
        raise ArtifactError(stage, rule, hint)


def check_processes(stage: str, alone: bool, what: str) -> None:
    """Refuse several processes for what only one can run; ``what`` is the subject of the error."""
    size = processes()[1]
    if alone and size > 1:
        hint = "start it without torchrun"
        raise ParamError(stage, f"{what} must be run by 1 process, got {size}", hint)


def refuse_given(
    stage: str,
    params: object,
    names: Collection[str],
    where: str,
    hint: str | None = None,
    *,
    defaults: Mapping[str, object] = {},
) -> None:
    """Refuse options that nothing reads: those whose values are not the defaults.

    ``where`` is the circumstance in which nothing reads them, such as "for tau-norm"; ``defaults``
    of a method replace the declared ones.
    """
    for flag in options_given(params, names, defaults):
        raise ParamError(stage, f"{flag} must not be given {where}", hint)


def options_given(
    params: object, names: Collection[str], defaults: Mapping[str, object]
) -> list[str]:
    """Return which of some options have another value than the default, as words of their flags.

    ``defaults`` of a method replace the declared ones.
    """
    # A default that somebody typed cannot be told apart, and does no harm.
    return [
        spec.flag[2:]
        for spec in specs(type(params))
        if spec.name in names
        and getattr(params, spec.name) != defaults.get(spec.name, spec.default)
    ]


def check_momentum(stage: str, nesterov: bool, momentum: float) -> None:
    """Check that Nesterov's momentum is more than 0."""
    if nesterov and momentum == 0:  # PyTorch would refuse this in words of its own arguments.
        rule = "momentum must be greater than 0 with nesterov, got 0"
        raise ParamError(stage, rule, "use --no-nesterov")


def check_kept(stage: str, epoch: int | None, model: Header) -> None:
    """Check that a model has kept the weights after an epoch, from 1; every model has the last."""
    if epoch is None:
        return
    backbones = any(name.startswith("snapshots.backbone.") for name in model.tensors)
    if model.stage != "pretrain" or not backbones:
        rule = "keeps no earlier epochs of its pre-training"
        raise ArtifactError(model.path, rule, "use pretrain --snapshots")
    # Kept epochs are the last ones in a row, so their number names them.
    kept, last = model.size("snapshots.epoch", 0), model.info["epochs"]
    if not last - kept < epoch <= last:
        rule = f"from-epoch must be in {last - kept + 1} ... {last}, got {epoch}"
        raise ParamError(stage, rule, f"{model.path} keeps these")


def check_epoch(epoch: int | None, headers: Mapping[str, Header], roles: Sequence[str]) -> None:
    """Check that the inputs of some roles come from one epoch, from 1; None is the last one."""
    for role in roles:
        found = headers[role].info.get("epoch") if role in headers else epoch
        if found != epoch:
            is_of, wanted = (
                "the last epoch" if one is None else f"epoch {one}" for one in (found, epoch)
            )
            rule = f"is of {is_of}, not of {wanted}"
            raise ArtifactError(headers[role].path, rule, "--from-epoch must be the same in all")


# Options of the augmentation that samples of a store do not have.
_UNREAD = {
    "images": (("least_area", "jitter"), "for images in the split", "it is of image files"),
    "files": (("padding", "pad_mode"), "for image files", "they are cropped by --least-area"),
    "features": (
        ("padding", "pad_mode", "flip", "least_area", "jitter"),
        "on features",
        "it is of images",
    ),
}


def refuse_augmentation(
    stage: str, params: Any, store: str, defaults: Mapping[str, object] | None = None
) -> None:
    """Refuse augmentation options without effect on samples of a store; a bank has features."""
    refuse_given(stage, params, *_UNREAD[store], defaults=defaults or {})
