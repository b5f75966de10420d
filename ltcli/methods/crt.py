"""cRT, classifier re-training: fresh class vectors, class-aware sampling, frozen backbone.

    L = mean_i CE(W f_i + b, y_i), W and b re-initialised, each class drawn equally often

The released code leaves the frozen backbone in train mode, so its batch-norm statistics drift to
the balanced distribution; here they do not change.

Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, ICLR 2020, arXiv 1910.09217.
"""

from ltcli.core.params import NoOptions
from ltcli.methods.cross_entropy import make_loss
from ltcli.methods.method import FINETUNE, Head, Method

METHOD = Method(
    summary="fresh classifier, class-aware sampling",
    source="Kang et al., ICLR 2020, arXiv 1910.09217",
    stages=FINETUNE,
    options=NoOptions,
    loss=make_loss,
    defaults={"finetune": {"sampler": "class-aware"}},
    balances=lambda _options, _run: False,
    head=lambda _options, _run: Head(start="fresh"),
)
