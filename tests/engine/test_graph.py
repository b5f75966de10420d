"""A recorded step against the same step taken anew.

On a CPU nothing can be recorded. There the work is done again on the batch of the record, of which
only rows, draws and learning rates are filled in: whatever else a step reads would be old.
"""

import signal

import pytest
import torch
from torch.nn import functional as F

from ltcli.core.errors import StopError
from ltcli.data.batches import Batch
from ltcli.data.samplers import instance_balanced
from ltcli.engine import optimizers
from ltcli.engine.fit import fit
from ltcli.engine.graph import Recorded, cuda_graph, own_stream
from ltcli.engine.optimizers import SGD, Adam
from ltcli.engine.state import Snapshots, TrainingState
from ltcli.engine.steps import plain_step
from ltcli.models.classifier import Classifier
from tests.engine.test_fit import BATCH, COUNT, STEPS, Memory, Run, same

CPU = torch.device("cpu")
# A power of two, and half of it in the second epoch: exact in the float32 of the device, too.
LR = 2**-4


@pytest.fixture
def fused(monkeypatch):
    """The optimisers of a GPU, which read the learning rate where the parameters are."""
    monkeypatch.setattr(optimizers, "_FUSED", ("cpu", "cuda"))


class Tape:
    """What was recorded: how often, and on which batches."""

    def __init__(self, run, *, draws=True, phase=lambda epoch: 0):
        self.run, self.phase, self.records, self.given = run, phase, 0, []
        self.draws = run.images.draws if draws else None

    def __call__(self, work):
        def spied(batch):
            self.given.append(batch)
            work(batch)

        return Recorded(spied, self.run.optimizer, BATCH, self.draws, self.phase, self.repeating)

    def repeating(self, work):
        self.records += 1
        return work


def test_a_recorded_step_on_images_equals_the_step(fused):
    plain, recorded = Run(lr=LR), Run(lr=LR)
    tape = Tape(recorded)
    losses = [epoch.loss for epoch in plain.fit(2, plain.step)]
    assert [epoch.loss for epoch in recorded.fit(2, recorded.step, record=tape)] == losses
    assert same(recorded.weights(), plain.weights())
    assert tape.records == 1


class Bank:
    """A classifier on features, and everything that its training needs."""

    def __init__(self, optimizer, device=CPU):
        rng = torch.Generator().manual_seed(0)
        features, labels = torch.randn(COUNT, 5, generator=rng), torch.arange(COUNT) % 3
        features, labels = features.to(device), labels.to(device)
        torch.manual_seed(0)
        self.network = Classifier(5, 3).to(device)
        moving = [self.network.weight, self.network.bias]
        self.optimizer = (
            SGD(moving, lr=LR, momentum=0.9) if optimizer == "sgd" else Adam(moving, lr=LR)
        )
        self.step = plain_step(
            self.network,
            self.optimizer,
            lambda z, y, _batch: F.cross_entropy(z, y, reduction="none"),
            lambda values, _labels, _batch, _shares=None: values.mean(),
            lambda batch: features[batch.rows],
            labels,
            dtype=torch.float32,
        )

    def trained(self, record=None):
        state = TrainingState(self.network, self.optimizer, Snapshots(self.network, 9))
        training = fit(
            self.step,
            lambda epoch: instance_balanced(COUNT, seed=0, epoch=epoch),
            lambda epoch: LR / (epoch + 1),
            state,
            epochs=2,
            batch_size=BATCH,
            seed=0,
            context=Run().context,
            record=record,
        )
        losses = [epoch.loss for epoch in training]
        return losses, self.network.weight.detach().clone()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_recorded_step_on_a_bank_equals_the_step(fused, optimizer):
    losses, weight = Bank(optimizer).trained()
    bank = Bank(optimizer)
    tape = Tape(bank, draws=False)
    again, recorded = bank.trained(tape)
    assert again == losses
    assert recorded.equal(weight)
    assert tape.records == 1


@pytest.mark.parametrize("place", [(0, 2), (0, 4), (1, 1), (1, STEPS - 1)], ids=str)
def test_a_recorded_run_goes_on_within_an_epoch(fused, place):
    whole, memory = Run(lr=LR), Memory()
    list(whole.fit(2, whole.step))
    stopped, rest = Run(memory, lr=LR), Run(memory, lr=LR)
    taken = 0

    def record(work):
        step = Tape(stopped)(work)

        def counted(batch):
            nonlocal taken
            step(batch)
            taken += 1
            if taken == place[0] * STEPS + place[1] + 1:
                stopped.context.stop_signal = signal.SIGTERM

        return counted

    with pytest.raises(StopError):
        list(stopped.fit(2, stopped.step, record=record))
    assert memory.saved[1] == {"epoch": place[0], "step": place[1] + 1}
    list(rest.fit(2, rest.step, record=Tape(rest)))
    assert same(rest.weights(), whole.weights())


def test_first_steps_and_batches_of_another_size_are_not_repeated(fused):
    run = Run(lr=LR)
    tape = Tape(run)
    list(run.fit(2, run.step, record=tape))
    repeated = [batch for batch in tape.given if batch.draws is not None]
    assert [batch.step for batch in tape.given if batch.draws is None] == [0, 1, 2, 5, 5]
    assert len(repeated) == 2 * STEPS - 5
    # One batch, whose tensors stay where they are.
    assert all(batch is repeated[0] for batch in repeated)
    assert (repeated[0].epoch, repeated[0].step) == (0, 3)


def test_a_step_is_recorded_anew_where_its_phase_changes(fused):
    run = Run(lr=LR)
    tape = Tape(run, phase=lambda epoch: epoch >= 2)
    list(run.fit(4, run.step, record=tape))
    repeated = [batch.epoch for batch in tape.given if batch.draws is not None]
    assert tape.records == 2
    assert repeated == [0] * 2 + [0] * 5 + [2] * 10


def test_this_file_notices_a_step_that_reads_the_number_of_its_batch(fused):
    def numbered(run):
        return lambda batch: run.step(batch) * 0 + batch.step

    plain, recorded = Run(lr=LR), Run(lr=LR)
    (expected,) = plain.fit(1, numbered(plain))
    (found,) = recorded.fit(1, numbered(recorded), record=Tape(recorded))
    # The number of the recorded step, 3, stands in place of the next one's, 4.
    assert found.loss == pytest.approx(expected.loss - BATCH / COUNT)


def test_each_group_has_the_rate_that_the_loop_has_set(fused):
    weight, bias = (torch.zeros(2, requires_grad=True) for _ in range(2))
    optimizer = SGD([{"params": [weight]}, {"params": [bias], "rate": 0.5}], lr=1.0)

    def work(_batch):
        optimizer.zero_grad()
        torch.autograd.backward((weight + bias).sum())
        optimizer.step()

    step = Recorded(work, optimizer, BATCH, None, lambda _epoch: 0, lambda work: work)
    for number, rate in enumerate([1.0, 1.0, 1.0, 0.25, 0.25, 0.5]):
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)
        step(Batch(number, 0, 0, torch.arange(BATCH)))
    assert weight.tolist() == [-4.0, -4.0]
    assert bias.tolist() == [-2.0, -2.0]


def record_on_gpu(run, draws=None):
    return lambda work: Recorded(
        work, run.optimizer, BATCH, draws, lambda epoch: epoch >= 2, cuda_graph
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_on_images_equals_the_step(dtype):
    device = torch.device("cuda")
    plain, recorded = (Run(lr=0.01, device=device, dtype=dtype) for _ in range(2))
    losses = [epoch.loss for epoch in plain.fit(3, plain.step)]
    with own_stream(device):
        training = recorded.fit(
            3, recorded.step, record=record_on_gpu(recorded, recorded.images.draws)
        )
        again = [epoch.loss for epoch in training]
    within = 1e-3 if dtype == torch.float32 else 0.05
    assert again == pytest.approx(losses, rel=within)
    found = recorded.weights()
    for name, tensor in plain.weights().items():
        torch.testing.assert_close(found[name], tensor, rtol=within, atol=within)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_cuda_graph_on_a_bank_equals_the_step(optimizer):
    device = torch.device("cuda")
    losses, weight = Bank(optimizer, device).trained()
    bank = Bank(optimizer, device)
    with own_stream(device):
        again, recorded = bank.trained(record_on_gpu(bank))
    assert again == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(recorded, weight, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_plain_step_never_waits_for_the_gpu():
    run = Run(device=torch.device("cuda"))
    rows = torch.arange(BATCH, device="cuda")
    run.step(Batch(0, 0, 0, rows))
    run.images.draws(Batch(0, 1, 0, rows))
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.step(Batch(0, 1, 0, rows))
    finally:
        torch.cuda.set_sync_debug_mode("default")
