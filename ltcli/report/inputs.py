"""Inputs that compare and report share: class groups, and the predictions of a folder."""

from dataclasses import dataclass
from pathlib import Path

import typer

from ltcli.artifacts.header import Header, read_folder
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import param
from ltcli.core.text import printable

# The bounds are compared with int64 tensors of counts.
_MOST = 10**9


@dataclass(frozen=True)
class Groups:
    """Bounds between many-shot, medium-shot and few-shot classes; both belong to medium."""

    many_above: int = param(100, "classes with more training images are many-shot", ge=0, le=_MOST)
    few_below: int = param(20, "classes with fewer training images are few-shot", ge=0, le=_MOST)


def check_groups(command: str, groups: Groups) -> None:
    """Refuse bounds by which a class would be both many-shot and few-shot."""
    most = groups.many_above + 1
    if groups.few_below > most:
        rule = f"few_below must be at most many_above + 1 = {most}, got {groups.few_below}"
        raise ParamError(command, rule)


def predictions_of(command: str, folder: Path, hint: str) -> tuple[list[Header], list[Header]]:
    """Predictions of a folder on the test set, the first row first, and all its artifacts.

    Says on standard error whose model has been replaced since. ``hint`` is the remedy for a file of
    the folder that is no sound artifact.
    """
    headers = read_folder(folder, hint)
    found = [h for h in headers if h.kind == "predictions" and h.info["on"] == "test"]
    if not found:
        raise ArtifactError(
            folder, "has no predictions on the test set", "run ltcli evaluate first"
        )
    models = {header.path: header.digest for header in headers if header.kind == "model"}
    found.sort(key=_rank)
    for header in found:
        model = header.path.with_name(header.path.name.removeprefix("evaluate-"))
        if models.get(model, header.info["model"]) != header.info["model"]:
            rule = f"is of another model than {model}: run ltcli evaluate again"
            typer.echo(f"{command}: {printable(str(header.path))} {rule}", err=True)
    return found, headers


def _rank(header: Header) -> tuple[bool, bool, bool, str]:
    # Plain pre-training is the usual baseline, and differences are to the first row.
    info, name = header.info, header.path.stem
    trained_on = info["stage"] != "pretrain", info["method"] != "cross-entropy"
    return *trained_on, name != "evaluate-pretrain", name
