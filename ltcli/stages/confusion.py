"""confusion: confusion graph of the trained model on the training images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.context import Context
from ltcli.core.errors import ParamError
from ltcli.core.params import param
from ltcli.core.table import aligned
from ltcli.stages.stage import Input, Result, Stage, of_bank

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Params:
    """Parameters of confusion."""

    top: int | None = param(
        None, "number of most confusing classes per class; default: 3, or all others", ge=1
    )
    rank_by: Literal["scores", "graph"] = param(
        "scores", "rank by mean probability, or by fraction of images predicted as the other class"
    )


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Refuse more confusing classes than there are others."""
    others = len(headers["features"].info["class_names"]) - 1
    if params.top is not None and params.top > others:
        raise ParamError("confusion", f"top must be at most {others}, got {params.top}")


def run(params: Params, inputs: Mapping[str, Artifact], _context: Context) -> Result:
    """Classify the features of the training images and count the predictions by class."""
    import torch

    from ltcli.models.network import load_network
    from ltcli.stats.confusion import graph_and_scores, top_confusing
    from ltcli.stats.moments import BLOCK

    bank = inputs["features"]
    info = bank.header.info
    names = info["class_names"]
    # Headers count epochs from 1, snapshots from 0.
    epoch = info["epoch"] - 1 if "epoch" in info else None
    classifier = load_network(inputs["model"], torch.device("cpu"), epoch).classifier
    features, labels = bank.rows("train.features"), bank.tensor("train.labels")
    blocks = torch.split(torch.arange(len(labels)), BLOCK)
    with torch.inference_mode():
        # Block by block: features and logits of a large data set do not fit in memory.
        logits = (classifier(features[block].float()) for block in blocks)
        graph, scores = graph_and_scores(logits, labels, len(names))
    # Feature fusion takes three donors by default.
    kept = min(3, len(names) - 1) if params.top is None else params.top
    top = top_confusing(scores if params.rank_by == "scores" else graph, kept)
    rows = [
        [name, "with " + ", ".join(names[c] for c in others)]
        for name, others in zip(names, top.tolist(), strict=True)
    ]
    for line in aligned(rows, left=(0, 1)):
        logger.info("confusion: %s", line)
    tensors = {"graph": graph.float(), "scores": scores.float(), "top": top}
    return Result(tensors, of_bank(info))


STAGE = Stage(
    name="confusion",
    summary="Build the class confusion graph of the training images.",
    params=Params,
    inputs=(
        Input("features", "features", "dump-features", "feature bank"),
        Input("model", "model", "pretrain", "model of that bank"),
    ),
    output="confusion",
    check=check,
    run=run,
    examples=(
        "ltcli confusion -d artifacts/c10-100",
        "ltcli confusion --top 5 --rank-by graph -d artifacts/c10-100",
    ),
)
