import math
import signal

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ltcli.core.context import Context
from ltcli.core.errors import ArtifactError, NumericalError, StopError
from ltcli.data.batches import Augmentation, ImageBatches
from ltcli.data.digits import load_digits
from ltcli.data.samplers import instance_balanced
from ltcli.engine import fit as module
from ltcli.engine import optimizers
from ltcli.engine.fit import fit, train
from ltcli.engine.optimizers import SGD
from ltcli.engine.state import Snapshots, TrainingState
from ltcli.engine.steps import Steps, plain_step, weighted_mean
from ltcli.models import small_images
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network, build_network
from ltcli.models.resnet import ResNet

CPU = torch.device("cpu")
COUNT, BATCH = 44, 8
STEPS = 6  # the last one has 4 images


class Memory:
    """A checkpoint that is kept in memory."""

    def __init__(self):
        self.saved = None

    def load(self):
        if self.saved is None:
            return None
        state, position = self.saved
        return {name: tensor.clone() for name, tensor in state.items()}, dict(position)

    def save(self, state, position):
        copies = {name: tensor.detach().clone() for name, tensor in state.items()}
        self.saved = copies, dict(position)


class Run:
    """A tiny network and everything that its training needs, always the same."""

    def __init__(self, memory=None, first=9, lr=0.05, device=CPU, dtype=torch.float32):
        pool = load_digits().train
        self.labels = pool.labels[:COUNT].to(device)
        torch.manual_seed(0)
        backbone = ResNet((8, 16), (1, 1), projection=False)
        self.network = Network(backbone, Classifier(16, 10)).to(device)
        self.network = self.network.to(memory_format=torch.channels_last)
        self.optimizer = SGD(self.network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
        self.images = ImageBatches(
            pool.data[:COUNT], (0.3,) * 3, (0.4,) * 3, device, Augmentation(padding=1)
        )
        self.step = plain_step(
            self.network,
            self.optimizer,
            lambda z, y, _batch: F.cross_entropy(z, y, reduction="none"),
            lambda values, _labels, _batch, _shares=None: values.mean(),
            self.images.drawn,
            self.labels,
            dtype=dtype,
        )
        self.snapshots = Snapshots(self.network, first)
        self.records = []
        self.context = Context("pretrain", "cpu", memory or Memory(), self.records.append)
        self.lr = lr
        self.batches = []

    def spied(self, batch):
        self.batches.append(batch)
        return self.step(batch)

    def fit(self, epochs, step=None, seed=0, record=None):
        state = TrainingState(self.network, self.optimizer, self.snapshots)
        training = fit(
            step or self.spied,
            lambda epoch: instance_balanced(COUNT, seed=0, epoch=epoch),
            lambda epoch: self.lr / (epoch + 1),
            state,
            epochs=epochs,
            batch_size=BATCH,
            seed=seed,
            context=self.context,
            record=record,
        )
        for epoch in training:
            self.snapshots.take(epoch.epoch)
            yield epoch

    def train(self, epochs, keep=0, step=None, **steps):
        return train(
            self.network,
            self.optimizer,
            Steps(step or self.spied, **steps),
            lambda epoch: instance_balanced(COUNT, seed=0, epoch=epoch),
            lambda epoch: self.lr / (epoch + 1),
            epochs=epochs,
            batch_size=BATCH,
            seed=0,
            context=self.context,
            keep=keep,
        )

    def weights(self):
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_the_loss_falls():
    losses = [epoch.loss for epoch in Run().fit(8)]
    assert losses[-1] < math.log(10) < losses[0]


def test_every_epoch_draws_every_row_once_in_its_own_order():
    run = Run()
    list(run.fit(2))
    for epoch in (0, 1):
        batches = [batch for batch in run.batches if batch.epoch == epoch]
        assert [batch.step for batch in batches] == list(range(STEPS))
        assert [batch.first for batch in batches] == [0, 8, 16, 24, 32, 40]
        assert [len(batch.rows) for batch in batches] == [8, 8, 8, 8, 8, 4]
        rows = torch.cat([batch.rows for batch in batches])
        assert rows.equal(instance_balanced(COUNT, seed=0, epoch=epoch))


def test_each_epoch_has_its_learning_rate_and_the_mean_loss_of_its_samples():
    run, losses = Run(), []

    def step(batch):
        assert run.optimizer.param_groups[0]["lr"] == 0.05 / (batch.epoch + 1)
        value = run.step(batch)
        losses.append((value.item(), len(batch.rows)))
        return value

    for number, epoch in enumerate(run.fit(3, step)):
        assert epoch.epoch == number
        assert epoch.learning_rate == 0.05 / (number + 1)
        mean = sum(value * size for value, size in losses) / COUNT
        assert epoch.loss == pytest.approx(mean, rel=1e-12)
        assert epoch.seconds > 0
        assert epoch.samples_per_second > 0
        losses.clear()


def test_the_caller_can_stop():
    run = Run()
    for epoch in run.fit(100):
        if epoch.epoch == 1:
            break
    assert len(run.batches) == 2 * STEPS
    assert not run.context.resumable


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_first_such_step(bad):
    run = Run()

    def step(batch):
        broken = (batch.epoch, batch.step) in ((1, 2), (1, 4))
        return torch.tensor(bad if broken else 1.0)

    with pytest.raises(NumericalError) as caught:
        list(run.fit(3, step))
    rule = "loss must be finite, got NaN or infinity in epoch 1, step 2"
    assert str(caught.value) == f"pretrain: {rule}"
    assert caught.value.hint == "lower --lr, or check the inputs for extreme values"


def test_a_loss_that_is_not_finite_is_never_saved():
    run = Run()

    def step(batch):
        if batch.step == 3:
            run.context.stop_signal = signal.SIGTERM
        return torch.tensor(float("nan") if batch.step == 1 else 1.0)

    with pytest.raises(NumericalError):
        list(run.fit(1, step))
    assert run.context.checkpoint.saved is None


PLACES = [(0, 0), (1, 2), (1, STEPS - 1), (2, 0), (2, STEPS - 1)]


def stopped(memory, place, first=9):
    """Train until a signal comes in a step, and return the epochs that were yielded."""
    run, done = Run(memory, first), []

    def step(batch):
        if (batch.epoch, batch.step) == place:
            run.context.stop_signal = signal.SIGTERM
        return run.step(batch)

    with pytest.raises(StopError) as caught:
        done.extend(run.fit(3, step))
    assert caught.value.exit_code == 143
    return done


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_run_that_goes_on_is_bit_identical_to_one_that_was_never_stopped(place):
    whole = Run(first=1)
    losses = {epoch.epoch: epoch.loss for epoch in whole.fit(3)}
    memory = Memory()
    stopped(memory, place, first=1)
    assert memory.saved[1] == {"epoch": place[0], "step": place[1] + 1}
    rest = Run(memory, first=1)
    epochs = list(rest.fit(3))
    assert [epoch.epoch for epoch in epochs] == list(range(place[0], 3))
    assert all(epoch.loss == losses[epoch.epoch] for epoch in epochs)
    assert all(epoch.samples_per_second >= 0 for epoch in epochs)
    assert same(rest.weights(), whole.weights())
    assert same(rest.snapshots.stacked(""), whole.snapshots.stacked(""))
    first = 3 * STEPS - len(rest.batches)
    assert first == place[0] * STEPS + place[1] + 1


def test_a_run_can_be_stopped_again_and_again():
    whole, memory = Run(), Memory()
    list(whole.fit(3))
    for place in PLACES[:4]:
        stopped(memory, place)
    rest = Run(memory)
    list(rest.fit(3))
    assert same(rest.weights(), whole.weights())


def test_a_run_of_a_device_without_float64_goes_on():
    memory, whole = Memory(), list(Run().fit(2))
    stopped(memory, (1, 2))
    tensors = memory.saved[0]
    assert tensors["meters"].dtype == torch.float64
    tensors["meters"] = tensors["meters"].float()
    (last,) = Run(memory).fit(2)
    assert last.loss == pytest.approx(whole[1].loss, rel=1e-6)


@pytest.mark.parametrize("seconds", [-1.0, 1e9], ids=["saved after each step", "never saved"])
def test_a_crash_costs_what_came_after_the_last_checkpoint_and_no_more(monkeypatch, seconds):
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", seconds)
    whole, memory = Run(first=0), Memory()
    list(whole.fit(3))
    run = Run(memory, first=0)

    def step(batch):
        if (batch.epoch, batch.step) == (1, 3):
            raise RuntimeError("crash")
        return run.step(batch)

    with pytest.raises(RuntimeError, match="crash"):
        list(run.fit(3, step))
    rest = Run(memory, first=0)
    list(rest.fit(3))
    assert len(rest.batches) == (2 * STEPS - 3 if seconds < 0 else 3 * STEPS)
    assert same(rest.weights(), whole.weights())
    assert same(rest.snapshots.stacked(""), whole.snapshots.stacked(""))


def test_what_layers_draw_depends_on_the_seed_and_the_step_alone():
    def drawn(seed, position=None):
        memory, made = Memory(), {}

        def step(batch):
            made[batch.epoch, batch.step] = torch.rand(2).tolist()
            return run.step(batch)

        if position is not None:
            stopped(memory, position)
        run = Run(memory)
        torch.rand(3)
        list(run.fit(3, step, seed))
        return made

    whole = drawn(0)
    assert len({tuple(values) for values in whole.values()}) == 3 * STEPS
    rest = drawn(0, (1, 2))
    assert len(rest) == 2 * STEPS - 3
    assert all(whole[place] == values for place, values in rest.items())
    assert not any(whole[place] == values for place, values in drawn(1).items())


class Counter:
    """State of a method: how many steps it did."""

    def __init__(self, step):
        self.count, self._step = torch.zeros(1, dtype=torch.int64), step

    def step(self, batch):
        self.count += 1
        return self._step(batch)

    def tensors(self):
        return {"count": self.count}

    def restore(self, tensors):
        self.count = tensors["count"]


def test_training_to_the_end_is_the_loop_to_its_end():
    loop, run = Run(first=1), Run()
    epochs = list(loop.fit(3))
    snapshots, state = run.train(3, keep=2)
    assert same(run.weights(), loop.weights())
    assert same(snapshots.stacked("net."), loop.snapshots.stacked("net."))
    assert snapshots.stacked()["snapshots.epoch"].tolist() == [1, 2]
    assert state == {}
    first, *others = run.records
    assert first == {"event": "training", "device": "cpu", "precision": "float32"}
    assert [record["event"] for record in others] == ["epoch"] * 3
    for name in ("epoch", "loss", "learning_rate"):
        assert [record[name] for record in others] == [getattr(epoch, name) for epoch in epochs]


def test_nothing_is_kept_unless_it_is_asked_for():
    snapshots, _ = Run().train(2)
    assert snapshots.stacked() == {}


def test_training_for_no_epochs_leaves_the_network_as_it_is():
    run, before = Run(), Run().weights()
    snapshots, _ = run.train(0, keep=2)
    assert same(run.weights(), before)
    assert snapshots.stacked() == {}
    assert run.batches == []


def test_steps_may_have_an_order_of_their_own():
    run = Run()
    run.train(2, order=lambda epoch: torch.arange(epoch, epoch + 20))
    for epoch in (0, 1):
        rows = [batch.rows for batch in run.batches if batch.epoch == epoch]
        assert torch.cat(rows).equal(torch.arange(epoch, epoch + 20))


def test_figures_and_state_of_a_method_are_reported_and_returned():
    run = Run()
    counter = Counter(run.step)
    facts = lambda: {"steps_done": float(counter.count)}  # noqa: E731
    _, state = run.train(2, step=counter.step, state=counter, facts=facts)
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        "method.count": [2 * STEPS]
    }
    assert [record["steps_done"] for record in run.records[1:]] == [STEPS, 2 * STEPS]


def test_a_run_to_its_end_goes_on_with_the_state_of_its_method_and_what_it_kept():
    whole, memory = Run(), Memory()
    snapshots, _ = whole.train(3, keep=3)
    first = Run(memory)
    counter = Counter(first.step)

    def step(batch):
        if (batch.epoch, batch.step) == (1, 2):
            first.context.stop_signal = signal.SIGTERM
        return counter.step(batch)

    with pytest.raises(StopError):
        first.train(3, keep=3, step=step, state=counter)
    rest = Run(memory)
    counter = Counter(rest.step)
    kept, state = rest.train(3, keep=3, step=counter.step, state=counter)
    assert state["method.count"].tolist() == [3 * STEPS]
    assert same(rest.weights(), whole.weights())
    assert same(kept.stacked(), snapshots.stacked())


# torch 2.15.0, float32 on a CPU.
# fmt: off
GOLDEN = [
    2.535379, 2.912530, 2.834870, 2.126602, 2.893956, 3.428178, 2.736364,
    2.413139, 2.547523, 2.565154, 2.214066, 2.607725, 2.460063, 2.213055,
    2.322530, 2.189848, 2.895143, 2.540356, 2.033805, 2.108522,
]
# fmt: on


def test_twenty_steps_give_the_losses_they_always_gave():
    run, losses = Run(lr=0.01), []

    def step(batch):
        value = run.step(batch)
        losses.append(value.item())
        return value

    list(run.fit(4, step))
    assert losses[:20] == pytest.approx(GOLDEN, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_falls_on_a_gpu(dtype):
    run = Run(device=torch.device("cuda"), dtype=dtype)
    losses = [epoch.loss for epoch in run.fit(8)]
    assert losses[-1] < math.log(10) < losses[0]
    assert next(run.network.parameters()).is_cuda


@pytest.mark.parametrize(
    ("position", "rule"),
    [
        ({"epoch": 10**6, "step": 0}, "at an epoch in 0 ... 1, got epoch 1000000, step 0"),
        ({"epoch": 2, "step": 0}, "at an epoch in 0 ... 1, got epoch 2, step 0"),
        ({"epoch": -1, "step": 0}, "at an epoch in 0 ... 1, got epoch -1, step 0"),
        ({"epoch": True, "step": 0}, "at an epoch in 0 ... 1, got epoch True, step 0"),
        ({"epoch": 0, "step": "1"}, "at an epoch in 0 ... 1, got epoch 0, step '1'"),
        ({"step": 0}, "at an epoch in 0 ... 1, got epoch None, step 0"),
        ({"epoch": 1, "step": STEPS + 1}, "at a step in 0 ... 6, got 7"),
    ],
)
def test_a_checkpoint_of_another_place_than_the_run_has_is_refused(position, rule):
    run = Run()
    state = TrainingState(run.network, run.optimizer, run.snapshots)
    run.context.checkpoint.save({**state.tensors(), "meters": torch.zeros(2)}, position)
    with pytest.raises(ArtifactError) as caught:
        list(run.fit(2))
    assert str(caught.value) == f"pretrain: checkpoint must be {rule}"
    assert caught.value.hint == "remove the .resume.safetensors file beside the output"


@pytest.mark.parametrize("change", ["meters", "module.classifier.weight", "optimizer.99.step"])
def test_a_checkpoint_of_other_tensors_is_refused(change):
    run = Run()
    state = TrainingState(run.network, run.optimizer, run.snapshots)
    saved = {**state.tensors(), "meters": torch.zeros(2)} | {change: torch.zeros(3)}
    run.context.checkpoint.save(saved, {"epoch": 0, "step": 0})
    with pytest.raises(ArtifactError) as caught:
        list(run.fit(2))
    assert str(caught.value) == "pretrain: tensors of the checkpoint do not fit this run"


class Launches(TorchDispatchMode):
    """A count of the kernels that a GPU would launch: operations that are no views."""

    # Memory without contents, and other views of it.
    FREE = ("empty", "detach", "slice", "select", "t", "view", "expand", "unsqueeze", "unbind")

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name == "convolution_backward":
            # One for the inputs, one for the weights.
            self.number += 2
        elif name == "_fused_sgd_":
            # 30 tensors fit into one launch.
            self.number += -(-len(args[0]) // 30)
        elif name not in self.FREE:
            self.number += 1
        return func(*args, **(kwargs or {}))


def test_a_plain_step_launches_at_most_400_kernels(monkeypatch, rng):
    monkeypatch.setattr(optimizers, "_FUSED", ("cpu",))
    network = build_network(small_images.backbone("resnet32"), 10, 0).train()
    network = network.to(memory_format=torch.channels_last)
    pixels = torch.randint(256, (16, 32, 32, 3), generator=rng, dtype=torch.uint8)
    images = ImageBatches(pixels, (0.5,) * 3, (0.2,) * 3, CPU, Augmentation(padding=4))
    labels = torch.arange(16) % 10
    optimizer = SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    step = plain_step(
        network,
        optimizer,
        lambda z, y, _batch: F.cross_entropy(z, y, reduction="none"),
        weighted_mean(0.0, "weighted-mean", labels.bincount()),
        images.drawn,
        labels,
        dtype=torch.bfloat16,
    )
    launches = Launches()

    def record(work):
        def counted(batch):
            # The numbers of an epoch are drawn in its first step.
            if batch.step == 0:
                return work(batch)
            with launches:
                return work(batch)

        return counted

    state = TrainingState(network, optimizer, Snapshots(network, 9))
    order = torch.arange(16)
    options = {"epochs": 1, "batch_size": 8, "seed": 0, "context": Run().context, "record": record}
    list(fit(step, lambda _epoch: order, lambda _epoch: 0.1, state, **options))
    assert 300 < launches.number <= 400


@pytest.mark.parametrize(("loss", "near"), [(2.0, False), (2.1, True), (2.5, True), (9.0, True)])
def test_a_run_that_ends_near_chance_says_so(caplog, loss, near):
    run = Run()
    train(
        run.network,
        run.optimizer,
        Steps(lambda _batch: torch.tensor(loss)),
        lambda epoch: instance_balanced(COUNT, seed=0, epoch=epoch),
        lambda _epoch: 0.1,
        epochs=2,
        batch_size=BATCH,
        seed=0,
        context=run.context,
        chance=lambda epoch: 2.3 if epoch == 1 else math.nan,
    )
    said = f"pretrain: the loss ended at {loss:.2f} nats, and a model that has learned nothing has"
    wanted = f"{said} 2.30: train longer (--epochs), or with another --lr"
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [wanted] * near
