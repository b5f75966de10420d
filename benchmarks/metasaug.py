"""One exact MetaSAug iteration against a plain one, and against double backward, in one run.

plain: forward, backward and SGD step of class-balanced cross-entropy on 100 images.
exact: MetaSAug's step as ``ltcli finetune --method metasaug`` does it, 100 + 100 images.
double: the same step with the virtual step kept as a graph and differentiated a second time.

Whole ResNet-32, images in memory, channels-last; each precision against itself. Rounds alternate,
so that a noisy machine slows all alike. Also prints how well the covariance steps agree.

    python benchmarks/metasaug.py [--rounds 5] [--precision fp32|bf16|both]
"""

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial

import ratios
import torch
from torch.func import functional_call
from torch.nn import functional as F

from ltcli.compute.device import autocast
from ltcli.data.batches import Batch
from ltcli.engine.optimizers import SGD
from ltcli.engine.steps import plain_step, weighted_mean
from ltcli.methods.metasaug import Options, make_steps
from ltcli.methods.method import TrainingRun
from ltcli.methods.options import Base, base_loss
from ltcli.models import small_images
from ltcli.models.network import build_network, place
from ltcli.stages import finetune
from ltcli.stats.quadratic import Full, by_sample

CLASSES, BATCH = 10, 100
COUNTS = torch.tensor([4990, 2991, 1793, 1075, 644, 386, 231, 138, 83, 49])
DEVICE = torch.device("cpu")


def training_run(options: Options, dtype: torch.dtype) -> TrainingRun:
    """Return random images with an imprint of their class, and a fresh network."""
    network = place(build_network(small_images.backbone("resnet32"), CLASSES, 0), DEVICE).train()
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(COUNTS / COUNTS.sum(), BATCH, True, generator=generator)
    imprints = torch.randn(CLASSES, 3, 32, 32, generator=generator)
    held_out_labels = torch.arange(BATCH) % CLASSES

    def images(of: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(of), 3, 32, 32, generator=generator)
        return (noise + imprints[of]).contiguous(memory_format=torch.channels_last)

    train, held_out = images(labels), images(held_out_labels)
    params = finetune.Params(
        method="metasaug",
        options=options,
        data="images",
        train="all",
        epochs=1,
        batch_size=BATCH,
        beta=0.9999,
    )
    run = finetune.run_of(params, {})
    return TrainingRun(
        **{field.name: getattr(run, field.name) for field in dataclasses.fields(run)},
        network=network,
        optimizer=SGD(
            [p for p in network.parameters() if p.requires_grad],
            lr=0.001,
            momentum=0.9,
            weight_decay=5e-4,
            nesterov=True,
        ),
        inputs=lambda batch: train[batch.rows],
        maps=None,
        labels=labels,
        held_out=lambda batch: held_out[batch.rows],
        held_out_labels=held_out_labels,
        class_counts=COUNTS,
        order=lambda _epoch: torch.arange(BATCH),
        reduce=weighted_mean(params.beta, params.reduction, COUNTS),
        dtype=dtype,
    )


def double_backward(case: TrainingRun, options: Options) -> Callable[[Batch], torch.Tensor]:
    """Return the step that differentiates through the virtual step; it keeps no statistics."""
    network, losses = case.network, base_loss(Base(), COUNTS)
    start = torch.eye(64).repeat(CLASSES, 1, 1)

    def logits_of(
        parameters: dict[str, torch.Tensor], x: torch.Tensor, sigma: torch.Tensor | None
    ) -> torch.Tensor:
        state = {n: b.clone() for n, b in network.named_buffers()} | parameters
        body = {n[9:]: t for n, t in state.items() if n.startswith("backbone.")}
        with autocast(DEVICE, case.dtype):
            features = functional_call(network.backbone, body, (x,)).float()
        weight = state["classifier.weight"]
        logits = F.linear(features, weight, state["classifier.bias"])
        if sigma is None:
            return logits
        rows = [
            (((weight - weight[c]) @ sigma[c]) * (weight - weight[c])).sum(1)
            for c in range(CLASSES)
        ]
        return logits + 0.5 * options.strength * torch.stack(rows)[case.labels]

    def step(batch: Batch) -> torch.Tensor:
        x, y = case.inputs(batch), case.labels

        def loss(logits: torch.Tensor) -> torch.Tensor:
            return case.reduce(losses(logits, y, batch), y, batch)

        theta = {n: p for n, p in network.named_parameters() if p.requires_grad}
        sigma = start.clone().requires_grad_()
        value = loss(logits_of(theta, x, sigma))
        grads = torch.autograd.grad(value, list(theta.values()), create_graph=True)
        moved = {n: p - 0.001 * g for (n, p), g in zip(theta.items(), grads, strict=True)}
        assert case.held_out is not None
        assert case.held_out_labels is not None
        held = F.cross_entropy(logits_of(moved, case.held_out(batch), None), case.held_out_labels)
        (gradient,) = torch.autograd.grad(held, sigma)
        corrected = start - options.meta_lr * gradient
        step.change = corrected - start  # type: ignore[attr-defined]
        case.optimizer.zero_grad()
        # Batch statistics move the running ones here, as in the two other steps.
        with autocast(DEVICE, case.dtype):
            features = network.backbone(x).float()
        classifier = network.classifier
        raised = by_sample(classifier.vectors(), Full(corrected), y)
        value = loss(classifier(features) + 0.5 * options.strength * raised)
        torch.autograd.backward(value)
        case.optimizer.step()
        return value

    return step


def exact(case: TrainingRun, options: Options) -> Callable[[Batch], torch.Tensor]:
    """Return ltcli's step, from covariances of one as above."""
    steps = make_steps(options, case)
    state = steps.state
    assert state is not None
    eye = torch.eye(64).repeat(CLASSES, 1, 1)

    def step(batch: Batch) -> torch.Tensor:
        state.restore({**state.tensors(), "covariances": eye})
        if not hasattr(step, "change"):
            keep = {}
            replace = state.replace  # type: ignore[attr-defined]
            state.replace = lambda new: keep.update(new=new)  # type: ignore[attr-defined]
            value = steps.step(batch)
            state.replace = replace  # type: ignore[attr-defined]
            step.change = torch.stack(list(keep["new"].matrices)) - eye  # type: ignore[attr-defined]
            return value
        return steps.step(batch)

    return step


def main() -> None:
    """Time the three."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16", "both"), default="both")
    args = parser.parse_args()
    names = ("fp32", "bf16") if args.precision == "both" else (args.precision,)
    for name in names:
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        options = Options(ramp_start=1.0, variant="paper")
        batch = Batch(0, 0, 0, torch.arange(BATCH))
        cases = {kind: training_run(options, dtype) for kind in ("plain", "exact", "double")}
        plain = cases["plain"]
        steps = {
            "plain": plain_step(
                plain.network,
                plain.optimizer,
                base_loss(Base(), COUNTS),
                plain.reduce,
                plain.inputs,
                plain.labels,
                dtype=dtype,
            ),
            "exact": exact(cases["exact"], options),
            "double": double_backward(cases["double"], options),
        }
        for step in steps.values():
            step(batch)
        mine, theirs = steps["exact"].change, steps["double"].change  # type: ignore[attr-defined]
        cosine = F.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0)
        took = ratios.in_turns(args.rounds, *[partial(step, batch) for step in steps.values()])
        times = dict(zip(steps, took, strict=True))
        note = ", ".join(f"{kind} {1000 * min(values):.0f} ms" for kind, values in times.items())
        ratios.check(f"{name}: exact / plain", times["exact"], times["plain"], most=4.5, note=note)
        note = f"cosine of the covariance steps {float(cosine):.5f}"
        ratios.check(
            f"{name}: double / exact", times["double"], times["exact"], least=1.8, note=note
        )


if __name__ == "__main__":
    ratios.run(main)
