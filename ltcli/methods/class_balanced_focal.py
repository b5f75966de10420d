"""Class-balanced focal loss: each class weighted by its inverse effective number.

The released code takes the sigmoid form and divides by the number of images; so does this. beta = 0
is the focal loss.

Source: Cui, Jia, Lin, Song, Belongie, CVPR 2019, arXiv 1901.05555.
"""

import dataclasses

from ltcli.methods import focal

METHOD = dataclasses.replace(
    focal.METHOD,
    summary="sigmoid focal loss weighted by the effective number of samples",
    source="Cui et al., CVPR 2019, arXiv 1901.05555",
    stages=("pretrain",),
    defaults={"pretrain": {"form": "sigmoid", "beta": 0.9999, "reduction": "mean-of-weighted"}},
)
