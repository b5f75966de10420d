"""covariances: class means and covariances of the training features, in the form that fits."""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli.core.context import Context
from ltcli.core.errors import ParamError, ResourceError
from ltcli.core.params import param
from ltcli.core.table import aligned
from ltcli.core.text import plural
from ltcli.stages.stage import Input, Result, Stage, of_bank

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.stats.covariance_forms import Estimate, Form

logger = logging.getLogger(__name__)

# Up to this dimension a product with a matrix is small, and mixtures are formed only once.
_SMALL_DIM = 256

_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(KB|MB|GB|TB)")


@dataclass(frozen=True)
class Params:
    """Parameters of covariances."""

    form: Literal["auto", "full", "factor", "low-rank", "diagonal"] = param(
        "auto",
        "full: matrices; factor: centred features F with covariance F'F; low-rank: leading"
        " directions and the variances that they leave; diagonal: variances; auto: the most exact"
        " form that fits in --memory",
    )
    memory: str = param("4GB", "memory limit for means and covariances, such as 512MB")
    rank: int | None = param(
        None, "low-rank: directions per class; default: the most that fit in --memory", ge=1
    )
    divisor: Literal["n-1", "n"] = param(
        "n-1", "divide sums by n-1 (unbiased), or by n as running covariances do"
    )


@dataclass(frozen=True)
class Plan:
    """Form of the covariances, directions per class if low-rank, and the size of each form.

    Sizes are bytes, with the means, in the order in which auto prefers the forms; the table has
    name, size, exactness and whether it fits, a row for each form.
    """

    form: Form
    rank: int | None
    sizes: dict[Form, int]
    table: list[list[str]]


def memory_of(text: str) -> float:
    """Bytes of a size such as 4GB or 512MB."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ParamError("covariances", f"memory must be a size such as 4GB or 512MB, got {text}")
    return float(match[1]) * _UNITS[match[2]]


def planned(
    form: Literal["auto"] | Form, memory: str, rank: int | None, counts: Sequence[int], dim: int
) -> Plan:
    """Form that auto chooses, or the given form if it fits.

    The memory limits means and covariances in float32, in the file and in use. Without a rank the
    low-rank form has the most directions that fit.
    """
    limit = memory_of(memory)
    if rank is not None and form != "low-rank":
        raise ParamError("covariances", f"rank needs --form low-rank, got {form}")
    if rank is None:
        # The size grows with the rank, so a binary search finds the last one that fits.
        rank = bisect_right(range(1, dim + 1), limit, key=lambda r: _low_rank(counts, dim, r))
    rank = max(1, min(rank, dim))
    means = len(counts) * 4 * dim
    sizes: dict[Form, int] = {
        "full": means + means * dim,
        "factor": means + sum(min(count, dim) for count in counts) * 4 * dim,
        "low-rank": _low_rank(counts, dim, rank),
        "diagonal": 2 * means,
    }
    chosen = form
    if chosen == "auto":
        # The factor is as exact as the full form and never larger, but slower in few dimensions.
        fitting = [it for it in sizes if sizes[it] <= limit and (it != "full" or dim <= _SMALL_DIM)]
        chosen = fitting[0] if fitting else "diagonal"
    if sizes[chosen] > limit:
        hint = "raise --memory" + ("" if form in ("auto", "diagonal") else ", or use --form auto")
        rule = f"{chosen} covariances of {plural(len(counts), 'class')} must take at most {memory}"
        raise ResourceError("covariances", f"{rule}, got {sizes[chosen] / 1e9:.3g} GB", hint)
    notes = {"full": "exact", "factor": "exact", "low-rank": f"rank {rank}", "diagonal": ""}
    fits = {kind: "" if size <= limit else "too large" for kind, size in sizes.items()}
    fits[chosen] = "chosen"
    table = [[kind, f"{sizes[kind] / 1e6:,.1f} MB", notes[kind], fits[kind]] for kind in sizes]
    return Plan(chosen, rank if chosen == "low-rank" else None, sizes, table)


def _low_rank(counts: Sequence[int], dim: int, rank: int) -> int:
    """Bytes of means, leading directions, and the variances that they leave."""
    return 4 * dim * (2 * len(counts) + sum(min(count, rank) for count in counts))


def _plan(params: Params, headers: Mapping[str, Header]) -> Plan:
    header = headers["features"]
    counts, dim = header.info["class_counts"], header.size("train.features", 1)
    return planned(params.form, params.memory, params.rank, counts, dim)


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Refuse a form that is too large before any work."""
    _plan(params, headers)


def run(params: Params, inputs: Mapping[str, Artifact], _context: Context) -> Result:
    """Estimate the moments of each class, with the features of one class in memory at a time."""
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
    return Result(found.tensors, info | described(found, plan.form, plan.rank, info["class_names"]))


def described(found: Estimate, form: str, rank: int | None, names: list[str]) -> dict[str, Any]:
    """Header entries that describe an estimate; warns about classes without variance."""
    single = (found.tensors["counts"] == 1).nonzero().flatten().tolist()
    if single:
        # With a covariance of zero these classes are not augmented.
        shown = ", ".join(names[c] for c in single[:5]) + (", ..." if len(single) > 5 else "")
        text = plural(len(single), "class")
        logger.warning("covariances: zero for %s with one image: %s", text, shown)
    entries = {"form": form, "single_image_classes": len(single)}
    if found.relative_error is None:
        return entries
    logger.info("covariances: rank %s, mean relative error %.2g", rank, found.relative_error)
    return entries | {"rank": rank, "relative_error": found.relative_error}


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
