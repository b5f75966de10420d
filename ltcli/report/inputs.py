"""Inputs that compare and report share: class groups, and the predictions of a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ltcli.artifacts.header import Header
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import param
from ltcli.core.text import printable

_MOST_IMAGES = 10**9


@dataclass(frozen=True)
class Groups:
    """Bounds between many-shot, medium-shot and few-shot classes; both belong to medium."""

    many_above: int = param(
        100, "classes with more training images are many-shot", ge=0, le=_MOST_IMAGES
    )
    few_below: int = param(
        20, "classes with fewer training images are few-shot", ge=0, le=_MOST_IMAGES
    )


def check_groups(command: str, groups: Groups) -> None:
    """Check that no class is both many-shot and few-shot.

    Raises:
        ParamError: One may be.
    """
    most = groups.many_above + 1
    if groups.few_below > most:
        rule = f"few_below must be at most many_above + 1 = {most}, got {groups.few_below}"
        raise ParamError(command, rule)


def predictions_on_test(folder: Path, headers: Sequence[Header]) -> list[Header]:
    """Predictions on the test set among the artifacts of a folder, the first row first.

    Raises:
        ArtifactError: There are none.
    """
    found = [h for h in headers if h.kind == "predictions" and h.info["on"] == "test"]
    if not found:
        rule = "has no predictions on the test set"
        raise ArtifactError(folder, rule, "run ltcli evaluate first")

    def rank(header: Header) -> tuple[bool, bool, bool, str]:
        info, name = header.info, header.path.stem
        trained_on = info["stage"] != "pretrain", info["method"] != "cross-entropy"
        return *trained_on, name != "evaluate-pretrain", name

    return sorted(found, key=rank)


def replaced_models(headers: Sequence[Header], folder: Sequence[Header]) -> list[str]:
    """A line for each predictions file whose model has been replaced by another one.

    Args:
        headers: The predictions.
        folder: All artifacts of their folder.
    """
    models = {header.path: header.digest for header in folder if header.kind == "model"}
    lines = []
    for header in headers:
        model = header.path.with_name(header.path.name.removeprefix("evaluate-"))
        if model in models and models[model] != header.info["model"]:
            rule = f"is of another model than {model}: run ltcli evaluate again"
            lines.append(f"{printable(str(header.path))} {rule}")
    return lines
