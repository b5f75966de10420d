"""Remix-DRW: Remix, with class weights from epoch 160 on; see ``remix`` and ``ce_drw``.

Source: Chou, Chang, Pan, Wei, Juan, ECCV 2020 workshops, arXiv 2007.03943.
"""

import dataclasses

from ltcli.methods import cross_entropy

METHOD = dataclasses.replace(
    cross_entropy.METHOD,
    summary="Remix, class weights from epoch 160 on",
    source="Chou et al., ECCV 2020 workshops, arXiv 2007.03943",
    stages=("pretrain",),
    defaults={"pretrain": {"mixup": 1.0, "mixed_labels": "remix", "beta": 0.9999, "defer": 160}},
)
