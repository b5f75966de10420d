"""Inputs that compare and report share: the predictions of a folder, and checks before any work."""

from collections.abc import Sequence
from pathlib import Path

from ltcli.artifacts.header import Header
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.text import printable

# More images than any data set has, and few enough for every integer type.
_MOST_IMAGES = 10**9


def check_groups(command: str, many_above: int, few_below: int) -> None:
    """Check that no class is both many-shot and few-shot.

    Raises:
        ParamError: One may be, or a bound is no number of images.
    """
    for name, bound in (("many_above", many_above), ("few_below", few_below)):
        if not 0 <= bound <= _MOST_IMAGES:
            raise ParamError(command, f"{name} must be between 0 and {_MOST_IMAGES}, got {bound}")
    if few_below > many_above + 1:
        rule = f"few_below must be at most many_above + 1 = {many_above + 1}, got {few_below}"
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

    # The pre-trained model comes first, since the other rows start from it.
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
        # evaluate names its output after the model beside it.
        model = header.path.with_name(header.path.name.removeprefix("evaluate-"))
        if model in models and models[model] != header.info["model"]:
            rule = f"is of another model than {model}: run ltcli evaluate again"
            lines.append(f"{printable(str(header.path))} {rule}")
    return lines
