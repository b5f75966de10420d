"""diagnose: the evidence that the papers print, as tensors.

``diagnosis_tables`` derives every mean and share from these tensors for the terminal, and ``ltcli
plot`` draws them, so that no number is stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import build, param
from ltcli.methods.options import HeadRule, head_of
from ltcli.stages.diagnosis_tables import ORIGINS, PAIRS, lines_of
from ltcli.stages.stage import Input, Result, Stage, check_epoch, of_bank

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact


_ORACLE = "features of a balanced split, by dump-features --other-split"
# Defaults, capped at the number available.
_USUAL = {"leading": 5, "smallest": 3, "neighbours": 5, "confusing": 3}


def _number(name: str, text: str) -> Any:
    return param(None, f"{text} [default: at most {_USUAL[name]}]", ge=1)


@dataclass(frozen=True)
class Params(HeadRule):
    """Parameters of diagnose."""

    leading: int | None = _number("leading", "leading directions of each covariance to compare")
    smallest: int | None = _number("smallest", "smallest classes to study image by image")
    samples: int = param(50, "most images to take from each of these classes", ge=2)
    neighbours: int | None = _number("neighbours", "nearest training images to keep per feature")
    strength: float = param(0.5, "factor of the covariance of Gaussian features (ISDA)", ge=0)
    stg_strength: float = param(1.0, "factor of the generator's differences", ge=0)
    mask: float = param(0.5, "fraction of the channels that the generator changes", ge=0, le=1)
    confusing: int | None = _number("confusing", "classes that lend to a class in feature-fusion")
    pictures: int = param(2, "images to show per class and origin, with --split", ge=1)
    seed: int = param(0, "seed of the draws", ge=0, lt=2**32)


@dataclass(frozen=True)
class Bank:
    """The training features and the statistics that every measure below shares.

    Attributes:
        features: float32 [N, D].
        labels: int64 [N].
        counts: int64 [C], training images.
        tail: Tail classes, int64 [U], ascending.
        factors: F of each class's covariance F'F, float32 [R, D].
        nearest_head: int64 [N], the head class with the nearest mean.
        numbers: Values of leading, smallest, neighbours and confusing.
    """

    features: torch.Tensor
    labels: torch.Tensor
    counts: torch.Tensor
    tail: torch.Tensor
    factors: list[torch.Tensor]
    nearest_head: torch.Tensor
    numbers: Mapping[str, int]


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Refuse inputs that do not belong together and numbers beyond what the bank holds."""
    bank, split = headers["features"], headers.get("split")
    if split is not None and split.info["store"] != "images":
        rule = f"must store images to show some, got {split.info['store']}"
        raise ArtifactError(split.path, rule, "leave out --split")
    counts = bank.info["class_counts"]
    head = head_of(params, counts, "diagnose")
    for name, limit in _limits(bank, head).items():
        given = getattr(params, name)
        if given is not None and given > limit:
            raise ParamError("diagnose", f"{name} must be at most {limit}, got {given}")
    check_epoch(bank.info.get("epoch"), headers, ("confusion", "generator", "oracle"))
    if "learned" in headers:
        _check_learned(bank, headers["learned"])
    if "before" in headers and "after" in headers:
        before, after = headers["before"], headers["after"]
        if any(before.info[fact] != after.info[fact] for fact in ("on", "images")):
            rule = f"was made on other images than {before.path}"
            raise ArtifactError(after.path, rule, "name predictions of one test set")
    if "generator" in headers:
        made = headers["generator"]
        given = {name: made.parameters.get(name) for name in ("head", "head_at")}
        try:
            chosen = build(HeadRule, given, "parameters")
            theirs = head_of(chosen, counts, "parameters")
        except ParamError as error:
            raise ArtifactError(made.path, str(error)) from None
        if head != theirs:
            hint = f"it was trained with --head {chosen.head}"
            hint += "" if chosen.head_at is None else f" {chosen.head_at:g}"
            raise ArtifactError(made.path, "has other head classes", hint)


def _limits(bank: Header, head: list[bool]) -> dict[str, int]:
    """Largest value of each parameter that counts classes, directions or images."""
    return {
        "smallest": head.count(False),
        "leading": bank.size("train.features", 1),
        # No image is its own neighbour, and no class confuses itself with itself.
        "neighbours": bank.size("train.features", 0) - 1,
        "confusing": len(head) - 1,
    }


def _check_learned(bank: Header, model: Header) -> None:
    if "method.covariances" not in model.tensors:
        hint = "finetune keeps them for methods that learn them, such as isda and metasaug"
        raise ArtifactError(model.path, "holds no covariances of its run", hint)
    known = [model.digest]
    if model.parameters.get("train") == "classifier":
        # Its backbone is still that of the model it started from.
        known.append(model.inputs.get("model", ""))
    if bank.info["model"] not in known:
        rule = f"has another backbone than the features of {bank.path}"
        raise ArtifactError(model.path, rule, "run dump-features on it, and name its features")


def run(params: Params, inputs: Mapping[str, Artifact], _context: Context) -> Result:
    """Measure everything that the inputs allow."""
    import torch

    from ltcli.stats.accuracy import predictions
    from ltcli.stats.confusion import class_graph
    from ltcli.stats.differences import nearest_head
    from ltcli.stats.moments import class_means

    source = inputs["features"]
    info = source.header.info
    counts = torch.tensor(info["class_counts"])
    of_head = head_of(params, info["class_counts"], "diagnose")
    head, limits = torch.tensor(of_head), _limits(source.header, of_head)
    # The bank may store halves; every measure starts from the same float32 features.
    features, labels = source.tensor("train.features").float(), source.tensor("train.labels")
    means = class_means(features, labels, len(counts)).float()
    bank = Bank(
        features=features,
        labels=labels,
        counts=counts,
        tail=(~head).nonzero().flatten(),
        factors=_factors(features, labels, len(counts)),
        nearest_head=nearest_head(features, means, head),
        numbers={n: getattr(params, n) or min(most, limits[n]) for n, most in _USUAL.items()},
    )
    tensors = {"tail": bank.tail} | _spectra(inputs, bank) | _donors(inputs, bank)
    tensors |= _samples(params, inputs, bank)
    told = {}
    for role in ("before", "after"):
        if role in inputs:
            logits, labels = inputs[role].tensor("logits"), inputs[role].tensor("labels")
            graph = class_graph(predictions(logits), labels, len(counts))
            tensors[f"confusion.{role}"] = graph
            told[role] = {fact: inputs[role].header.info[fact] for fact in ("on", "method")}
    return Result(tensors, of_bank(info) | {"predictions": told})


def _factors(features: torch.Tensor, labels: torch.Tensor, classes: int) -> list[torch.Tensor]:
    """F of each class's covariance F'F, float32 [R, D] per class."""
    import torch

    from ltcli.stats.covariance_forms import estimate

    found = estimate(features, labels, classes, "factor", ddof=1).tensors
    return list(torch.split(found["rows"], found["offsets"].diff().tolist()))


def _spectra(inputs: Mapping[str, Artifact], bank: Bank) -> dict[str, torch.Tensor]:
    """Eigenvalues, captured variance and angles of estimated, learned and oracle covariances."""
    import torch

    from ltcli.stats import diagnosis

    # The oracle stands for the true covariances, which the others try to capture.
    leading, classes = bank.numbers["leading"], range(len(bank.counts))
    spectra = {"estimated": [diagnosis.spectrum_of_factor(f, leading) for f in bank.factors]}
    tensors: dict[str, torch.Tensor] = {}
    if "learned" in inputs:
        matrices = inputs["learned"].tensor("method.covariances")
        spectra["learned"] = [diagnosis.spectrum_of_matrix(m, leading) for m in matrices]
    if "oracle" in inputs:
        balanced = inputs["oracle"].load("train.features", "train.labels")
        features, labels = balanced["train.features"].float(), balanced["train.labels"]
        full = _factors(features, labels, len(classes))
        spectra["oracle"] = [diagnosis.spectrum_of_factor(rows, leading) for rows in full]
        for name, of in spectra.items():
            shares = [diagnosis.captured(of[c].leading, full[c]) for c in classes]
            tensors[f"captured.{name}"] = torch.tensor(shares, dtype=torch.float64)
    for name, of in spectra.items():
        tensors[f"spectrum.{name}"] = torch.stack([spectrum.values for spectrum in of])
    for pair in PAIRS:
        first, second = pair.split("-")
        if first in spectra and second in spectra:
            both = zip(spectra[first], spectra[second], strict=True)
            angles = [diagnosis.principal_angles(a.leading, b.leading, leading) for a, b in both]
            tensors[f"angles.{pair}"] = torch.stack(angles)
    return tensors


def _donors(inputs: Mapping[str, Artifact], bank: Bank) -> dict[str, torch.Tensor]:
    """Contribution of every class to the variation of each tail class, by method."""
    import torch

    from ltcli.stats import diagnosis

    of_stg = diagnosis.stg_donors(bank.nearest_head, bank.labels, bank.tail, len(bank.counts))
    if "confusion" not in inputs:
        return {"donors.stg": of_stg}
    found, most = inputs["confusion"].load("graph", "scores"), bank.numbers["confusing"]
    # The trace of F'F is the sum of the squares of F.
    traces = torch.stack([rows.double().square().sum() for rows in bank.factors])
    return {
        "donors.stg": of_stg,
        "donors.risda": diagnosis.risda_donors(found["graph"], traces, bank.tail),
        "donors.feature-fusion": diagnosis.fusion_donors(found["scores"], most, bank.tail),
    }


def _samples(params: Params, inputs: Mapping[str, Artifact], bank: Bank) -> dict[str, torch.Tensor]:
    """Real and augmented features of the smallest classes, and the images nearest to each."""
    import torch

    from ltcli.stats import diagnosis

    order = bank.counts[bank.tail].argsort(stable=True)
    smallest = bank.tail[order[: bank.numbers["smallest"]]]
    rows = {c: _drawn(params, bank, c) for c in smallest.tolist()}
    # All origins hold these images in this order, so that row i of each is made from one image.
    chosen = torch.cat(list(rows.values()))
    gaussian = []
    for c, part in rows.items():
        some, stream = bank.features[part], _stream(params, "gaussian", c)
        gaussian.append(diagnosis.draw_gaussian(some, bank.factors[c], params.strength, stream))
    made = {"real": bank.features[chosen], "gaussian": torch.cat(gaussian)}
    tensors = {"smallest": smallest}
    if "generator" in inputs:
        augmented = _generated(params, inputs["generator"], bank, chosen)
        made["generator"], tensors["divergences"] = augmented
        tensors["divergences.sample"] = torch.arange(len(chosen))
    # Images of the nearest head classes give the map of features its context.
    beside = sorted({int(bank.nearest_head[r].mode().values) for r in rows.values() if len(r)})
    context = torch.cat([_drawn(params, bank, c) for c in beside]) if beside else chosen[:0]
    origin = [torch.full((len(chosen),), ORIGINS.index(name)) for name in made]
    features = torch.cat([*made.values(), bank.features[context]])
    row = torch.cat([chosen.repeat(len(made)), context])
    # No feature is its own neighbour, nor that of the image that it was made from.
    k = bank.numbers["neighbours"]
    distances, nearest = diagnosis.nearest(features, bank.features, k, row)
    tensors |= {
        "samples.features": features,
        "samples.labels": bank.labels[row],
        "samples.origin": torch.cat([*origin, torch.zeros_like(context)]),
        "samples.row": row,
        "samples.head": bank.nearest_head[row],
        "neighbours.row": nearest,
        "neighbours.labels": bank.labels[nearest],
        "neighbours.distances": distances,
    }
    if "split" in inputs:
        tensors |= _pictures(params, inputs["split"], tensors, len(made))
    return tensors


def _stream(params: Params, name: str, c: int) -> torch.Generator:
    """Random stream of a class: more classes or images leave the draws of the others unchanged."""
    import torch

    from ltcli.compute.seeds import derive

    return torch.Generator().manual_seed(derive(f"diagnose-{name}", params.seed, c))


def _drawn(params: Params, bank: Bank, c: int) -> torch.Tensor:
    """Rows of random images of a class, int64 [at most samples]."""
    import torch

    rows = (bank.labels == c).nonzero().flatten()
    order = torch.randperm(len(rows), generator=_stream(params, "samples", c))
    return rows[order[: params.samples]]


def _generated(
    params: Params, artifact: Artifact, bank: Bank, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that the generator makes from some images, and the divergences between them."""
    import torch

    from ltcli.data.batches import Batch
    from ltcli.methods import stg
    from ltcli.models.generator import load_generator
    from ltcli.stats.diagnosis import divergences

    generator = load_generator(artifact, torch.device("cpu"))
    features = bank.features[rows]
    options = stg.Options(strength=params.stg_strength, mask=params.mask)
    augment = stg.augmentation(options, generator, bank.counts, params.seed)
    # The augmentation draws its masks by batch; one batch of the first step holds all images.
    batch = Batch(epoch=0, step=0, first=0, rows=rows)
    with torch.no_grad():
        made = augment(features, bank.labels[rows], batch)
        return made, divergences(*generator(features, bank.nearest_head[rows]))


def _pictures(
    params: Params, split: Artifact, tensors: Mapping[str, torch.Tensor], origins: int
) -> dict[str, torch.Tensor]:
    """Images of the first samples of each class and origin, with those of their neighbours."""
    import torch

    labels, origin = tensors["samples.labels"], tensors["samples.origin"]
    first = [
        ((labels == c) & (origin == number)).nonzero().flatten()[: params.pictures]
        for c in tensors["smallest"]
        for number in range(origins)
    ]
    chosen = torch.cat(first)
    images = split.tensor("train.images")
    return {
        "pictures.sample": chosen,
        "pictures.source": images[tensors["samples.row"][chosen]],
        "pictures.nearest": images[tensors["neighbours.row"][chosen]],
    }


STAGE = Stage(
    name="diagnose",
    summary="Measure spectra, confusion and neighbours of the classes.",
    params=Params,
    inputs=(
        Input("features", "features", "dump-features", "feature bank"),
        Input("confusion", "confusion", None, "confusion graph, for the donors of the classes"),
        Input("generator", "generator", None, "generator of features"),
        Input("learned", "model", None, "model whose run kept covariances", may_differ=("model",)),
        Input("oracle", "features", None, _ORACLE, may_differ=("split",)),
        Input("before", "predictions", None, "predictions to compare with"),
        Input("after", "predictions", None, "predictions of the run"),
        Input("split", "split", None, "images, to show the nearest ones"),
    ),
    group="Looking",
    output="diagnosis",
    run=run,
    check=check,
    show=lines_of,
    examples=(
        "ltcli diagnose -d artifacts/c10-100",
        "ltcli diagnose --confusion artifacts/c10-100/confusion.safetensors"
        " --learned artifacts/c10-100/finetune-isda.safetensors"
        " --before artifacts/c10-100/evaluate-pretrain.safetensors"
        " --after artifacts/c10-100/evaluate-finetune-isda.safetensors -d artifacts/c10-100",
    ),
)
