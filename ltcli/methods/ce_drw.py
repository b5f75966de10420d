"""CE-DRW: cross-entropy, with class weights from epoch 160 on.

Deferred re-weighting: the class-balanced weights of the effective number begin with the first decay
of the learning rate. Before it the run is the same, to the bit, as without them.

Source: Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019, arXiv 1906.07413; the released code has the
effective number (beta 0.9999), the paper 1/n.
"""

import dataclasses

from ltcli.methods import cross_entropy

METHOD = dataclasses.replace(
    cross_entropy.METHOD,
    summary="cross-entropy, class weights from epoch 160 on",
    source="Cao et al., NeurIPS 2019, arXiv 1906.07413",
    stages=("pretrain",),
    defaults={"pretrain": {"beta": 0.9999, "defer": 160}},
)
