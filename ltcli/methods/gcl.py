"""GCL, Gaussian clouded logits: larger noise on the logits of rarer classes, on cosines.

    z_ic = s (cos(w_c, f_i) - cloud |e_ic| d_c - margin [c = y_i])
    d_c  = log(n_max / n_c) / log(n_max / n_min)       0 for the largest class, 1 for the rarest
    e    ~ N(0, 1/3) for every sample and class, clipped at -1 and 1
    l_i  = (1 - p_i)^gamma CE(z_i, y_i)                p = softmax(z_i)[y_i], held fixed

Noise never raises a logit. Without noise, margin and gamma it is cross-entropy on scaled cosines.
The first stage (``pretrain``) has s = 30 and no margin; the second trains the cosine classifier of
the first on class-aware batches with s = 20, margin 0.1 and gamma 1. Both mix images. The two
labels of a mixed image have the same noise here, and separate draws in the released code.

Source: Li, Cheung, Lu, CVPR 2022, arXiv 2203.09770 and released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.compute.transfer import to_device
from ltcli.core.errors import ArtifactError
from ltcli.core.params import param
from ltcli.methods.method import BOTH, Head, Loss, Method, Run, TrainingRun

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch


@dataclass(frozen=True)
class Options:
    """Options of GCL."""

    cloud: float = param(0.5, "amplitude of the noise on the rarest class, cosine units", ge=0)
    margin: float = param(0.0, "margin subtracted from the target's cosine", ge=0)
    scale: float = param(30.0, "factor of the cosines", gt=0)
    gamma: float = param(0.0, "exponent of the focal factor", ge=0)


def check(_options: Options, run: Run) -> None:
    """Refuse a model whose classifier is not on cosines, as the first stage's is."""
    model = run.headers.get("model")
    if model is not None and model.info["classifier"] != "cosine":
        rule = f"classifier must be cosine, got {model.info['classifier']}"
        hint = "start from pretrain --method gcl, or another method with cosines"
        raise ArtifactError(model.path, rule, hint)


def make_loss(options: Options, run: TrainingRun) -> Loss:
    """Loss of clouded logits."""
    import torch
    from torch.nn import functional as F

    from ltcli.compute.seeds import derive
    from ltcli.stats import losses

    sizes = (options.scale * options.cloud * losses.log_rarity(run.class_counts.cpu())).float()
    sizes = sizes.to(run.class_counts.device)
    # Margin and cloud are in cosine units, the logits already have the factor.
    margins = torch.full_like(sizes, options.scale * options.margin)

    def loss(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        draws = torch.Generator().manual_seed(derive("gcl", run.seed, batch.epoch, batch.step))
        # Drawn on the CPU: the same noise on every device.
        cloud = (torch.randn(logits.shape, generator=draws) / 3).clamp(-1, 1).abs()
        clouded = logits - sizes * to_device(cloud, logits.device)
        logits = losses.with_margins(clouded, labels, margins)
        values = F.cross_entropy(logits, labels, reduction="none")
        if options.gamma == 0:
            return values
        # 1 - p as -expm1(-CE), which keeps the digits of a p near 1.
        return (-torch.expm1(-values.detach())).pow(options.gamma) * values

    return loss


METHOD = Method(
    summary="noise on the logits that grows with the rarity of the class, on cosines",
    source="Li, Cheung, Lu, CVPR 2022, arXiv 2203.09770",
    stages=BOTH,
    options=Options,
    defaults={
        # The two stages of the released code.
        "pretrain": {"schedule": "gcl", "mixup": 1.0},
        "finetune": {
            "data": "images",
            "epochs": 30,
            "batch_size": 64,
            "lr": 0.002,
            "weight_decay": 2e-4,
            "sampler": "class-aware",
            "mixup": 1.0,
            "scale": 20.0,
            "margin": 0.1,
            "gamma": 1.0,
        },
    },
    loss=make_loss,
    on_host=True,
    head=lambda options, _run: Head(trainable=("weight",), form="cosine", scale=options.scale),
    check=check,
)
