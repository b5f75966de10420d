"""adjust: a trained classifier for another class prior, by tau, or for costs; trains nothing.

A vector is added to the logits, by way of the bias, so that every other stage takes the result as
any model. See ``ltcli.stats.adjustment`` for the vectors.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ltcli.artifacts.backbone import backbone_of
from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import as_dict, param
from ltcli.core.table import aligned
from ltcli.core.text import printable
from ltcli.data.class_table import read_class_table, read_shares
from ltcli.data.reading import Reading
from ltcli.stages.league import recorded, sound_recipe
from ltcli.stages.samples import check_alike, check_samples, open_samples
from ltcli.stages.stage import Checked, Input, Result, Stage, check_follows_prior, recipe

if TYPE_CHECKING:
    import torch

    from ltcli.artifacts.header import Header
    from ltcli.artifacts.store import Artifact
    from ltcli.models.network import Network

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Params(Reading):
    """Parameters of adjust; exactly one of prior, tau and costs is given."""

    prior: Literal["uniform"] | str | None = param(
        None,
        "class shares where the model is used: uniform, or a CSV file class,share",
        identity=False,
    )
    tau: Literal["auto"] | float | None = param(
        None, "log class prior to take away, times this; auto is chosen on validation", ge=0
    )
    target: Literal["balanced-accuracy", "worst-group", "log-loss"] = param(
        "balanced-accuracy", "score that tau auto maximises; the groups are many, medium and few"
    )
    costs: str | None = param(
        None, "CSV file class,cost: what it costs to miss an image of a class", identity=False
    )
    data: Literal["features", "images"] = param(
        "features", "for tau auto: validation logits of the feature bank, or run the images"
    )


def _way(params: Params) -> str:
    """The one of prior, tau and costs that was given."""
    given = [name for name in ("prior", "tau", "costs") if getattr(params, name) is not None]
    if len(given) != 1:
        rule = "exactly one of prior, tau and costs must be given"
        raise ParamError("adjust", f"{rule}, got {' and '.join(given) or 'none'}")
    return given[0]


def check(params: Params, headers: Mapping[str, Header]) -> Checked:
    """Check what can be known before any work; fingerprint the file of shares or costs."""
    way, model = _way(params), headers["model"]
    if params.target != "balanced-accuracy" and params.tau != "auto":
        raise ParamError("adjust", f"target needs --tau auto, got {params.target}")
    if params.data == "images" and params.tau != "auto":
        raise ParamError("adjust", "data needs --tau auto, got images")
    _check_first(way, model)
    if way == "tau":
        check_follows_prior("adjust", model)
    # For its errors: a bad file is found before the work.
    _values(params, model.info["class_names"])
    if params.tau == "auto":
        data = headers[_data(params)]
        if data.size("val.labels", 0) == 0:
            hint = "give a number, or make the split with --val-per-class"
            raise ParamError("adjust", "tau must not be auto without validation images", hint)
        if params.data == "images":
            check_samples("adjust", params.root, data)
            check_alike(data, model)
        # The bias goes to the last epoch, so tau must come from its logits.
        if "epoch" in data.info:
            rule = f"is of epoch {data.info['epoch']}, not of the last one"
            raise ArtifactError(data.path, rule, "run dump-features without --from-epoch")
    return Checked(fingerprint(params))


def _check_first(way: str, model: Header) -> None:
    """Refuse a second adjustment for the class prior, or for costs, of one classifier."""
    for stage, before in reversed(model.info["recipe"]):  # A fresh classifier ends older ones.
        if stage == "finetune":
            with sound_recipe(model):
                method, run = recorded(stage, before)
                # A classifier trained anew keeps nothing of an earlier adjustment.
                if method.head(run.params.options, run).start == "fresh":
                    return
        # Costs and prior are separate corrections: a model may have one of each.
        if stage == "adjust" and (way == "costs") == ("costs" in before):
            what = "costs" if way == "costs" else "the class prior"
            hint = "start from the model that it was made from"
            raise ArtifactError(model.path, f"was adjusted for {what} already", hint)


def _values(params: Params, class_names: list[str]) -> list[float]:
    """Shares or costs of all classes; empty for a tau."""
    if params.costs is not None:
        return read_class_table(Path(params.costs), "cost", class_names)
    if params.prior == "uniform":
        return [1 / len(class_names)] * len(class_names)
    return [] if params.prior is None else read_shares(Path(params.prior), class_names)


def fingerprint(params: Params) -> dict[str, str]:
    """SHA-256 of the file of shares or costs, if there is one."""
    path = params.costs if params.prior in (None, "uniform") else params.prior
    # The header stores no path: the content is what makes two adjustments the same.
    return {} if path is None else {_way(params): sha256(Path(path).read_bytes()).hexdigest()}


def run(params: Params, inputs: Mapping[str, Artifact], context: Context) -> Result:
    """Find the vector and put it into the bias."""
    import torch

    from ltcli.models.network import load_network

    model = inputs["model"]
    info = model.header.info
    network = load_network(model, torch.device("cpu"))  # Only the bias changes.
    shift, balanced, facts = _shift(params, inputs, network, context)
    network.classifier.add(shift)
    made = {"by": _way(params), "added": shift.tolist(), **facts}
    steps = recipe(info["recipe"], "adjust", as_dict(params) | fingerprint(params))
    changed = {"method": "adjust", "balanced": balanced, "adjustment": made, "recipe": steps}
    return Result(network.state_dict(), info | changed)


def _shift(
    params: Params, inputs: Mapping[str, Artifact], network: Network, context: Context
) -> tuple[torch.Tensor, bool, dict[str, Any]]:
    """Vector to add to the logits, float32 [C], and two facts for the header.

    The first tells whether the logits no longer follow the prior of the training images, the second
    how the vector was found.
    """
    import torch

    from ltcli.stats import adjustment

    info = inputs["model"].header.info
    balanced: bool = info["balanced"]
    counts = torch.tensor(info["class_counts"])
    if params.tau is not None:
        tau, found = params.tau, {}
        if tau == "auto":
            points = adjustment.trade_off(*_validation(params, inputs, network, context), counts)
            found["trade_off"] = [dataclasses.asdict(point) for point in points]
            for point in found["trade_off"]:
                context.log({"event": "trade-off", **point})
            tau = adjustment.best(points, params.target).tau
            logger.info("adjust: tau %g is best for %s on validation", tau, params.target)
        context.log({"event": "solved", "tau": tau})
        return adjustment.for_tau(counts, tau), tau > 0, {"tau": tau, **found}
    values = torch.tensor(_values(params, info["class_names"]), dtype=torch.float64)
    if params.costs is not None:
        # Costs move decisions, and leave the prior of the logits as it was.
        return adjustment.for_costs(values), balanced, {}
    trained = counts.double() / counts.sum()
    if balanced:
        logger.info("adjust: the model corrects for the class prior: taken to follow a uniform one")
    # Balanced training acts as if all classes were equally frequent.
    base = torch.full_like(trained, 1 / len(trained)) if balanced else trained
    facts = {"base": "uniform" if balanced else "training images"}
    return adjustment.for_prior(values, base), not values.allclose(trained), facts


def _validation(
    params: Params, inputs: Mapping[str, Artifact], network: Network, context: Context
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits float [V, C] and labels int64 [V] of the validation images."""
    if params.data == "features":
        bank = inputs["features"]
        return bank.tensor("val.logits"), bank.tensor("val.labels")
    import torch

    from ltcli.compute.device import resolve_device, resolve_precision
    from ltcli.engine.infer import features_of
    from ltcli.models.network import place

    split = inputs["split"]
    device = resolve_device(context.device)
    samples = open_samples(split, "val", device, params, backbone_of(inputs["model"].header))
    dtype = resolve_precision(params.precision, device)
    features = features_of(place(network, device), samples, dtype)
    # The bias is changed on the CPU, where the network goes back to.
    classifier = network.cpu().classifier
    with torch.inference_mode():
        logits: torch.Tensor = classifier(features)
    return logits, split.tensor("val.labels")


def _data(params: Params) -> str:
    return "features" if params.data == "features" else "split"


def show(header: Header) -> list[str]:
    """Range of the vector, and the trade-off between head and tail where tau was chosen."""
    info, found = header.info, header.info["adjustment"]
    ranked = sorted(zip(found["added"], info["class_names"], strict=True))
    (low, first), (high, last) = ranked[0], ranked[-1]
    least, most = f"{low:+.3f} ({printable(first)})", f"{high:+.3f} ({printable(last)})"
    lines = [f"added to the logits: {least} to {most}"]
    if "trade_off" in found:
        heads = ["tau", "balanced", "many", "medium", "few", "log-loss", "(validation images)"]
        rows = [heads]
        for point in found["trade_off"]:
            mark = "* " if point["tau"] == found["tau"] else ""
            # Every tenth would fill the screen; the chosen one may lie between the quarters.
            if mark or point["tau"] % 0.25 == 0:
                shares = [point[name] for name in heads[1:5]]
                cells = ["-" if share is None else f"{100 * share:.1f}" for share in shares]
                rows.append([f"{mark}{point['tau']:.2f}", *cells, f"{point['log_loss']:.3f}", ""])
        lines += aligned(rows, left=(6,))
    return lines


STAGE = Stage(
    name="adjust",
    summary="Adjust a classifier to another class prior, or to costs.",
    params=Params,
    inputs=(
        Input("model", "model", "pretrain", "model to adjust"),
        Input("features", "features", "dump-features", "feature bank of that model"),
        Input("split", "split", "split", "validation images"),
    ),
    group="After training",
    output="model",
    run=run,
    # Data are read only where tau is chosen on them.
    needs=lambda params: ("model", _data(params)) if params.tau == "auto" else ("model",),
    check=check,
    output_stem=lambda params, _inputs: f"adjust-{_way(params)}",
    show=show,
    examples=(
        "ltcli adjust --tau auto -d artifacts/c10-100",
        "ltcli adjust --prior uniform -d artifacts/c10-100",
        "ltcli adjust --prior expected.csv --out artifacts/c10-100/expected.safetensors"
        " -d artifacts/c10-100",
        "ltcli adjust --costs costs.csv -d artifacts/c10-100",
    ),
)
