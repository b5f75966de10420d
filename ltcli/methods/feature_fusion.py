"""Feature space augmentation: tail features fused with generic parts of confusable classes.

Each step takes n images of tail classes, n N fused features and n (1 + N) images of head classes,
so that head and tail have half of the batch each (16, 48 and 64 of 128 for N = 3 donors):

    for each tail image and each of the N classes most confused with its class: one image of that
    class, gamma ~ U(0, 1), and a map of round(gamma L) class-specific columns of the tail image
    and class-generic columns of the other (``ltcli.stats.fusion``); label: the tail class
    L = mean_i CE(W f_i + b, y_i) over the batch, f the maps averaged over positions

Only the classifier is trained, starting from the trained one, which also gives the class activation
maps. Without donors (N = 0) half of the batch are real tail images and half head images: the same
training without fused features, which the paper calls "no aug".

The paper trains 6,400 steps of 128 at a constant rate. The default of 66 epochs are 6,402 steps on
CIFAR-10-LT at factor 100 (12,380 images).

The paper does not give the thresholds, the distribution of gamma, the drawing of tail images, or
momentum and weight decay. Thresholds 0.8 and 0.2 are those of an unofficial implementation; tail
images are drawn uniformly over tail classes, then within the class. Its introduction takes generic
columns from head classes, its section 4.2 ranks all classes: ``donors`` chooses.

With ``stages_after`` k the maps before the last k stages are fused, with the drawn columns laid out
row by row, and the rest of the backbone turns the result into a feature; each position takes the
activation of the last map there. In the paper the last maps (k = 0) are best.

Source: Chu, Bian, Liu, Ling, "Feature Space Augmentation for Long-Tailed Data", ECCV 2020, arXiv
2008.03673, section 4 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltcli.artifacts.backbone import backbone_of, require_maps
from ltcli.compute.transfer import to_device
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import param
from ltcli.methods.method import (
    FINETUNE,
    Method,
    Run,
    TrainingRun,
    require_activation_maps,
    require_frozen_backbone,
    require_instance_balanced,
)
from ltcli.methods.options import HeadRule, head_of

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Inputs, Steps


@dataclass(frozen=True)
class Options(HeadRule):
    """Options of feature space augmentation."""

    donors_per_image: int = param(
        3, "fused features per tail image, each with another confusable class; 0 for none", ge=0
    )
    donors: Literal["all", "head"] = param("all", "classes that donor images may come from")
    specific_above: float = param(
        0.8,
        "activation (0..1 in an image) above which a tail image's column is class-specific",
        lt=1,
    )
    generic_below: float = param(
        0.2, "activation below which a donor image's column is generic", gt=0
    )
    stages_after: int = param(
        0,
        "number of last backbone stages that follow the fusion; above 0 needs --data images",
        ge=0,
    )


def check(options: Options, run: Run) -> None:
    """Refuse features that cannot be fused, and batches that cannot be composed."""
    require_frozen_backbone(run, "feature-fusion trains the classifier alone")
    if options.stages_after and run.bank:
        hint = "the feature bank holds the last maps"
        raise ParamError("finetune", "stages-after needs --data images", hint)
    hint = "feature-fusion composes its batches itself, half of head and half of tail images"
    require_instance_balanced(run, "for feature-fusion", hint)
    part, size = 2 * (1 + options.donors_per_image), run.schedule.batch_size
    if size % part:
        rule = f"batch-size must be a multiple of {part}, got {size}"
        hint = "half of a batch are head images; each tail image brings --donors-per-image features"
        raise ParamError("finetune", rule, hint)
    counts = run.headers["model"].info["class_counts"]
    head = head_of(options, counts, "finetune")
    # A tail class is not its own donor.
    others = sum(head) if options.donors == "head" else len(counts) - 1
    if options.donors_per_image > others:
        rule = f"donors-per-image must be at most {others}, got {options.donors_per_image}"
        hint = f"so many classes can lend generic features with --donors {options.donors}"
        raise ParamError("finetune", rule, hint)
    if options.donors_per_image:
        _check_maps(options, run)


def _check_maps(options: Options, run: Run) -> None:
    """Refuse a model or feature bank without maps of several positions."""
    require_activation_maps(run.headers["model"])
    if run.bank:
        where, size = run.data.path, run.data.tensors.get("train.maps", ("", ()))[1][2:]
        if not size:
            hint = "make it with dump-features --maps, or use --data images"
            raise ArtifactError(where, "holds no feature maps", hint)
    else:
        model = run.headers["model"]
        stages = backbone_of(model).stages
        if options.stages_after > stages:
            rule = f"stages-after must be at most {stages}, got {options.stages_after}"
            raise ParamError("finetune", rule, f"{backbone_of(model)} has so many stages")
        where, size = model.path, require_maps(model)
    # A single position has nothing to fuse: the result would be one of the two features.
    if max(size) == 1:
        name = backbone_of(run.headers["model"])
        rule = f"the feature maps of {name} are 1x1 for these images"
        hint = "fusion needs positions: use a backbone with fewer stages, or larger images"
        raise ArtifactError(where, rule, hint)


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps on composed batches."""
    import torch

    from ltcli.engine.steps import Steps, descent

    donors = options.donors_per_image
    tails = run.batch_size // (2 * (1 + donors))
    classifier, order = run.network.classifier, _order(options, run, tails)
    maps = run.maps
    features = run.features if maps is None else _fused(options, run, maps, tails)

    def objective(batch: Batch) -> torch.Tensor:
        labels = run.labels[batch.rows]
        # Rows of donors hold fused features, which have the class of their tail image.
        fused = labels[:tails].repeat_interleave(donors)
        labels = torch.cat([labels[:tails], fused, labels[tails * (1 + donors) :]])
        return run.cross_entropy(classifier(features(batch)), labels, batch)

    return Steps(descent(run.optimizer, objective), order)


def _order(options: Options, run: TrainingRun, tails: int) -> Callable[[int], torch.Tensor]:
    """Order of composed batches: tail images, donors of each of them, head images."""
    import torch

    from ltcli.compute.seeds import derive
    from ltcli.data.samplers import members
    from ltcli.stats.confusion import top_confusing

    labels, counts = run.labels.cpu(), run.class_counts.cpu()
    head = torch.tensor(head_of(options, counts.tolist(), "finetune"))
    tail_classes = (~head).nonzero().flatten()
    # Classes that lend to each class, int64 [C, N], the most confusing first.
    confusing = torch.empty(len(head), 0, dtype=torch.int64)
    if run.scores is not None:
        lends = head if options.donors == "head" else torch.ones_like(head)
        scores = run.scores.cpu().masked_fill(~lends, -torch.inf)
        confusing = top_confusing(scores, options.donors_per_image)
    head_rows = head[labels].nonzero().flatten()
    steps = -(-len(labels) // run.batch_size)
    heads = steps * run.batch_size // 2

    def order(epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derive("feature-fusion", run.seed, epoch))

        def one_of(classes: torch.Tensor) -> torch.Tensor:
            return members(labels, classes, len(counts), generator)

        drawn = torch.randint(len(tail_classes), (steps, tails), generator=generator)
        classes = tail_classes[drawn]
        # Head images in their natural distribution, shuffled, as often as the epoch needs them.
        passes = range(-(-heads // len(head_rows)))
        shuffled = [torch.randperm(len(head_rows), generator=generator) for _ in passes]
        of_head = head_rows[torch.cat(shuffled)[:heads]].view(steps, -1)
        # One call for all steps: members sorts the labels once for every call.
        parts = [one_of(classes), one_of(confusing[classes].flatten(1)), of_head]
        return torch.cat(parts, dim=1).flatten()

    return order


def _fused(
    options: Options, run: TrainingRun, maps: Inputs, tails: int
) -> Callable[[Batch], torch.Tensor]:
    """Function that makes the features of a composed batch, with fused ones for the donors."""
    import torch
    from torch.nn import functional as F

    from ltcli.compute.seeds import derive
    from ltcli.stats import fusion

    classifier, donors = run.network.classifier, options.donors_per_image
    # A copy, as training changes the classifier. For a cosine classifier the lengths of rows and
    # features are missing, which do not change a map that is scaled to 0..1.
    weights = classifier.scales.detach().unsqueeze(1) * classifier.weight.detach()
    device, end = weights.device, tails * (1 + donors)
    maps, finish = _halves(options, run, maps)

    def features(batch: Batch) -> torch.Tensor:
        found = maps(batch)
        finished = finish(found)
        labels = run.labels[batch.rows[:end]]
        activations = fusion.activation_maps(finished[:end], weights[labels])
        # Earlier maps have more positions: each takes the activation of the last map there.
        activations = F.interpolate(activations.unsqueeze(1), found.shape[2:]).squeeze(1)
        specific, generic = fusion.masks(activations, options.specific_above, options.generic_below)
        seed = derive("feature-fusion", run.seed, batch.epoch, batch.step)
        generator = torch.Generator().manual_seed(seed)
        mixing = torch.rand(tails * donors, generator=generator)
        # Drawn on the CPU, so that a GPU run fuses the same columns.
        draws = torch.randint(2**31, (len(mixing), found[0, 0].numel()), generator=generator)
        fused = fusion.fuse(
            found[:tails].repeat_interleave(donors, dim=0),
            found[tails:end],
            specific[:tails].repeat_interleave(donors, dim=0),
            generic[tails:],
            to_device(mixing, device),
            to_device(draws, device),
        )
        return torch.cat([finished[:tails], finish(fused), finished[end:]]).mean((2, 3))

    return features


def _halves(
    options: Options, run: TrainingRun, maps: Inputs
) -> tuple[Inputs, Callable[[torch.Tensor], torch.Tensor]]:
    """Functions that make the maps to fuse, and the last maps from these."""
    import torch

    from ltcli.compute.device import autocast
    from ltcli.models.resnet import ResNet

    samples, backbone = run.samples, run.network.backbone
    if samples is None or options.stages_after == 0 or not isinstance(backbone, ResNet):
        return maps, lambda last: last
    stages, images = len(backbone.stages) - options.stages_after, samples.drawn

    def frozen(make: Callable[[], torch.Tensor]) -> torch.Tensor:
        with torch.no_grad(), autocast(run.labels.device, run.dtype):
            return make().float()

    return (
        lambda batch: frozen(lambda: backbone.early(images(batch), stages)),
        lambda found: frozen(lambda: backbone.late(found, stages)),
    )


METHOD = Method(
    summary="tail features fused with generic parts of confusable classes",
    source="Chu et al., ECCV 2020, arXiv 2008.03673",
    stages=FINETUNE,
    options=Options,
    # Steps without milestones are a constant rate.
    defaults={"finetune": {"epochs": 66, "lr": 1e-3, "decay": "steps"}},
    steps=make_steps,
    on_host=True,
    reads=lambda options, _run: ("maps", "confusion") if options.donors_per_image else (),
    check=check,
)
