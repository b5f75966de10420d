"""diagnose: what the papers show as evidence, as numbers; ``ltcli plot`` draws them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import param
from ltcli.methods.method import HeadRule
from ltcli.stages.diagnose_samples import Known, samples_of
from ltcli.stages.diagnose_tables import lines_of
from ltcli.stages.stage import Input, Result, Stage, check_epoch, of_bank

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.stats.diagnosis import Spectrum


# What is taken where nothing is given, or all where there are fewer.
_USUAL = {"leading": 5, "smallest": 3, "neighbours": 5, "confusing": 3}


def _number(name: str, text: str) -> Any:
    return param(None, f"{text}; up to {_USUAL[name]} if not given", ge=1)


@dataclass(frozen=True)
class Params(HeadRule):
    """Parameters of diagnose."""

    leading: int | None = _number("leading", "leading directions of covariances to compare")
    smallest: int | None = _number(
        "smallest", "how many of the smallest classes to look at image by image"
    )
    samples: int = param(50, "images of each of these classes, at most", ge=2)
    neighbours: int | None = _number("neighbours", "nearest training images of a feature to keep")
    strength: float = param(0.5, "factor of the covariance of Gaussian features (ISDA)", ge=0)
    stg_strength: float = param(1.0, "factor of the generator's differences", ge=0)
    mask: float = param(0.5, "share of the channels that the generator changes", ge=0, le=1)
    confusing: int | None = _number("confusing", "classes that lend to a class in feature-fusion")
    pictures: int = param(2, "images to show per class and origin, with --split", ge=1)
    seed: int = param(0, "of the draws", ge=0, lt=2**32)


def check(params: Params, headers: Mapping[str, Header]) -> None:
    """Check what can be known before any work."""
    if "split" in headers and headers["split"].info["store"] != "images":
        split = headers["split"]
        rule = f"must store images to show some, got {split.info['store']}"
        raise ArtifactError(split.path, rule, "leave out --split")
    bank = headers["features"]
    counts = bank.info["class_counts"]
    head = _head(params.head, params.head_at, counts)
    for name, limit in _limits(bank, head).items():
        given = getattr(params, name)
        if given is not None and given > limit:
            raise ParamError("diagnose", f"{name} must be at most {limit}, got {given}")
    check_epoch(bank.info.get("epoch"), headers, ("confusion", "generator", "oracle"))
    _check_learned(bank, headers.get("learned"))
    _check_predictions(headers.get("before"), headers.get("after"))
    if "generator" in headers:
        made = headers["generator"]
        rule, value = made.parameters["head"], made.parameters["head_at"]
        if head != _head(rule, value, counts):
            hint = f"it was trained with --head {rule}" + ("" if value is None else f" {value:g}")
            raise ArtifactError(made.path, "has other head classes", hint)


def _limits(bank: Header, head: list[bool]) -> dict[str, int]:
    """Return how many there are of what some parameters count."""
    return {
        "smallest": head.count(False),
        "leading": bank.size("train.features", 1),
        "neighbours": bank.size("train.features", 0) - 1,
        "confusing": len(head) - 1,
    }


def _check_learned(bank: Header, model: Header | None) -> None:
    if model is None:
        return
    if "method.covariances" not in model.tensors:
        hint = "finetune keeps them for methods that learn them, such as isda and metasaug"
        raise ArtifactError(model.path, "holds no covariances of its run", hint)
    known = [model.digest]
    if model.parameters.get("train") == "classifier":
        known.append(model.inputs["model"])  # whose backbone it still has
    if bank.info["model"] not in known:
        rule = f"has another backbone than the features of {bank.path}"
        raise ArtifactError(model.path, rule, "run dump-features on it, and name its features")


def _check_predictions(before: Header | None, after: Header | None) -> None:
    if before is None or after is None:
        return
    for fact in ("on", "images"):
        if before.info[fact] != after.info[fact]:
            rule = f"was made on other images than {before.path}"
            raise ArtifactError(after.path, rule, "name predictions of one test set")


def _head(rule: Any, value: float | None, counts: list[int]) -> list[bool]:
    from ltcli.stats.head_classes import head_classes

    return head_classes(counts, rule, value, where="diagnose")


def run(params: Params, inputs: Mapping[str, Artifact], _context: Context) -> Result:
    """Measure everything that the inputs allow."""
    import torch

    from ltcli.stats.moments import class_means

    bank = inputs["features"]
    info = bank.header.info
    counts = torch.tensor(info["class_counts"])
    of_head = _head(params.head, params.head_at, info["class_counts"])
    head, limits = torch.tensor(of_head), _limits(bank.header, of_head)
    numbers = {
        name: getattr(params, name) or min(usual, limits[name]) for name, usual in _USUAL.items()
    }
    features, labels = bank.tensor("train.features").float(), bank.tensor("train.labels")
    means = class_means(features, labels, len(counts))
    own = _factors(features, labels, len(counts))
    known = Known(features, labels, counts, head, means, own, numbers)
    tensors = {"tail": (~head).nonzero().flatten()}
    tables: dict[str, Any] = {"tail": tensors["tail"].tolist()}
    for measure in (_spectra, _errors, _donors, samples_of):
        found, table = measure(params, inputs, known)
        tensors |= found
        tables |= table
    return Result(
        tensors,
        of_bank(info) | {"tables": tables},
    )


def _factors(features: torch.Tensor, labels: torch.Tensor, classes: int) -> list[torch.Tensor]:
    """Return F of each class's covariance F'F, float32 [R, D]."""
    import torch

    from ltcli.stats.covariance_forms import estimate

    found = estimate(features, labels, classes, "factor", ddof=1).tensors
    return list(torch.split(found["rows"], found["offsets"].diff().tolist()))


def _spectra(
    _params: Params, inputs: Mapping[str, Artifact], known: Known
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Compare the covariances: estimated, learned by a run, and of the oracle."""
    import torch

    from ltcli.stats import diagnosis

    leading = known.numbers["leading"]

    def of_rows(rows: torch.Tensor) -> Spectrum:
        return diagnosis.spectrum_of_factor(rows, leading)

    classes = range(len(known.counts))
    spectra = {"estimated": [of_rows(rows) for rows in known.factors]}
    if "learned" in inputs:
        matrices = inputs["learned"].tensor("method.covariances")
        spectra["learned"] = [diagnosis.spectrum_of_matrix(m, leading) for m in matrices]
    shares: dict[str, list[float]] = {}
    if "oracle" in inputs:
        bank = inputs["oracle"]
        balanced = bank.tensor("train.features").float(), bank.tensor("train.labels")
        full = _factors(*balanced, len(classes))
        spectra["oracle"] = [of_rows(part) for part in full]
        for name, of in spectra.items():
            shares[name] = [diagnosis.captured(of[c].leading, full[c]) for c in classes]
    angles = {
        f"{first}-{second}": torch.stack(
            [
                diagnosis.principal_angles(a.leading, b.leading, leading)
                for a, b in zip(spectra[first], spectra[second], strict=True)
            ]
        )
        for first, second in (
            ("estimated", "oracle"),
            ("learned", "oracle"),
            ("learned", "estimated"),
        )
        if first in spectra and second in spectra
    }
    tensors = {f"spectrum.{k}": torch.stack([s.values for s in v]) for k, v in spectra.items()}
    table = {
        "trace": {k: [float(s.values.sum()) for s in v] for k, v in spectra.items()},
        "effective_rank": {
            k: [diagnosis.effective_rank(s.values) for s in v] for k, v in spectra.items()
        },
        "captured": shares,
        "angle": {k: v.mean(1).tolist() for k, v in angles.items()},
    }
    return tensors | {f"angles.{k}": v for k, v in angles.items()}, {"spectrum": table}


def _errors(
    _params: Params, inputs: Mapping[str, Artifact], known: Known
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Count what images of each class are taken for, before and after."""
    from ltcli.stats.accuracy import predictions
    from ltcli.stats.confusion import class_graph
    from ltcli.stats.diagnosis import error_rates

    tensors, table = {}, {}
    for name in ("before", "after"):
        if name in inputs:
            made = inputs[name]
            predicted = predictions(made.tensor("logits"))
            num_classes = len(made.header.info["class_names"])
            graph = class_graph(predicted, made.tensor("labels"), num_classes)
            tensors[f"confusion.{name}"] = graph
            facts = {"on": made.header.info["on"], "method": made.header.info["method"]}
            table[name] = facts | error_rates(graph, known.head)
    return tensors, {"errors": table}


def _donors(
    _params: Params, inputs: Mapping[str, Artifact], known: Known
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Find which classes lend variation to each tail class, and how much, by method."""
    import torch

    from ltcli.stats import diagnosis
    from ltcli.stats.differences import nearest_head

    tail = (~known.head).nonzero().flatten()
    heads = nearest_head(known.features, known.means.float(), known.head)
    donors = {"stg": diagnosis.stg_donors(heads, known.labels, tail, len(known.counts))}
    if "confusion" in inputs:
        found = inputs["confusion"].load("graph", "scores")
        traces = torch.stack([rows.double().square().sum() for rows in known.factors])
        donors["risda"] = diagnosis.risda_donors(found["graph"], traces, tail)
        most = known.numbers["confusing"]
        donors["feature-fusion"] = diagnosis.fusion_donors(found["scores"], most, tail)
    table = {name: [_largest(row) for row in shares] for name, shares in donors.items()}
    return {f"donors.{name}": shares for name, shares in donors.items()}, {"donors": table}


def _largest(shares: torch.Tensor) -> list[tuple[int, float]]:
    """Return the three largest positive shares with their classes."""
    values, classes = shares.sort(descending=True, stable=True)
    pairs = zip(classes[:3].tolist(), values[:3].tolist(), strict=True)
    return [(c, value) for c, value in pairs if value > 0]


STAGE = Stage(
    name="diagnose",
    summary="Measure spectra, confusion, neighbours and donors of the classes; see ltcli plot.",
    params=Params,
    inputs=(
        Input("features", "features", "dump-features", "feature bank"),
        Input("confusion", "confusion", None, "confusion graph, for the donors of the classes"),
        Input("generator", "generator", None, "generator of features"),
        Input(
            "learned",
            "model",
            None,
            "model whose run kept covariances",
            may_differ=("model",),
        ),
        Input(
            "oracle",
            "features",
            None,
            "features of a balanced split, by dump-features --other-split",
            may_differ=("split",),
        ),
        Input("before", "predictions", None, "predictions to compare with"),
        Input("after", "predictions", None, "predictions of the run"),
        Input("split", "split", None, "images, to show the nearest ones"),
    ),
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
