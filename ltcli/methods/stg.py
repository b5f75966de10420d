"""STG: random differences, learnt from head classes, are added to the features of tail samples.

    (mu, Sigma) = s(a + p_h)    of the frozen generator, h the head class most similar to a
    a_aug = a + (sqrt(Sigma) eps + mu) lambda beta_y,    beta_y = sqrt(n_min / n_y)
    a~    = a where m >= t, a_aug elsewhere,    m ~ U(0, 1) and eps ~ N(0, 1) per channel
    L     = mean_i CE(g(a~_i), y_i), class-aware sampling, frozen backbone

Head samples stay as they are. strength = lambda = 0 or mask = t = 0 is the chosen classifier
(cRT, LWS or generalised) alone; a batch without tail samples is a step of it. The generalised
classifier is that of MiSLAS: z = s * (W a + b), W and b from the trained model at a smaller rate.

``noise`` has the controls. mean and variance leave the other moment out. gaussian has no direction:
mu = 0 and the mean of Sigma in every channel. head-mean asks no generator: mu is the vector from a
to the mean of head class h, which is what a generator that has learnt its targets by heart gives,
and Sigma = 0. dropout sets masked channels of tail samples to zero and divides the others by 1 - t.

Source: "Sample-specific and context-aware augmentation", anonymous submission (no arXiv id known),
without code. Generalised classifier: Zhong, Cui, Liu, Jia, CVPR 2021, arXiv 2104.00466, code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltcli.compute.transfer import to_device
from ltcli.core.errors import ParamError
from ltcli.core.params import param
from ltcli.methods.method import FINETUNE, Head, Method, Steps

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ltcli.artifacts.header import Header
    from ltcli.engine.fit import Batch
    from ltcli.methods.method import Setting
    from ltcli.models.generator import Generator


@dataclass(frozen=True)
class Params:
    """Parameters of STG's last stage."""

    classifier: Literal["crt", "lws", "generalised"] = param(
        "crt", "fresh class vectors, scales of the trained ones, or both trained ones and scales"
    )
    classifier_rate: float = param(
        0.05, "generalised: multiple of the rate for the class vectors", ge=0
    )
    # 1.5 in the paper. Validation on CIFAR-10-LT at factor 100 prefers 1 on two backbones.
    strength: float = param(1.0, "factor of the differences; 0 is the classifier alone", ge=0)
    mask: float = param(0.5, "share of the channels that are changed", ge=0, le=1)
    noise: Literal["generated", "mean", "variance", "gaussian", "head-mean", "dropout"] = param(
        "generated", "what is added: both moments, one of them, or a control"
    )
    augment: Literal["tail", "all"] = param("tail", "which samples; head ones have their own token")
    similarity: Literal["cosine", "euclidean"] = param(
        "cosine", "by which a tail sample chooses its head class"
    )
    draws: int = param(1, "augmented copies of each sample of a step", ge=1)


def check(params: Any, _headers: Mapping[str, Header]) -> None:
    """Refuse a backbone that is not the one the generator was trained on."""
    if params.train == "all":
        hint = "the generator belongs to the features of the frozen backbone"
        raise ParamError("finetune", "train must be classifier for stg, got all", hint)


def head(params: Params) -> Head:
    """Return what the chosen classifier starts from and trains."""
    if params.classifier == "crt":
        return Head(start="fresh")
    if params.classifier == "lws":
        return Head(trainable=("scales",))
    rates = {"weight": params.classifier_rate, "bias": params.classifier_rate}
    return Head(trainable=("weight", "bias", "scales"), rates=rates)


def make_steps(params: Params, setting: Setting) -> Steps:
    """Return the steps on augmented features."""
    from torch.nn import functional as F

    from ltcli.engine.steps import feature_step

    if setting.generator is None:
        raise ValueError("stg reads a generator")
    augment = augmentation(params, setting.generator, setting.class_counts, setting.seed)
    classifier = setting.network.classifier

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        features = features.repeat_interleave(params.draws, 0)
        labels = labels.repeat_interleave(params.draws)
        logits = classifier(augment(features, labels, batch))
        return setting.reduce(F.cross_entropy(logits, labels, reduction="none"), labels, batch)

    return Steps(feature_step(setting.features, setting.optimizer, loss, setting.labels))


def augmentation(
    params: Params, generator: Generator, class_counts: torch.Tensor, seed: int
) -> Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]:
    """Return what augments the features of a step, float [B, D], of labels int64 [B].

    Args:
        params: Own parameters.
        generator: Frozen, in eval mode.
        class_counts: int64 [C].
        seed: Of the draws, which depend on epoch and step beside it.
    """
    import torch

    from ltcli.compute.seeds import derive
    from ltcli.stats.differences import masked, moved, rarity

    factors = (params.strength * rarity(class_counts.cpu())).float().to(class_counts.device)
    changes = torch.ones_like(generator.head) if params.augment == "all" else ~generator.head

    @torch.no_grad()
    def augment(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        draws = torch.Generator().manual_seed(derive("stg", seed, batch.epoch, batch.step))
        noise = to_device(torch.randn(features.shape, generator=draws), features.device)
        mask = to_device(torch.rand(features.shape, generator=draws), features.device)
        if params.noise == "dropout":
            kept = features / max(1 - params.mask, 1e-9)
            changed = masked(kept, torch.zeros_like(features), mask, params.mask)
        else:
            tokens = generator.nearest_head(features, params.similarity)
            tokens = torch.where(generator.head[labels], labels, tokens)
            mean, variance = generator(features, tokens)
            if params.noise == "head-mean":
                mean = generator.class_means[tokens] - features
            if params.noise in ("variance", "gaussian"):
                mean = torch.zeros_like(mean)
            if params.noise in ("mean", "head-mean"):
                variance = torch.zeros_like(variance)
            if params.noise == "gaussian":
                variance = variance.mean(1, keepdim=True)
            shifted = moved(features, mean, variance, factors[labels], noise)
            changed = masked(features, shifted, mask, params.mask)
        return torch.where(changes[labels].unsqueeze(1), changed, features)

    return augment


METHOD = Method(
    summary="tail features moved by differences learnt from head classes (stg-train)",
    source="STG, anonymous submission, no arXiv id known",
    stages=FINETUNE,
    params=Params,
    defaults={
        "finetune": {"optimizer": "adam", "lr": 1e-3, "decay": "steps", "sampler": "class-aware"}
    },
    steps=make_steps,
    head=head,
    reads=lambda _params: ("generator",),
    check=check,
)
