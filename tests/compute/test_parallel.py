import multiprocessing
import os
import socket
import traceback
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ltcli.compute import parallel
from ltcli.compute.device import autocast
from ltcli.compute.parallel import World, connected
from ltcli.data.batches import Augmentation, Batch
from ltcli.data.files import FileBatches, ImageFiles
from ltcli.engine.optimizers import SGD
from ltcli.models import small_images, timm_networks
from ltcli.models.network import build_network

CPU = torch.device("cpu")


def together(size, function, folder):
    """Run a function of a world in so many processes, and return what each one returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def work(rank):
        # Threads of the parent are not there after a fork.
        torch.set_num_threads(1)
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
        try:
            with connected(rank, size, CPU) as world:
                result = function(world)
        except BaseException:
            result = traceback.format_exc()
        torch.save(result, folder / f"{rank}.pt")
        os._exit(0)

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]
    for result in results:
        assert not isinstance(result, str), result
    return results


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 128])
def test_shares_are_all_rows_once_and_nearly_equal(size, count):
    shares = [World(rank, size).rows(count) for rank in range(size)]
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_one_process_is_left_alone(rng):
    x, module = torch.randn(4, 3, generator=rng), nn.Linear(3, 2)
    with connected(0, 1, CPU) as world:
        assert world.shared(module) is module
        assert world.synchronised(module) is module
        assert world.gathered(x, 4) is x
        assert world.agreed(True)
        assert not world.agreed(False)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_process_has_all_rows_and_the_gradient_of_its_own(tmp_path, rng, count):
    x = torch.randn(count, 3, generator=rng)

    def work(world):
        own = x[world.rows(count)].requires_grad_()
        joined = world.gathered(own, count)
        (joined**2).sum().backward()
        return joined.detach(), own.grad, world.rank

    for joined, gradient, rank in together(2, work, tmp_path):
        assert joined.equal(x)
        assert gradient.equal(2 * x[World(rank, 2).rows(count)])


def stepped(world, record, images, labels, steps):
    """Train a network with batch-norms, and return its state and the last gradients."""
    network = build_network(record, 3, seed=0).to(images.dtype)
    network.classifier.train_only("weight", "bias")
    backbone = world.synchronised(network.backbone)
    network.train()
    optimizer = SGD(network.parameters(), lr=0.1, momentum=0.9)
    features = world.shared(backbone)
    for _ in range(steps):
        optimizer.zero_grad()
        logits = network.classifier(features(images))
        # Weights that differ by rows, normalised over the batch: no mean of means gives this.
        weights = torch.arange(1, len(labels) + 1, dtype=images.dtype)
        values = nn.functional.cross_entropy(logits, labels, reduction="none")
        ((weights * values).sum() / weights.sum()).backward()
        optimizer.step()
    moving = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    return {**network.state_dict(), **{f"grad.{name}": p.grad for name, p in moving}}


SPLIT = SimpleNamespace(info={"store": "images", "image_size": [8, 8]})


@pytest.mark.parametrize("count", [7, 2])
@pytest.mark.parametrize(
    "record",
    [
        small_images.backbone("resnet20"),
        # Its batch-norms have an activation in them.
        timm_networks.SOURCE.resolve("test_efficientnet", "", SPLIT),
    ],
    ids=str,
)
def test_steps_of_two_processes_are_those_of_one(tmp_path, rng, record, count):
    images = torch.randn(count, 3, 8, 8, generator=rng, dtype=torch.float64)
    if record.source == "timm":
        images = torch.randn(count, 3, 64, 64, generator=rng, dtype=torch.float64)
    labels = torch.arange(count) % 3
    alone = stepped(World(), record, images, labels, 3)
    both = together(2, lambda world: stepped(world, record, images, labels, 3), tmp_path)
    for name, expected in alone.items():
        first, second = (result[name] for result in both)
        assert first.equal(second), name
        torch.testing.assert_close(first, expected, rtol=1e-9, atol=1e-9, msg=name)


def test_a_module_used_twice_before_a_step_has_both_gradients(tmp_path, rng):
    x, y = torch.randn(5, 3, generator=rng), torch.randn(4, 3, generator=rng)

    def gradient(world):
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        features = world.shared(module)
        (features(x).square().sum() + features(y).pow(3).sum()).backward()
        return module.weight.grad

    expected = gradient(World())
    for made in together(2, gradient, tmp_path):
        torch.testing.assert_close(made, expected)


def test_without_gradients_a_shared_module_gives_all_rows(tmp_path, rng):
    x = torch.randn(5, 3, 8, 8, generator=rng)

    def features(world):
        network = (
            build_network(small_images.backbone("resnet20"), 3, seed=0).eval().requires_grad_(False)
        )
        with torch.no_grad():
            return world.shared(network.backbone)(x)

    expected = features(World())
    for made in together(2, features, tmp_path):
        torch.testing.assert_close(made, expected)


def test_a_module_without_parameters_is_shared_too(tmp_path, rng):
    # As the backbone of embeddings.
    x = torch.randn(5, 3, generator=rng)
    module = nn.Flatten()
    results = together(2, lambda world: world.shared(world.synchronised(module))(x), tmp_path)
    assert all(made.equal(x) for made in results)


def test_a_share_without_rows_is_computed_in_float32(tmp_path, rng):
    # In bfloat16, torch's batch-norm on CUDA would send what the others do not expect.
    x = torch.randn(1, 3, generator=rng)

    def work(world):
        torch.manual_seed(0)
        module, seen = nn.Linear(3, 2), []
        module.register_forward_hook(lambda _module, _x, made: seen.append(str(made.dtype)))
        with torch.no_grad(), autocast(CPU, torch.bfloat16):
            return world.joint(module, x), seen

    (joined, first), (other, second) = together(2, work, tmp_path)
    assert (first, second) == (["torch.float32"], ["torch.bfloat16"])
    assert joined.equal(other)
    assert joined.shape == (1, 2)


def test_processes_decode_their_rows_of_a_batch_and_have_all(tmp_path):
    rng = np.random.default_rng(0)
    paths = [f"{i}.png" for i in range(7)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(tmp_path / path)
    sizes = [(tmp_path / path).stat().st_size for path in paths]
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])

    backbone = small_images.backbone("resnet20", image_size=(8, 8), in_files=True)

    def batches(world):
        varied = Augmentation(least_area=0.3, seed=1)
        files = ImageFiles(tmp_path, paths, sizes, backbone, varied)
        made = FileBatches(files, (0.5,) * 3, (0.2,) * 3, CPU, 0, world)
        made.read_ahead(lambda _epoch: order, 3)
        parts = [Batch(0, first // 3, first, order[first : first + 3]) for first in (0, 3, 6)]
        # The last one is no batch of the order.
        other = Batch(0, 0, 20, torch.tensor([1, 1, 5]), "augment second")
        return [made.drawn(batch) for batch in (*parts, other)]

    alone = batches(World())
    for made in together(2, batches, tmp_path):
        for one, other in zip(made, alone, strict=True):
            assert one.equal(other)


def test_a_gradient_of_a_gradient_is_refused_rather_than_wrong(tmp_path, rng):
    x = torch.randn(4, 3, generator=rng)

    def work(world):
        module = nn.Linear(3, 2)
        value = world.shared(module)(x).square().sum()
        first = torch.autograd.grad(value, module.weight, create_graph=True)[0]
        try:
            first.square().sum().backward()
        except RuntimeError as error:
            return "once_differentiable" in str(error)
        return False

    assert together(2, work, tmp_path) == [True, True]


@pytest.mark.parametrize(("fails", "parts"), [(True, 0), (False, 1)])
def test_a_process_with_a_gpu_that_fails_does_not_wait_for_the_others(monkeypatch, fails, parts):
    # NCCL's end is a meeting of all processes, where the others may wait for this one elsewhere.
    parted = []
    store = SimpleNamespace(add=lambda *_: 1)
    monkeypatch.setattr(parallel, "_store", lambda *_: store)
    monkeypatch.setattr(parallel, "PrefixStore", lambda *_: store)
    monkeypatch.setattr(parallel, "here", World)
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(parallel.dist, "destroy_process_group", lambda: parted.append(True))
    with suppress(ValueError), connected(0, 2, torch.device("cuda")):
        if fails:
            raise ValueError("a damaged file")
    assert len(parted) == parts
