"""LDAM-DRW: margins, with class weights from epoch 160 on; see ``ldam`` and ``ce_drw``.

Source: Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019, arXiv 1906.07413.
"""

import dataclasses

from ltcli.methods import ldam

METHOD = dataclasses.replace(
    ldam.METHOD,
    summary="LDAM, class weights from epoch 160 on",
    source="Cao et al., NeurIPS 2019, arXiv 1906.07413",
    stages=("pretrain",),
    defaults={"pretrain": {"beta": 0.9999, "defer": 160}},
)
