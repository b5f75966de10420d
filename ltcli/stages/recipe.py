"""How a model was made, as its metadata tells it: models of one recipe are runs of one row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltcli.artifacts.store import Artifact


def recipe(before: list[Any], stage: str, parameters: Mapping[str, Any]) -> list[Any]:
    """Return the chain of stages and parameters that led to a model, without the seeds.

    Models of one recipe differ in nothing but their seeds.

    Args:
        before: The recipe so far.
        stage: The stage that goes on.
        parameters: Its parameters, as in a header.
    """
    return [*before, [stage, {k: v for k, v in parameters.items() if k != "seed"}]]


def recipe_before(inputs: Mapping[str, Artifact]) -> list[Any]:
    """Return the recipe of the model, and how what ``finetune`` reads beside it was made."""
    steps: list[Any] = inputs["model"].header.info["recipe"]
    for role in ("features", "covariances", "confusion", "generator"):
        if role in inputs:
            header = inputs[role].header
            facts = header.parameters
            if role == "features":
                # All else of a bank is not read, or stands in the parameters of finetune.
                facts = {name: facts[name] for name in ("storage", "precision")}
            elif header.stage == "merge-covariances":
                facts = {**facts, "class_counts": header.info["class_counts"]}
            steps = recipe(steps, header.stage, facts)
    return steps
