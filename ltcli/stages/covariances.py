"""covariances: class means and covariances of the training features."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli.core.context import Context
from ltcli.core.params import param
from ltcli.core.table import aligned
from ltcli.core.text import plural
from ltcli.stages.covariance_plan import Plan, planned
from ltcli.stages.stage import Input, Result, Stage, of_bank

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.stats.covariance_forms import Estimate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Params:
    """Parameters of covariances."""

    form: Literal["auto", "full", "factor", "low-rank", "diagonal"] = param(
        "auto",
        "full matrix; factor: centred features F with covariance F'F; low-rank: leading directions"
        " and the variances that they leave; diagonal; auto: the most exact that fits",
    )
    memory: str = param("4GB", "memory that they may take, such as 512MB")
    rank: int | None = param(
        None, "directions of a class for low-rank; the most that fit if not given", ge=1
    )
    divisor: Literal["n-1", "n"] = param("n-1", "unbiased, or the biased one of streaming code")


def _plan(params: Params, headers: Mapping[str, Header]) -> Plan:
    header = headers["features"]
    counts, dim = header.info["class_counts"], header.size("train.features", 1)
    return planned(params.form, params.memory, params.rank, counts, dim)


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Refuse a form that is too large before any work."""
    _plan(params, headers)


def run(params: Params, inputs: Mapping[str, Artifact], _context: Context) -> Result:
    """Estimate the moments of each class, with one class of the bank in memory at a time."""
    from ltcli.stats.covariance_forms import estimate

    bank = inputs["features"]
    plan = _plan(params, {"features": bank.header})
    found = estimate(
        bank.rows("train.features"),
        bank.tensor("train.labels"),
        len(bank.header.info["class_names"]),
        plan.form,
        ddof=1 if params.divisor == "n-1" else 0,
        rank=plan.rank,
    )
    info = of_bank(bank.header.info)
    return Result(found.tensors, info | facts(found, plan.form, plan.rank, info["class_names"]))


def facts(found: Estimate, form: str, rank: int | None, names: list[str]) -> dict[str, Any]:
    """Return what the header says of an estimate, and warn of classes without spread."""
    single = (found.tensors["counts"] == 1).nonzero().flatten().tolist()
    if single:
        shown = ", ".join(names[c] for c in single[:5]) + (", ..." if len(single) > 5 else "")
        text = plural(len(single), "class")
        logger.warning("covariances: zero for %s with one image: %s", text, shown)
    said = {"form": form, "single_image_classes": len(single)}
    if found.relative_error is None:
        return said
    logger.info("covariances: rank %s, mean relative error %.2g", rank, found.relative_error)
    return said | {"rank": rank, "relative_error": found.relative_error}


STAGE = Stage(
    name="covariances",
    summary="Estimate class means and covariances of the features.",
    params=Params,
    inputs=(Input("features", "features", "dump-features", "feature bank"),),
    output="covariances",
    run=run,
    check=check,
    preview=lambda params, headers: aligned(_plan(params, headers).table, left=(0, 2, 3), indent=2),
    examples=(
        "ltcli covariances -d artifacts/c10-100",
        "ltcli covariances --form low-rank --rank 16 -d artifacts/c10-100",
        "ltcli covariances --memory 512MB --dry-run -d artifacts/c10-100",
    ),
)
