"""STG: features of tail samples plus random differences that a generator learned on head classes.

    (mu, Sigma) = s(a + p_h)    of the frozen generator, h the head class most similar to a
    a_aug = a + (sqrt(Sigma) eps + mu) lambda beta_y,    beta_y = sqrt(n_min / n_y)
    a~    = a where m >= t, a_aug elsewhere,    m ~ U(0, 1) and eps ~ N(0, 1) per channel
    L     = mean_i CE(g(a~_i), y_i), class-aware sampling, frozen backbone

Head samples do not change. strength = lambda = 0 or mask = t = 0 is the chosen classifier (cRT, LWS
or generalised) alone, and a batch without tail samples is a step of it. The generalised classifier
is that of MiSLAS: z = s * (W a + b), W and b from the trained model at a smaller rate.

``noise`` has the controls. mean and variance leave out the other moment. gaussian has no direction:
mu = 0 and the mean of Sigma in every channel. head-mean uses no generator: mu is the vector from a
to the mean of head class h, as a generator that memorised its targets would predict, and Sigma = 0.
dropout sets masked channels of tail samples to zero and divides the others by 1 - t.

Source: "Sample-specific and context-aware augmentation", anonymous submission (no arXiv id known),
without code. Generalised classifier: Zhong, Cui, Liu, Jia, CVPR 2021, arXiv 2104.00466, code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.compute.transfer import to_device
from ltcli.core.params import param
from ltcli.methods.method import FINETUNE, Head, Method, Run, TrainingRun, require_frozen_backbone

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps
    from ltcli.models.generator import Generator


@dataclass(frozen=True)
class Options:
    """Options of STG's last stage."""

    classifier: Literal["crt", "lws", "generalised"] = param(
        "crt", "classifier: fresh (crt), learned scales (lws), or trained class vectors and scales"
    )
    classifier_rate: float = param(
        0.05, "generalised classifier: multiple of the learning rate for the class vectors", ge=0
    )
    # 1.5 in the paper. Validation on CIFAR-10-LT at factor 100 prefers 1 on two backbones.
    strength: float = param(
        1.0, "factor of the differences; 0 is the chosen classifier alone", ge=0
    )
    mask: float = param(0.5, "fraction of the channels that change", ge=0, le=1)
    noise: Literal["generated", "mean", "variance", "gaussian", "head-mean", "dropout"] = param(
        "generated",
        "noise added to features: generated mean and variance, one of the two, or a control",
    )
    augment: Literal["tail", "all"] = param(
        "tail", "samples to augment; head samples use the token of their own class"
    )
    similarity: Literal["cosine", "euclidean"] = param(
        "cosine", "similarity by which a tail sample chooses its head class"
    )
    draws: int = param(1, "augmented copies of each sample per step", ge=1)


def head(options: Options, _run: Run) -> Head:
    """Start and trained parts of the chosen classifier."""
    if options.classifier == "crt":
        return Head(start="fresh")
    if options.classifier == "lws":
        return Head(trainable=("scales",))
    rates = dict.fromkeys(("weight", "bias"), options.classifier_rate)
    return Head(trainable=("weight", "bias", "scales"), rates=rates)


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps on augmented features."""
    if run.generator is None:
        raise ValueError("stg reads a generator")
    augment = augmentation(options, run.generator, run.class_counts, run.seed)
    classifier = run.network.classifier

    def loss(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        features = features.repeat_interleave(options.draws, 0)
        labels = labels.repeat_interleave(options.draws)
        return run.cross_entropy(classifier(augment(features, labels, batch)), labels, batch)

    return run.feature_steps(loss)


def augmentation(
    options: Options, generator: Generator, class_counts: torch.Tensor, seed: int
) -> Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]:
    """Function that augments the features of a step, float [B, D], with labels int64 [B].

    The generator is in eval mode; the draws depend on seed, epoch and step.
    """
    import torch

    from ltcli.compute.seeds import derive
    from ltcli.stats.differences import masked, moved, rarity

    factors = (options.strength * rarity(class_counts.cpu())).float().to(class_counts.device)
    changes = torch.ones_like(generator.head) if options.augment == "all" else ~generator.head

    @torch.no_grad()
    def augment(features: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        # Drawn on the CPU: the same noise on every device.
        draws = torch.Generator().manual_seed(derive("stg", seed, batch.epoch, batch.step))
        # Both are drawn for every kind of noise, so that controls see the same mask.
        noise = to_device(torch.randn(features.shape, generator=draws), features.device)
        mask = to_device(torch.rand(features.shape, generator=draws), features.device)
        if options.noise == "dropout":
            # A mask of 1 keeps no channel, so its divisor does not matter but must not be 0.
            kept = features / max(1 - options.mask, 1e-9)
            changed = masked(kept, torch.zeros_like(features), mask, options.mask)
        else:
            # The token of a head class moves its features by its own differences.
            tokens = generator.nearest_head(features, options.similarity)
            tokens = torch.where(generator.head[labels], labels, tokens)
            mean, variance = generator(features, tokens)
            if options.noise == "head-mean":
                mean = generator.class_means[tokens] - features
            if options.noise in ("variance", "gaussian"):
                mean = torch.zeros_like(mean)
            if options.noise in ("mean", "head-mean"):
                variance = torch.zeros_like(variance)
            if options.noise == "gaussian":
                variance = variance.mean(1, keepdim=True)
            shifted = moved(features, mean, variance, factors[labels], noise)
            changed = masked(features, shifted, mask, options.mask)
        return torch.where(changes[labels].unsqueeze(1), changed, features)

    return augment


METHOD = Method(
    summary="tail features moved by differences learned on head classes (stg-train)",
    source="STG, anonymous submission, no arXiv id known",
    stages=FINETUNE,
    options=Options,
    defaults={
        "finetune": {"optimizer": "adam", "lr": 1e-3, "decay": "steps", "sampler": "class-aware"}
    },
    steps=make_steps,
    on_host=True,
    head=head,
    reads=lambda _options, _run: ("generator",),
    check=lambda _options, run: require_frozen_backbone(
        run, "the generator belongs to the features of the frozen backbone"
    ),
)
