"""CE-DRS: cross-entropy, with class-aware sampling from epoch 160 on.

Deferred re-sampling: as ``ce_drw``, with a sampler in place of weights.

Source: Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019, arXiv 1906.07413.
"""

import dataclasses

from ltcli.methods import cross_entropy

METHOD = dataclasses.replace(
    cross_entropy.METHOD,
    summary="cross-entropy, class-aware sampling from epoch 160 on",
    source="Cao et al., NeurIPS 2019, arXiv 1906.07413",
    stages=("pretrain",),
    defaults={"pretrain": {"sampler": "class-aware", "defer": 160}},
)
