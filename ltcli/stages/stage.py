"""What a stage is: data plus one function."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcli.compute.processes import processes
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import specs

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact


# Roles of what is fingerprinted, but is no artifact that could be found again and verified.
OUTSIDE = ("folder", "data", "weights", "prior", "costs")


@dataclass(frozen=True)
class Input:
    """One artifact that a stage reads.

    Attributes:
        name: Its role and its option, ``--name``.
        kind: The kind it must have.
        file: Stem of the file that is read from ``--dir`` when the option is not given; None where
            it is optional, and read only if it is named.
        help: One line.
        needed: Whether a run with these parameters reads it.
        may_differ: Which of split and model it need not share with the other inputs.
    """

    name: str
    kind: str
    file: str | None
    help: str
    needed: Callable[[Any], bool] = lambda _params: True
    may_differ: Callable[[Any], tuple[str, ...]] = lambda _params: ()


@dataclass(frozen=True)
class Result:
    """What a stage made: the tensors and the metadata of its output kind."""

    tensors: Mapping[str, torch.Tensor]
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Checked:
    """What the check of a stage found for the rest of the run.

    Attributes:
        inputs: SHA-256 of what the stage reads beside artifacts, by role; see ``OUTSIDE``.
        warnings: Lines for people.
        start: What ``run`` finds in its context, so that it need not be worked out again.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    start: object = None


@dataclass(frozen=True)
class Stage:
    """A stage of the toolkit.

    Attributes:
        name: Command and stem of the default output.
        summary: One line for ``--help``.
        params: Frozen dataclass of ``param`` fields.
        inputs: The artifacts it reads.
        output: The kind it writes.
        run: Does the work. Imports torch in its first lines, never before.
        examples: Runnable command lines for ``--help``.
        output_stem: Stem of the default output, where it is not the name.
        check: Looks at parameters and headers before any work.
        has_methods: Whether ``params.method`` chooses a method, whose parameters are added.
        defaults: Defaults for fields of ``params``, instead of the declared ones.
        for_each: An input; where it is not named, the stage runs once for each one in ``--dir``.
        shares_work: Whether several processes may run it together.
        show: Lines for people about a finished artifact, from its header.
        preview: Lines for people about what a run would make, from the headers of its inputs.
    """

    name: str
    summary: str
    params: type
    inputs: tuple[Input, ...]
    output: str
    run: Callable[[Any, Mapping[str, Artifact], Context], Result]
    examples: tuple[str, ...]
    output_stem: Callable[[Any, Mapping[str, Path]], str] | None = None
    check: Callable[[Any, Mapping[str, Header]], Checked | None] | None = None
    has_methods: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    for_each: str | None = None
    shares_work: bool = False
    show: Callable[[Header], list[str]] | None = None
    preview: Callable[[Any, Mapping[str, Header]], list[str]] | None = None


def of_bank(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what statistics of a feature bank say of where they come from, as the bank says it."""
    facts = ("class_names", "class_counts", "split", "model", "epoch")
    return {fact: info[fact] for fact in facts if fact in info}


def check_together(
    stage: str, headers: Mapping[str, Header], may_differ: Mapping[str, tuple[str, ...]]
) -> None:
    """Check that inputs come from one split, one model and one list of classes.

    Args:
        stage: What an error names.
        headers: The inputs by role.
        may_differ: Role to what it need not share with the others.

    Raises:
        ArtifactError: Two inputs do not belong together; both are named.
    """
    for fact, words in (("split", "split"), ("model", "model"), ("class_names", "list of classes")):
        seen: dict[str, object] = {}
        for role, header in headers.items():
            value = header.digest if header.kind == fact else header.info.get(fact)
            if fact == "model" and header.kind == "predictions":
                value = None
            if value is not None and fact not in may_differ[role]:
                seen[role] = value
        roles = list(seen)
        for role in roles[1:]:
            if seen[role] != seen[roles[0]]:
                first, other = headers[roles[0]].path, headers[role].path
                rule = f"{other} belongs to another {words} than {first}"
                hint = "make both from the same artifacts, or name others"
                raise ArtifactError(stage, rule, hint)


def check_follows_prior(stage: str, model: Header) -> None:
    """Check that a model still follows the class prior of its training images.

    Args:
        stage: What an error names.
        model: The model.

    Raises:
        ArtifactError: It corrects for the prior already.
    """
    if model.info["balanced"]:
        rule = f"{model.path}, by {model.info['method']}, corrects for the class prior already"
        hint = "start from plain cross-entropy, without class weights, another sampler or remix"
        raise ArtifactError(stage, rule, hint)


def check_processes(stage: str, alone: bool, what: str) -> None:
    """Check that what only one process can run is not run by several.

    Raises:
        ParamError: It is.
    """
    size = processes()[1]
    if alone and size > 1:
        hint = "start it without torchrun"
        raise ParamError(stage, f"{what} must be run by 1 process, got {size}", hint)


def refuse_given(
    stage: str,
    params: Any,
    names: Collection[str],
    where: str,
    hint: str | None = None,
    *,
    defaults: Mapping[str, object] = {},
) -> None:
    """Refuse options that nothing reads: those whose values are not the defaults.

    Args:
        stage: Stage that an error names.
        params: Its parameters.
        names: Parameters that are not read.
        where: Circumstance in which nothing reads them: "for tau-norm".
        hint: The reason.
        defaults: Defaults of the method, instead of the declared ones.

    Raises:
        ParamError: One was given.
    """
    for spec in specs(type(params)):
        default = defaults.get(spec.name, spec.default)
        if spec.name in names and getattr(params, spec.name) != default:
            raise ParamError(stage, f"{spec.flag[2:]} must not be given {where}", hint)


def check_momentum(stage: str, nesterov: bool, momentum: float) -> None:
    """Check that there is momentum where it shall be Nesterov's.

    Raises:
        ParamError: There is none.
    """
    if nesterov and momentum == 0:
        rule = "momentum must be greater than 0 with nesterov, got 0"
        raise ParamError(stage, rule, "use --no-nesterov")


def check_kept(stage: str, epoch: int | None, model: Header) -> None:
    """Check that a model has kept the weights after an epoch.

    Args:
        stage: What an error names.
        epoch: From 1; None for the last one, which every model has.
        model: The model.

    Raises:
        ArtifactError: It keeps no earlier epochs of its pre-training.
        ParamError: It does not keep this one.
    """
    if epoch is None:
        return
    backbones = any(name.startswith("snapshots.backbone.") for name in model.tensors)
    if model.stage != "pretrain" or not backbones:
        rule = "keeps no earlier epochs of its pre-training"
        raise ArtifactError(model.path, rule, "use pretrain --snapshots")
    kept, last = model.size("snapshots.epoch", 0), model.info["epochs"]
    if not last - kept < epoch <= last:
        rule = f"from-epoch must be in {last - kept + 1} ... {last}, got {epoch}"
        raise ParamError(stage, rule, f"{model.path} keeps these")


def check_epoch(epoch: int | None, headers: Mapping[str, Header], roles: Sequence[str]) -> None:
    """Check that what is read was made of the features of one epoch.

    Args:
        epoch: From 1; None for the last one.
        headers: Of the inputs, by role.
        roles: What must be of this epoch, where it is read.

    Raises:
        ArtifactError: One is of another epoch.
    """
    for role in roles:
        if role in headers and headers[role].info.get("epoch") != epoch:
            rule = f"is of {_named(headers[role].info.get('epoch'))}, not of {_named(epoch)}"
            raise ArtifactError(headers[role].path, rule, "--from-epoch must be the same in all")


def _named(epoch: int | None) -> str:
    return "the last epoch" if epoch is None else f"epoch {epoch}"
