"""Remix: mixup whose label goes to the rarer class of the two.

    x~ = a x_i + (1 - a) x_j,  a ~ Beta(alpha, alpha) for a batch
    l = a_y CE(z, y_i) + (1 - a_y) CE(z, y_j),  a_y for each pair, see ``stats.losses.remix_shares``

Source: Chou, Chang, Pan, Wei, Juan, ECCV 2020 workshops, arXiv 2007.03943.
"""

import dataclasses

from ltcli.methods import cross_entropy

METHOD = dataclasses.replace(
    cross_entropy.METHOD,
    summary="mixup whose label goes to the rarer class",
    source="Chou et al., ECCV 2020 workshops, arXiv 2007.03943",
    stages=("pretrain",),
    defaults={"pretrain": {"mixup": 1.0, "mixed_labels": "remix"}},
)
