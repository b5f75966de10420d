"""Memory that each form of the covariances takes, and the choice of a form."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.errors import ParamError, ResourceError
from ltcli.core.text import plural

if TYPE_CHECKING:
    from ltcli.stats.covariance_forms import Form

# Up to here a matrix is a small product, and its mixtures are formed once.
SMALL_DIM = 256

_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(KB|MB|GB|TB)")


@dataclass(frozen=True)
class Plan:
    """The chosen form, and the memory of every form.

    Attributes:
        form: Form of the covariances.
        rank: Directions of a class, if the form is low-rank.
        sizes: Bytes of each form, the means included, in the order in which auto prefers them.
        table: A row of text for each form: name, size, exactness, whether it is chosen or fits.
    """

    form: Form
    rank: int | None
    sizes: dict[Form, int]
    table: list[list[str]]


def memory_of(text: str) -> float:
    """Return a size such as 4GB or 512MB in bytes.

    Raises:
        ParamError: It is written otherwise.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ParamError("covariances", f"memory must be a size such as 4GB or 512MB, got {text}")
    return float(match[1]) * _UNITS[match[2]]


def planned(
    form: Literal["auto"] | Form, memory: str, rank: int | None, counts: Sequence[int], dim: int
) -> Plan:
    """Choose the form, or check the one that is asked for.

    auto: full where it fits and D is small; else the factor, as exact and never larger; else the
    low-rank form of the largest rank that fits; else the diagonal.

    Args:
        form: auto or a form.
        memory: Limit for means and covariances in float32, in the file and in use.
        rank: Rank of the low-rank form; None for the largest that fits.
        counts: Training images of each class.
        dim: D.

    Raises:
        ParamError: A parameter is wrong, or a rank is given for another form.
        ResourceError: The form takes more memory.
    """
    limit = memory_of(memory)
    if rank is not None and form != "low-rank":
        raise ParamError("covariances", f"rank needs --form low-rank, got {form}")
    if rank is None:
        rank = bisect_right(range(1, dim + 1), limit, key=lambda r: _low_rank(counts, dim, r))
    rank = max(1, min(rank, dim))
    vector = 4 * dim
    means = len(counts) * vector
    sizes: dict[Form, int] = {
        "full": means + len(counts) * dim * vector,
        "factor": means + sum(min(count, dim) for count in counts) * vector,
        "low-rank": _low_rank(counts, dim, rank),
        "diagonal": 2 * means,
    }
    chosen = form
    if chosen == "auto":
        fitting = [it for it in sizes if sizes[it] <= limit and (it != "full" or dim <= SMALL_DIM)]
        chosen = fitting[0] if fitting else "diagonal"
    if sizes[chosen] > limit:
        hint = "raise --memory" + ("" if form in ("auto", "diagonal") else ", or use --form auto")
        rule = f"{chosen} covariances of {plural(len(counts), 'class')} must take at most {memory}"
        raise ResourceError("covariances", f"{rule}, got {sizes[chosen] / 1e9:.3g} GB", hint)
    kept = rank if chosen == "low-rank" else None
    notes = {"full": "exact", "factor": "exact", "low-rank": f"rank {rank}", "diagonal": ""}
    table = [
        [
            name,
            f"{size / 1e6:,.1f} MB",
            notes[name],
            "chosen" if name == chosen else "" if size <= limit else "too large",
        ]
        for name, size in sizes.items()
    ]
    return Plan(chosen, kept, sizes, table)


def _low_rank(counts: Sequence[int], dim: int, rank: int) -> int:
    """Return the bytes of means, leading directions and remaining variances."""
    return 4 * dim * (2 * len(counts) + sum(min(count, rank) for count in counts))
