"""The table of methods. A method is one file here, one line in METHODS, and one test file."""

from typing import Any

from ltcli.core.errors import ParamError, nearest
from ltcli.methods import (
    balanced_softmax,
    bbn,
    cam_sampling,
    cross_entropy,
    crt,
    feature_fusion,
    focal,
    fslwf,
    gcl,
    hybrid_psc,
    isda,
    l2rw,
    lda,
    ldam,
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
    ride,
    risda,
    sla,
    stg,
    tau_norm,
)
from ltcli.methods.method import Method, Run
from ltcli.methods.presets import PRESETS

METHODS: dict[str, Method[Any]] = {
    "cross-entropy": cross_entropy.METHOD,
    "focal": focal.METHOD,
    "ldam": ldam.METHOD,
    **PRESETS,
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
    "crt": crt.METHOD,
    "lws": lws.METHOD,
    "mislas": mislas.METHOD,
    "oltr": oltr.METHOD,
    "fslwf": fslwf.METHOD,
    "cam-sampling": cam_sampling.METHOD,
    "tau-norm": tau_norm.METHOD,
    "ncm": ncm.METHOD,
    "lda": lda.METHOD,
    "isda": isda.METHOD,
    "metasaug": metasaug.METHOD,
    "risda": risda.METHOD,
    "feature-fusion": feature_fusion.METHOD,
    "stg": stg.METHOD,
}


def names(stage: str) -> list[str]:
    """Names of the methods that a stage offers."""
    return [name for name, method in METHODS.items() if stage in method.stages]


def find(name: str, stage: str) -> Method[Any]:
    """Record of a method, or ParamError if the stage offers none of that name."""
    # Two errors, as a method of the other stage is not a misspelling.
    if name not in METHODS:
        raise ParamError(stage, f"no method '{name}'", nearest(name, names(stage)))
    if stage not in METHODS[name].stages:
        others = " or ".join(METHODS[name].stages)
        raise ParamError(stage, f"method {name} is not one for {stage}", f"use {others}")
    return METHODS[name]


def balances(method: Method[Any], options: object, run: Run) -> bool:
    """Whether the classifier no longer follows the class prior of the training set."""
    # Later stages adjust the prior only of models that still follow it.
    by_data = run.params.beta > 0 or run.params.sampler != "instance-balanced"
    return by_data or method.balances(options, run)
