"""merge-covariances: class means and covariances of two disjoint sets of images together.

The result is that of one run over all images, up to float32. So several machines can each dump and
summarise a part of a data set, with a split of its own and the same model; more than two parts are
merged one after the other. Two parts of one split are refused; otherwise the user must make sure
that no image is in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import param
from ltcli.stages.covariances import described
from ltcli.stages.stage import Input, Result, Stage, of_bank

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.stats.moments import Moments, Scatter


@dataclass(frozen=True)
class Params:
    """Parameters of merge-covariances."""

    rank: int | None = param(
        None, "make factors low-rank, with this number of directions per class", ge=1
    )
    divisor: Literal["n-1", "n"] = param("n-1", "divisor that both were made with")


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Refuse forms that cannot be merged exactly, and two parts of one split."""
    if "other" not in headers:
        raise ParamError("merge-covariances", "other must be given", "name it with --other")
    first, other = headers["covariances"], headers["other"]
    for header in (first, other):
        form = header.info["form"]
        if form == "low-rank":
            # Directions that were cut off from one part may lead in the union.
            rule = "form must be exact to be merged, got low-rank"
            raise ArtifactError(header.path, rule, "merge factors, with --rank")
        if form != first.info["form"]:
            rule = f"form must be {first.info['form']}, as in {first.path}, got {form}"
            raise ArtifactError(header.path, rule, "make both with one --form")
        if params.rank is not None and form != "factor":
            rule = f"form must be factor for --rank, got {form}"
            raise ArtifactError(header.path, rule, "make both with --form factor")
        divisor = header.parameters.get("divisor")
        if divisor != params.divisor:
            rule = f"divisor must be {params.divisor}, got {divisor}"
            raise ArtifactError(header.path, rule, "make both with one --divisor, and name it")
        if header.info.get("epoch") != first.info.get("epoch"):
            rule = f"must come from the same epoch of the model as {first.path}"
            raise ArtifactError(header.path, rule, "use one --from-epoch in dump-features")
    if set(_splits(first)) & set(_splits(other)):
        rule = f"must come from other images than {first.path}, got the same split"
        raise ArtifactError(other.path, rule, "merge covariances of disjoint splits")


def _splits(header: Header) -> list[str]:
    """Digests of all splits that went into covariances."""
    splits: list[str] = header.info.get("splits", [header.info["split"]])
    return splits


def run(params: Params, inputs: Mapping[str, Artifact], _context: Context) -> Result:
    """Merge class by class."""
    from ltcli.stats.covariance_forms import assemble
    from ltcli.stats.moments import merge

    first, other = inputs["covariances"], inputs["other"]
    form: Scatter = first.header.info["form"]
    ddof = 1 if params.divisor == "n-1" else 0
    counts = [part.tensor("counts") for part in (first, other)]
    info = first.header.info

    # Class by class, as thousands of matrices do not fit in memory twice.
    def merged() -> Iterator[tuple[int, Moments]]:
        pairs = zip(_moments(first, form, ddof), _moments(other, form, ddof), strict=True)
        for c, (one, two) in enumerate(pairs):
            if one is not None and two is not None:
                yield c, merge(one, two, form)
            elif known := one or two:
                yield c, known

    made = "low-rank" if params.rank is not None else form
    dim = first.header.size("means", 1)
    found = assemble(merged(), counts[0] + counts[1], dim, made, ddof=ddof, rank=params.rank)
    both = zip(info["class_counts"], other.header.info["class_counts"], strict=True)
    splits = sorted(_splits(first.header) + _splits(other.header))
    return Result(
        found.tensors,
        of_bank(info)
        # Without a single split, as the result belongs to neither of the two.
        | {"class_counts": [a + b for a, b in both], "split": None, "splits": splits}
        | described(found, made, params.rank, info["class_names"]),
    )


def _moments(part: Artifact, form: Scatter, ddof: int) -> Iterator[Moments | None]:
    """Yield the moments of each class, or None for a class without samples."""
    import torch

    from ltcli.stats.moments import Moments

    counts: list[int] = part.tensor("counts").tolist()
    means = part.tensor("means").double()
    stored = part.rows("rows" if form == "factor" else form)
    starts = part.tensor("offsets").tolist() if form == "factor" else range(len(counts) + 1)
    for c, count in enumerate(counts):
        # Back from covariance to scatter, the sum that can be added.
        rows = stored[torch.arange(starts[c], starts[c + 1])].double()
        divisor = max(count - ddof, 0)
        scatter = rows * divisor**0.5 if form == "factor" else rows[0] * divisor
        yield Moments(count, means[c], scatter) if count else None


STAGE = Stage(
    name="merge-covariances",
    summary="Merge covariances of two disjoint sets of images.",
    params=Params,
    inputs=(
        Input(
            "covariances",
            "covariances",
            "covariances",
            "statistics of the first set",
            may_differ=("split",),
        ),
        Input(
            "other",
            "covariances",
            None,
            "statistics of the other set: same model, other images (not checked)",
            may_differ=("split",),
        ),
    ),
    group="Artifacts",
    output="covariances",
    run=run,
    check=check,
    examples=(
        "ltcli merge-covariances --other artifacts/part-2/covariances.safetensors"
        " -d artifacts/part-1",
        "ltcli merge-covariances --rank 16 --other artifacts/part-2/covariances.safetensors"
        " -d artifacts/part-1",
    ),
)
