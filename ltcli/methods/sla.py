"""SLA, self-supervised label augmentation: class and rotation of an image are one label.

    L = mean over the four rotations r and images i of CE( z^r_i, (y_i, r) )
    z^r[c, q] = w_cq . f(r-turned image) + b_cq        4 C logits
    test: the mean over r of z^r[c, r], as the image is turned by r itself

As a network it is a backbone that puts the features of the four turned images side by side, and one
row of weights (w_c0, ..., w_c3) for each class, with factors of 1/4: every later stage takes it as
any other. Only joint training is here, without the distillation into one view.

Source: Lee, Hwang, Shin, ICML 2020, arXiv 1910.05872 and released code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.core.params import NoOptions
from ltcli.methods.method import Head, Method

if TYPE_CHECKING:
    import torch

    from ltcli.engine.steps import Batch, Steps
    from ltcli.methods.run import TrainingRun


def make_steps(_options: NoOptions, run: TrainingRun) -> Steps:
    """Return steps on four times as many images and labels."""
    import torch
    from torch.nn import functional as F

    from ltcli.compute.device import autocast
    from ltcli.engine.state import ModuleState
    from ltcli.engine.steps import Steps, descent, train_too
    from ltcli.models.resnet import Rotations

    backbone, classifier = run.network.backbone, run.network.classifier
    if not isinstance(backbone, Rotations):
        raise ValueError("sla trains a backbone of four views")
    # Of all joint labels, float [C, 4].
    biases = torch.nn.Parameter(classifier.bias.new_zeros(len(classifier.bias), 4))
    train_too(run.optimizer, [biases])

    def objective(batch: Batch) -> torch.Tensor:
        x, labels = run.inputs(batch), run.labels[batch.rows]
        turned = torch.cat([torch.rot90(x, quarter, (2, 3)) for quarter in range(4)])
        with autocast(labels.device, run.dtype):
            features = backbone.of_view(turned).float()
        # A row of 4 C logits, those of a class side by side.
        joint = classifier.weight.view(4 * len(classifier.weight), -1)
        logits = F.linear(features, joint, biases.flatten())
        target = torch.cat([4 * labels + quarter for quarter in range(4)])
        losses = F.cross_entropy(logits, target, reduction="none").view(4, -1).mean(0)
        return run.reduce(losses, labels, batch)

    down = descent(run.optimizer, objective)

    def step(batch: Batch) -> torch.Tensor:
        value = down(batch)
        with torch.no_grad():
            # The classifier's factors of 1/4 make a mean of this.
            classifier.bias.copy_(biases.sum(1))
        return value

    return Steps(step, state=ModuleState(torch.nn.ParameterDict({"biases": biases})))


METHOD = Method(
    summary="class and rotation as one label, four views at test time",
    source="Lee, Hwang, Shin, ICML 2020, arXiv 1910.05872",
    stages=("pretrain",),
    options=NoOptions,
    # 80,000 steps of 128 images on all of CIFAR are 200 epochs.
    defaults={
        "pretrain": {
            "warmup": 0,
            "milestones": (100, 150),
            "factors": (0.1, 0.01),
            "weight_decay": 1e-4,
        }
    },
    steps=make_steps,
    alone=True,
    head=lambda _options, _run: Head(trainable=("weight",), scale=0.25),
    balances=lambda _options, _run: False,
    backbone=lambda _options, _run: "sla",
)
