"""Focal-DRW: focal loss, with class weights from epoch 160 on; see ``ce_drw``.

Source: Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019, arXiv 1906.07413; gamma 1.
"""

import dataclasses

from ltcli.methods import focal

METHOD = dataclasses.replace(
    focal.METHOD,
    summary="focal loss, class weights from epoch 160 on",
    source="Cao et al., NeurIPS 2019, arXiv 1906.07413",
    stages=("pretrain",),
    defaults={"pretrain": {"beta": 0.9999, "defer": 160}},
)
