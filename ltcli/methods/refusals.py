"""What several methods refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ltcli.core.errors import ArtifactError, ParamError

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header


def stage_of(headers: Mapping[str, Header]) -> str:
    """Return the stage that has these inputs: only ``finetune`` starts from a model."""
    return "finetune" if "model" in headers else "pretrain"


def moves_backbone(params: Any, headers: Mapping[str, Header]) -> None:
    """Refuse a frozen backbone and embeddings, for a method whose loss is of the features."""
    if "model" in headers and params.train != "all":
        hint = "its loss is of the features, which a classifier alone does not change"
        raise ParamError("finetune", f"train must be all for {params.method}, got classifier", hint)
    if headers["split"].info["store"] == "features":
        hint = "there is no backbone that could make other features"
        raise ParamError(stage_of(headers), f"{params.method} must not be used on embeddings", hint)


def has_activation_maps(model: Header) -> None:
    """Refuse a classifier whose logits are no sum over the positions of feature maps.

    Those of experts are means of cosines, each with a length of its own; those of a memory are of
    enriched features. One on cosines differs from a linear one by factors of a whole map.
    """
    form = model.info["classifier"]
    if form not in ("linear", "cosine"):
        rule = f"must have a linear or cosine classifier for activation maps, got {form}"
        raise ArtifactError(model.path, rule, "start from a model of another method")


def takes_no_weights(params: Any, headers: Mapping[str, Header], why: str) -> None:
    """Refuse class weights, for a method whose steps do not have them.

    Args:
        params: With ``beta`` and ``method``.
        headers: Of the inputs, by role.
        why: The hint.
    """
    if params.beta > 0:
        rule = f"beta must be 0 for {params.method}, got {params.beta}"
        raise ParamError(stage_of(headers), rule, why)
