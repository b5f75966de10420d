"""The table of methods. A method is one file here, one line in METHODS, and one test file."""

import dataclasses
import typing
from typing import TYPE_CHECKING, Any

from ltcli.core.errors import ParamError, nearest
from ltcli.methods import (
    balanced_softmax,
    bbn,
    cam_sampling,
    ce_drs,
    ce_drw,
    class_balanced,
    class_balanced_finetuning,
    class_balanced_focal,
    cross_entropy,
    crt,
    feature_fusion,
    focal,
    focal_drw,
    fslwf,
    gcl,
    hybrid_psc,
    isda,
    l2rw,
    ldam,
    ldam_drw,
    lifted_loss,
    logit_adjustment,
    lws,
    meta_class_weight,
    meta_weight_net,
    metasaug,
    mislas,
    ncm,
    oltr,
    range_loss,
    remix,
    remix_drw,
    ride,
    risda,
    sla,
    stg,
    tau_norm,
)
from ltcli.methods.method import Method

if TYPE_CHECKING:
    import torch

    from ltcli.methods.method import Loss

METHODS: dict[str, Method] = {
    "cross-entropy": cross_entropy.METHOD,
    "class-balanced": class_balanced.METHOD,
    "focal": focal.METHOD,
    "class-balanced-focal": class_balanced_focal.METHOD,
    "ldam": ldam.METHOD,
    "ce-drw": ce_drw.METHOD,
    "focal-drw": focal_drw.METHOD,
    "ldam-drw": ldam_drw.METHOD,
    "ce-drs": ce_drs.METHOD,
    "remix": remix.METHOD,
    "remix-drw": remix_drw.METHOD,
    "l2rw": l2rw.METHOD,
    "meta-weight-net": meta_weight_net.METHOD,
    "meta-class-weight": meta_class_weight.METHOD,
    "bbn": bbn.METHOD,
    "range-loss": range_loss.METHOD,
    "lifted-loss": lifted_loss.METHOD,
    "hybrid-psc": hybrid_psc.METHOD,
    "sla": sla.METHOD,
    "ride": ride.METHOD,
    "gcl": gcl.METHOD,
    "balanced-softmax": balanced_softmax.METHOD,
    "logit-adjustment": logit_adjustment.METHOD,
    "class-balanced-finetuning": class_balanced_finetuning.METHOD,
    "crt": crt.METHOD,
    "lws": lws.METHOD,
    "mislas": mislas.METHOD,
    "oltr": oltr.METHOD,
    "fslwf": fslwf.METHOD,
    "cam-sampling": cam_sampling.METHOD,
    "tau-norm": tau_norm.METHOD,
    "ncm": ncm.METHOD,
    "isda": isda.METHOD,
    "metasaug": metasaug.METHOD,
    "risda": risda.METHOD,
    "feature-fusion": feature_fusion.METHOD,
    "stg": stg.METHOD,
}


def names(stage: str) -> list[str]:
    """Return the methods that a stage offers."""
    return [name for name, method in METHODS.items() if stage in method.stages]


def find(name: str, stage: str) -> Method:
    """Return the record of a method.

    Raises:
        ParamError: The stage offers no such method.
    """
    if name not in METHODS:
        raise ParamError(stage, f"no method '{name}'", nearest(name, names(stage)))
    if stage not in METHODS[name].stages:
        others = " or ".join(METHODS[name].stages)
        raise ParamError(stage, f"method {name} is not one for {stage}", f"use {others}")
    return METHODS[name]


def with_options(params: type, method: Method, stage: str) -> type:
    """Return a parameter record that has the stage's and the method's fields, in this order."""
    fields, defaults = [], method.defaults.get(stage, {})
    for record in (params, method.params):
        hints = typing.get_type_hints(record)
        for field in dataclasses.fields(record):
            default = defaults.get(field.name, field.default)
            fresh = dataclasses.field(default=default, metadata=field.metadata)
            fields.append((field.name, hints[field.name], fresh))
    return dataclasses.make_dataclass("Params", fields, frozen=True)


def make_loss(method: Method, params: Any, class_counts: "torch.Tensor") -> "Loss":
    """Return the losses of a method that has any, from a ``with_options`` record."""
    if method.loss is None:
        raise ValueError("the method has no loss")
    return method.loss(params, class_counts)


def balances(method: Method, params: Any) -> bool:
    """Return whether a classifier no longer follows the class prior of the training set."""
    return method.balances(params) or params.beta > 0 or params.sampler != "instance-balanced"


def starts_fresh(method: Method, params: Any) -> bool:
    """Return whether nothing of the classifier that a run starts from is left behind it."""
    return method.head(params).start == "fresh"


def options(method: Method, params: Any) -> Any:
    """Return the method's own parameters out of a record made by ``with_options``."""
    own = [field.name for field in dataclasses.fields(method.params)]
    return method.params(**{name: getattr(params, name) for name in own})
