"""LWS, learnable weight scaling: one factor per class on a frozen classifier.

    z_c = s_c (w_c . f + b_c), s initialised at 1 and trained with class-aware sampling

s = 1 changes no prediction. The paper scales w_c alone; the released code scales the whole logit
with its bias, as here.

Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, ICLR 2020, arXiv 1910.09217.
"""

from ltcli.core.params import NoOptions
from ltcli.methods.cross_entropy import make_loss
from ltcli.methods.method import FINETUNE, Head, Method

METHOD = Method(
    summary="one learned scale per class, class-aware sampling",
    source="Kang et al., ICLR 2020, arXiv 1910.09217",
    stages=FINETUNE,
    options=NoOptions,
    defaults={"finetune": {"sampler": "class-aware"}},
    loss=make_loss,
    # Class-aware sampling already counts as a correction of the prior.
    balances=lambda _options, _run: False,
    head=lambda _options, _run: Head(trainable=("scales",)),
)
