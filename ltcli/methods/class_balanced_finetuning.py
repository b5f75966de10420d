"""Class-balanced fine-tuning: the whole network goes on at a small rate on class-aware batches.

    L = mean_i CE(z_i, y_i), each class drawn equally often

With classes of one size it is plain continuation. The primary source's details for CIFAR are not
known; 20 epochs at rate 1e-3 are a choice. Published figures are below cross-entropy at factor 10.

Source: Cui, Song, Sun, Howard, Belongie, CVPR 2018, arXiv 1806.06193.
"""

from ltcli.methods.cross_entropy import make_loss
from ltcli.methods.method import FINETUNE, Method

METHOD = Method(
    summary="the whole network at a small rate on class-aware batches",
    source="Cui et al., CVPR 2018, arXiv 1806.06193",
    stages=FINETUNE,
    defaults={
        "finetune": {
            "data": "images",
            "train": "all",
            "epochs": 20,
            "lr": 1e-3,
            "sampler": "class-aware",
        }
    },
    loss=make_loss,
    balances=lambda _params: False,
)
