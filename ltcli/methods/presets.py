"""Methods that are options of another method: its record with other defaults and another name.

    ce-drw, focal-drw, ldam-drw   class weights from epoch 160 of 200 on (deferred re-weighting)
    ce-drs                        class-aware sampling from epoch 160 of 200 on
    remix, remix-drw              mixup whose label goes to the rarer class
    class-balanced                class weights by the effective number of samples
    class-balanced-focal          the same with the sigmoid focal loss
    class-balanced-finetuning     the whole network at a small rate on class-aware batches

Before the deferred epoch a run equals one without weights or sampler, to the bit. The class weights
are w_c = (1 - beta) / (1 - beta^n_c), scaled to mean 1; beta 0 or equal counts give the plain loss.
The deferred weights are 1/n in the paper of LDAM, and those of the effective number (beta 0.9999)
in its released code, as here.

    weighted-mean:    L = sum_i w_{y_i} l_i / sum_i w_{y_i}
    mean-of-weighted: L = mean_i( w_{y_i} l_i )

The released TensorFlow code of the class-balanced losses averages over the batch, as the preset
with the focal loss does; nearly all PyTorch code divides by the sum of the weights, which changes
from batch to batch. The source of class-balanced fine-tuning gives no details for CIFAR: 20 epochs
at rate 1e-3 are our choice. Its published figures are below cross-entropy at imbalance factor 10.

Source: Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019, arXiv 1906.07413 (deferred); Chou, Chang, Pan,
Wei, Juan, ECCV 2020 workshops, arXiv 2007.03943 (Remix, see ``stats.losses.remix_shares``); Cui,
Jia, Lin, Song, Belongie, CVPR 2019, arXiv 1901.05555 (class-balanced); Cui, Song, Sun, Howard,
Belongie, CVPR 2018, arXiv 1806.06193 (class-balanced fine-tuning).
"""

import dataclasses
from typing import Any

from ltcli.methods import cross_entropy, focal, ldam
from ltcli.methods.method import BOTH, FINETUNE, Method

_LDAM = "Cao et al., NeurIPS 2019, arXiv 1906.07413"
_REMIX = "Chou et al., ECCV 2020 workshops, arXiv 2007.03943"
_EFFECTIVE = "Cui et al., CVPR 2019, arXiv 1901.05555"
# Epoch 160 of the schedule's 200; in a shorter run the same fraction.
_DEFERRED: dict[str, Any] = {"beta": 0.9999, "defer": 160}
_MIXED: dict[str, Any] = {"mixup": 1.0, "mixed_labels": "remix"}


def _preset(
    method: Method[Any],
    summary: str,
    source: str,
    stages: tuple[str, ...] = ("pretrain",),
    **defaults: Any,
) -> Method[Any]:
    own = dict.fromkeys(stages, defaults)
    return dataclasses.replace(method, summary=summary, source=source, stages=stages, defaults=own)


_CE, _FOCAL, _MARGINS = cross_entropy.METHOD, focal.METHOD, ldam.METHOD

PRESETS: dict[str, Method[Any]] = {
    "class-balanced": _preset(
        _CE,
        "cross-entropy weighted by the effective number of samples",
        _EFFECTIVE,
        BOTH,
        beta=0.9999,
    ),
    "class-balanced-focal": _preset(
        _FOCAL,
        "sigmoid focal loss weighted by the effective number of samples",
        _EFFECTIVE,
        form="sigmoid",
        beta=0.9999,
        reduction="mean-of-weighted",
    ),
    "ce-drw": _preset(_CE, "cross-entropy, class weights from epoch 160 on", _LDAM, **_DEFERRED),
    "focal-drw": _preset(_FOCAL, "focal loss, class weights from epoch 160 on", _LDAM, **_DEFERRED),
    "ldam-drw": _preset(_MARGINS, "LDAM, class weights from epoch 160 on", _LDAM, **_DEFERRED),
    "ce-drs": _preset(
        _CE,
        "cross-entropy, class-aware sampling from epoch 160 on",
        _LDAM,
        sampler="class-aware",
        defer=160,
    ),
    "remix": _preset(_CE, "mixup whose label goes to the rarer class", _REMIX, **_MIXED),
    "remix-drw": _preset(
        _CE, "Remix, class weights from epoch 160 on", _REMIX, **_MIXED, **_DEFERRED
    ),
    "class-balanced-finetuning": _preset(
        _CE,
        "the whole network at a small rate on class-aware batches",
        "Cui et al., CVPR 2018, arXiv 1806.06193",
        FINETUNE,
        data="images",
        train="all",
        epochs=20,
        lr=1e-3,
        sampler="class-aware",
    ),
}
