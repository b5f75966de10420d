"""covariances: class means and covariances of the training features."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.context import Context
from ltcli.core.errors import ResourceError
from ltcli.core.log import plural
from ltcli.core.params import param
from ltcli.stages.stage import Input, Result, Stage, of_bank

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact

logger = logging.getLogger(__name__)

# What a full form may take before the smaller, equally exact forms are pointed out.
MAX_FULL_BYTES = 8e9


@dataclass(frozen=True)
class Params:
    """Parameters of covariances."""

    form: Literal["full", "diagonal", "factor"] = param(
        "full", "full matrix, variances, or factor: centred features F with covariance F'F"
    )
    divisor: Literal["n-1", "n"] = param("n-1", "unbiased, or the biased one of streaming code")


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Refuse a full form that is too large before any work."""
    header = headers["features"]
    classes = len(header.info["class_names"])
    size = 4.0 * classes * header.size("train.features", 1) ** 2
    if params.form == "full" and size > MAX_FULL_BYTES:
        rule = f"full covariances of {plural(classes, 'class')} take {size / 1e9:.1f} GB"
        raise ResourceError("covariances", rule, "use --form factor (exact) or --form diagonal")


def run(params: Params, inputs: Mapping[str, Artifact], _context: Context) -> Result:
    """Estimate the moments of each class."""
    from ltcli.stats import moments

    bank = inputs["features"]
    info = bank.header.info
    classes = len(info["class_names"])
    features = bank.tensor("train.features").float()
    labels = bank.tensor("train.labels")
    ddof: Literal[0, 1] = 1 if params.divisor == "n-1" else 0
    counts = moments.class_counts(labels, classes)
    tensors = {
        "means": moments.class_means(features, labels, classes).float(),
        "counts": counts,
    }
    if params.form == "full":
        tensors["full"] = moments.full_covariances(features, labels, classes, ddof=ddof)
    elif params.form == "diagonal":
        tensors["diagonal"] = moments.diagonal_covariances(features, labels, classes, ddof=ddof)
    else:
        rows, offsets = moments.factors(features, labels, classes, ddof=ddof)
        tensors |= {"rows": rows, "offsets": offsets}
    single = [info["class_names"][c] for c in (counts == 1).nonzero().flatten().tolist()]
    if single:
        shown = ", ".join(single[:5]) + (", ..." if len(single) > 5 else "")
        text = plural(len(single), "class")
        logger.warning("covariances: zero for %s with one image: %s", text, shown)
    return Result(
        tensors,
        of_bank(info) | {"form": params.form, "single_image_classes": len(single)},
    )


STAGE = Stage(
    name="covariances",
    summary="Estimate class means and covariances of the training features.",
    params=Params,
    inputs=(Input("features", "features", "dump-features", "feature bank"),),
    output="covariances",
    run=run,
    check=check,
    examples=(
        "ltcli covariances -d artifacts/c10-100",
        "ltcli covariances --form factor -d artifacts/c10-100",
    ),
)
