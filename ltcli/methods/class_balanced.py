"""Class-balanced cross-entropy: each class weighted by its inverse effective number.

    w_c = (1 - beta) / (1 - beta^n_c), scaled to mean 1
    weighted-mean:    L = sum_i w_{y_i} l_i / sum_i w_{y_i}
    mean-of-weighted: L = mean_i( w_{y_i} l_i )

beta = 0 or equal counts give cross-entropy. The released TensorFlow code averages over the batch;
nearly all PyTorch code divides by the weights of the batch, a factor that changes from batch to
batch.

Source: Cui, Jia, Lin, Song, Belongie, CVPR 2019, arXiv 1901.05555.
"""

from ltcli.methods.cross_entropy import make_loss
from ltcli.methods.method import BOTH, Method

_OWN = {"beta": 0.9999}

METHOD = Method(
    summary="cross-entropy weighted by the effective number of samples",
    source="Cui et al., CVPR 2019, arXiv 1901.05555",
    stages=BOTH,
    defaults={"pretrain": _OWN, "finetune": _OWN},
    loss=make_loss,
    balances=lambda _params: False,
)
