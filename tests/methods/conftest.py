"""Runs of the tests of methods, made of real parameters and small tensors."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ltcli import methods
from ltcli.artifacts.backbone import backbone_of
from ltcli.artifacts.header import Header
from ltcli.artifacts.store import open_artifact
from ltcli.core.params import build
from ltcli.data.batches import Batch
from ltcli.engine.optimizers import SGD
from ltcli.engine.steps import weighted_mean
from ltcli.methods import METHODS
from ltcli.methods.method import Run, SolvingRun, Training, TrainingRun
from ltcli.models import small_images
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network, build_backbone, load_network
from ltcli.stages import finetune, pretrain
from ltcli.stages.training import assemble
from ltcli.stats.covariance_forms import estimate
from ltcli.stats.quadratic import Full

MODULES = {"pretrain": pretrain, "finetune": finetune}
COUNTS = torch.tensor([12, 6, 4, 2])
LABELS = torch.arange(4).repeat_interleave(COUNTS)
HELD_OUT = torch.arange(8) % 4
ALL_HELD_OUT = Batch(0, 0, 0, torch.arange(8))
"""The held-out samples of ``make_run``, as one batch."""


def parameters(name: str, stage: str = "finetune", **given: object) -> Training:
    """The parameters that a command gives a stage, with a method's options and defaults."""
    record, method = MODULES[stage].STAGE, METHODS[name]
    defaults = {**record.defaults, **method.defaults.get(stage, {})}
    values = {"method": name, **given}
    return build(record.params, values, stage, options=method.options, defaults=defaults)


def planned(
    name: str, stage: str = "finetune", headers: Mapping[str, Header] = {}, **given: object
) -> Run:
    """A run of a method before it starts."""
    return MODULES[stage].run_of(parameters(name, stage, **given), headers)


def header(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]] = {}, **info: object
) -> Header:
    """The header of a model, without the file."""
    return Header(path, "model", 2, "pretrain", {}, {}, info, "0" * 64, "0", dict(tensors), {})


def balances(name: str, stage: str, **given: object) -> bool:
    """Whether a run takes the class prior out of the classifier."""
    run = planned(name, stage, **given)
    return methods.balances(METHODS[name], run.params.options, run)


def training_run(
    plan: Run,
    network: Network,
    data: torch.Tensor,
    *,
    labels: torch.Tensor = LABELS,
    counts: torch.Tensor = COUNTS,
    **fields: Any,
) -> TrainingRun:
    """A run that trains a network on given samples by plain gradient descent."""
    moving = [p for p in network.parameters() if p.requires_grad]
    size = len(labels)
    made = {
        **vars(plan),
        "network": network,
        "optimizer": SGD(moving, lr=plan.schedule.lr),
        "inputs": lambda batch: data[batch.rows],
        "maps": None,
        "labels": labels,
        "held_out": None,
        "held_out_labels": None,
        "class_counts": counts,
        "order": lambda epoch: torch.randperm(size, generator=torch.Generator().manual_seed(epoch)),
        "reduce": weighted_mean(plan.params.beta, plan.params.reduction, counts, plan.deferred),
        "dtype": torch.float32,
    }
    return TrainingRun(**(made | fields))


def solving_run(
    name: str,
    classifier: Classifier,
    counts: torch.Tensor,
    train: tuple[torch.Tensor, torch.Tensor] | None = None,
    val: tuple[torch.Tensor, torch.Tensor] | None = None,
    **given: object,
) -> SolvingRun:
    """A run that solves for a classifier; without samples unless features and labels are given."""
    nothing = torch.zeros(0, classifier.weight.shape[1]), torch.zeros(0, dtype=torch.int64)
    features, labels = train or nothing
    val_features, val_labels = val or nothing
    plan, statistics = planned(name, **given), {}
    if "covariances" in METHODS[name].reads(plan.params.options, plan):
        plan = dataclasses.replace(plan, headers={"covariances": header(Path("covariances"))})
        found = estimate(features, labels, len(counts), "full", ddof=0).tensors
        statistics = {"means": found["means"], "covariances": Full(found["full"])}
        statistics["covariance_counts"] = found["counts"]
    return SolvingRun(
        **vars(plan),
        **statistics,
        classifier=classifier,
        class_counts=counts,
        features=features,
        labels=labels,
        val_features=val_features,
        val_labels=val_labels,
    )


def solved(run: SolvingRun) -> tuple[Classifier, dict[str, Any]]:
    """The classifier that the method of a run computes, and the options that it chose."""
    return METHODS[run.params.method].solve(run.params.options, run)


def assembled(folder: Path, name: str, **given: object) -> TrainingRun:
    """The run that ``finetune`` makes of the artifacts in a folder, on the CPU in float32."""
    method, plan = METHODS[name], planned(name, **given)
    files = {"model": "pretrain", "features": "dump-features"}
    files |= {"split": "split", "confusion": "confusion"}
    with contextlib.ExitStack() as stack:
        inputs = {
            role: stack.enter_context(open_artifact(folder / f"{file}.safetensors"))
            for role, file in files.items()
        }
        plan = dataclasses.replace(plan, headers={r: each.header for r, each in inputs.items()})
        network = load_network(inputs["model"], torch.device("cpu"))
        backbone = None if plan.bank else backbone_of(inputs["model"].header)
        return assemble(method, plan, network, inputs, backbone, torch.float32)


def loss_and_run(
    name: str, counts: list[int], stage: str = "pretrain", **given: object
) -> tuple[Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor], TrainingRun]:
    """The loss that a method has of logits, sample by sample, and the run that it belongs to."""
    plan, size = planned(name, stage, **given), len(counts)
    network = Network(torch.nn.Identity(), Classifier(1, size))
    rows = {"labels": torch.arange(size), "counts": torch.as_tensor(counts)}
    run = training_run(plan, network, torch.zeros(size, 1), **rows)
    return METHODS[name].loss(run.params.options, run), run


@pytest.fixture
def objective() -> Callable[..., Callable[..., torch.Tensor]]:
    """The mean loss of a batch that a method minimises: its losses, reduced with its weights."""

    def made(
        name: str, counts: list[int], stage: str = "pretrain", **given: object
    ) -> Callable[..., torch.Tensor]:
        loss, run = loss_and_run(name, counts, stage, **given)

        def value(logits: torch.Tensor, labels: torch.Tensor, epoch: int = 0) -> torch.Tensor:
            batch = Batch(epoch, 0, 0, torch.arange(len(labels)))
            return run.reduce(loss(logits, labels, batch), labels, batch)

        return value

    return made


@pytest.fixture
def kept(ltcli, copy: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """Train two epochs on the tiny split, and return each tensor after each of them."""

    def trained(name: str, *given: str) -> dict[str, torch.Tensor]:
        out = copy / f"kept-{name}.safetensors"
        command = ("pretrain", "--backbone", "resnet20", "--epochs", "2", "--snapshots", "2")
        done = ltcli(*command, "--method", name, *given, "--out", out, "--force", "-q", "-d", copy)
        assert done.code == 0, done.err
        with open_artifact(out) as model:
            return model.load("snapshots.*")

    return trained


@pytest.fixture
def make_run() -> Callable[..., TrainingRun]:
    """Make a run: 24 samples of 4 classes, 8 held-out ones; float64 unless it has images."""

    def make(name: str, *, whole: bool = False, lr: float = 0.05, **given: object) -> TrainingRun:
        plan = planned(
            name, METHODS[name].stages[-1], **{"epochs": 4, "batch_size": 12, "lr": lr, **given}
        )
        rng = torch.Generator().manual_seed(1)
        dtype = torch.float32 if whole else torch.float64
        shape = (3, 8, 8) if whole else (5,)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            backbone = (
                build_backbone(small_images.backbone("resnet20")) if whole else torch.nn.Identity()
            )
            network = Network(backbone, Classifier(64 if whole else 5, 4)).to(dtype).train()
        network.classifier.bias.data = torch.randn(4, generator=rng, dtype=dtype)
        network.classifier.scales.data = torch.rand(4, generator=rng, dtype=dtype) + 0.5
        data = torch.randn(24, *shape, generator=rng, dtype=dtype)
        data = data + LABELS.view(24, *[1] * len(shape)) / 4
        held_out = torch.randn(8, *shape, generator=rng, dtype=dtype)
        return training_run(
            dataclasses.replace(plan, whole=whole, bank=not whole),
            network,
            data,
            held_out=lambda batch: held_out[batch.rows],
            held_out_labels=HELD_OUT,
        )

    return make


@pytest.fixture
def batch() -> Batch:
    """Twelve rows with every class among them."""
    return Batch(0, 0, 0, torch.tensor([0, 1, 2, 3, 4, 12, 13, 14, 18, 19, 22, 23]))
