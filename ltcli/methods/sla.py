"""SLA, self-supervised label augmentation: one label for class and rotation of an image.

    L = mean over the four rotations r and images i of CE( z^r_i, (y_i, r) )
    z^r[c, q] = w_cq . f(r-turned image) + b_cq        4 C logits
    test: the mean over r of z^r[c, r], as the rotation is known

The model is a backbone that puts the features of the four turned images side by side, and one row
of weights (w_c0, ..., w_c3) for each class, with factors of 1/4, so every later stage treats it
like any other. This is joint training alone, without distillation into one view.

Source: Lee, Hwang, Shin, ICML 2020, arXiv 1910.05872 and released code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcli.core.params import NoOptions
from ltcli.methods.method import Head, Method, TrainingRun

if TYPE_CHECKING:
    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


def make_steps(_options: NoOptions, run: TrainingRun) -> Steps:
    """Steps on four times as many images and labels."""
    import torch
    from torch.nn import functional as F

    from ltcli.compute.device import autocast
    from ltcli.engine.state import ModuleState
    from ltcli.engine.steps import Steps, descent, train_too
    from ltcli.models.resnet import Rotations

    backbone, classifier = run.network.backbone, run.network.classifier
    # Not a user's error: the record below asks for this backbone.
    if not isinstance(backbone, Rotations):
        raise ValueError("sla trains a backbone of four views")
    # Biases of all joint labels, float [C, 4]; the classifier itself has room for one per class.
    biases = torch.nn.Parameter(classifier.bias.new_zeros(len(classifier.bias), 4))
    train_too(run.optimizer, [biases])

    def objective(batch: Batch) -> torch.Tensor:
        x, labels = run.inputs(batch), run.labels[batch.rows]
        turned = torch.cat([torch.rot90(x, quarter, (2, 3)) for quarter in range(4)])
        with autocast(labels.device, run.dtype):
            features = backbone.of_view(turned).float()
        # Class by class, 4 C logits in a row: joint label 4 y + r.
        joint = classifier.weight.view(4 * len(classifier.weight), -1)
        logits = F.linear(features, joint, biases.flatten())
        # In the order of ``turned``: all images at one angle, then at the next.
        target = torch.cat([4 * labels + quarter for quarter in range(4)])
        # One loss for each image, as class weights belong to images, not to views.
        losses = F.cross_entropy(logits, target, reduction="none").view(4, -1).mean(0)
        return run.reduce(losses, labels, batch)

    down = descent(run.optimizer, objective)

    def step(batch: Batch) -> torch.Tensor:
        value = down(batch)
        with torch.no_grad():
            # The classifier's factors of 1/4 turn this sum into a mean.
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
    # The biases of the joint labels are trained in place of the classifier's.
    head=lambda _options, _run: Head(trainable=("weight",), scale=0.25),
    balances=lambda _options, _run: False,
    backbone=lambda _options, _run: "sla",
)
