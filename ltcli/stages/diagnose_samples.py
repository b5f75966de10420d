"""Features of the smallest classes, real and augmented, and what is nearest to each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.store import Artifact

ORIGINS = ("real", "gaussian", "generator")


@dataclass(frozen=True)
class Known:
    """What is known of the training features.

    Attributes:
        features: float32 [N, D].
        labels: int64 [N].
        counts: int64 [C].
        head: bool [C].
        means: float64 [C, D].
        factors: F of each class's covariance F'F, float32 [R, D].
        numbers: Leading directions, smallest classes, neighbours and confusing classes to take, by
            the parameter.
    """

    features: torch.Tensor
    labels: torch.Tensor
    counts: torch.Tensor
    head: torch.Tensor
    means: torch.Tensor
    factors: list[torch.Tensor]
    numbers: Mapping[str, int]


def samples_of(
    params: Any, inputs: Mapping[str, Artifact], known: Known
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Look at some features of the smallest classes, and at those made of them."""
    import torch

    from ltcli.stats import diagnosis
    from ltcli.stats.differences import nearest_head

    tail = (~known.head).nonzero().flatten()
    smallest = tail[known.counts[tail].argsort(stable=True)[: known.numbers["smallest"]]].tolist()
    rows = {c: _drawn(params, known, c) for c in smallest}
    chosen = torch.cat(list(rows.values()))
    heads = nearest_head(known.features, known.means.float(), known.head)
    made = {"real": known.features[chosen], "gaussian": _gaussian(params, known, rows)}
    divergences: dict[str, torch.Tensor] = {}
    if "generator" in inputs:
        made["generator"], divergences["divergences"] = _generated(
            params, inputs["generator"], known, chosen, heads[chosen]
        )
        divergences["divergences.sample"] = torch.arange(len(chosen))
    # The head class nearest to most images of each of them is shown beside them.
    beside = sorted({int(heads[part].mode().values) for part in rows.values() if len(part)})
    context = torch.cat([_drawn(params, known, c) for c in beside]) if beside else chosen[:0]
    origin = [torch.full((len(chosen),), ORIGINS.index(name)) for name in made]
    features = torch.cat([*made.values(), known.features[context]])
    row = torch.cat([chosen.repeat(len(made)), context])
    distances, nearest = diagnosis.nearest(
        features, known.features, known.numbers["neighbours"], row
    )
    tensors = {
        "samples.features": features,
        "samples.labels": known.labels[row],
        "samples.origin": torch.cat([*origin, torch.zeros_like(context)]),
        "samples.row": row,
        "samples.head": heads[row],
        "neighbours.row": nearest,
        "neighbours.labels": known.labels[nearest],
        "neighbours.distances": distances,
    }
    table = {
        "smallest": smallest,
        "neighbours": _neighbour_shares(tensors, known.head, smallest, list(made)),
        "divergences": [
            _divergence_means(c, tensors, divergences["divergences"])
            for c in smallest
            if divergences
        ],
    }
    if "split" in inputs:
        tensors |= _pictures(params, inputs["split"], tensors, smallest, len(made))
    return tensors | divergences, table


def _drawn(params: Any, known: Known, c: int) -> torch.Tensor:
    """Return some images of a class, int64 [at most samples], in random order."""
    import torch

    from ltcli.compute.seeds import derive

    rows = (known.labels == c).nonzero().flatten()
    generator = torch.Generator().manual_seed(derive("diagnose-samples", params.seed, c))
    return rows[torch.randperm(len(rows), generator=generator)[: params.samples]]


def _gaussian(params: Any, known: Known, rows: Mapping[int, torch.Tensor]) -> torch.Tensor:
    import torch

    from ltcli.compute.seeds import derive
    from ltcli.stats.diagnosis import draw_gaussian

    made = []
    for c, part in rows.items():
        generator = torch.Generator().manual_seed(derive("diagnose-gaussian", params.seed, c))
        features, factor = known.features[part], known.factors[c]
        made.append(draw_gaussian(features, factor, params.strength, generator))
    return torch.cat(made)


def _generated(
    params: Any, artifact: Artifact, known: Known, rows: torch.Tensor, heads: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features that the generator makes of some images, and their divergences."""
    import torch

    from ltcli.engine.steps import Batch
    from ltcli.methods import stg
    from ltcli.models.generator import load_generator
    from ltcli.stats.diagnosis import divergences

    generator = load_generator(artifact, torch.device("cpu"))
    features = known.features[rows]
    options = stg.Options(strength=params.stg_strength, mask=params.mask)
    augment = stg.augmentation(options, generator, known.counts, params.seed)
    batch = Batch(epoch=0, step=0, first=0, rows=rows)
    with torch.no_grad():
        made = augment(features, known.labels[rows], batch)
        return made, divergences(*generator(features, heads))


def _neighbour_shares(
    tensors: Mapping[str, torch.Tensor], head: torch.Tensor, classes: list[int], origins: list[str]
) -> dict[str, list[dict[str, float]]]:
    """Return, by origin and class, the shares of nearest images by their class.

    ``first``: the nearest image is of the own class; own, head, tail: all neighbours, by whether
    they are of the own class, of a head class, or of another tail class. A class of n images has
    no more than n - 1 others, so that its own share is bounded where n is small.
    """
    shares: dict[str, list[dict[str, float]]] = {}
    for number, origin in enumerate(origins):
        shares[origin] = []
        for c in classes:
            mine = (tensors["samples.origin"] == number) & (tensors["samples.labels"] == c)
            found = tensors["neighbours.labels"][mine]
            own, of_head = found == c, head[found]
            parts = {"first": own[:, 0], "own": own, "head": of_head, "tail": ~own & ~of_head}
            values = {k: float(v.double().mean()) if len(v) else 0.0 for k, v in parts.items()}
            shares[origin].append(values)
    return shares


def _divergence_means(
    c: int, tensors: Mapping[str, torch.Tensor], matrix: torch.Tensor
) -> dict[str, Any]:
    from ltcli.stats.diagnosis import within_and_across

    mine = (tensors["samples.labels"][: len(matrix)] == c).nonzero().flatten()
    heads = tensors["samples.head"][mine]
    within, across = within_and_across(matrix[mine][:, mine], heads)
    return {
        "images": len(mine),
        "heads": len(set(heads.tolist())),
        "within": within,
        "across": across,
    }


def _pictures(
    params: Any,
    split: Artifact,
    tensors: Mapping[str, torch.Tensor],
    classes: list[int],
    origins: int,
) -> dict[str, torch.Tensor]:
    """Return images of the first samples of each class and origin, with their neighbours."""
    import torch

    labels, origin = tensors["samples.labels"], tensors["samples.origin"]
    first = [
        ((labels == c) & (origin == number)).nonzero().flatten()[: params.pictures]
        for c in classes
        for number in range(origins)
    ]
    chosen = torch.cat(first)
    images = split.tensor("train.images")
    return {
        "pictures.sample": chosen,
        "pictures.source": images[tensors["samples.row"][chosen]],
        "pictures.nearest": images[tensors["neighbours.row"][chosen]],
    }
