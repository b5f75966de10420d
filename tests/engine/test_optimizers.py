"""SGD and Adam give the bits of the classes of torch.optim."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from ltcli.engine import optimizers
from ltcli.engine.optimizers import SGD, Adam
from ltcli.engine.state import Snapshots, TrainingState


def trained(make, steps=4):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    # The second layer has a decay of its own, and the last one never gets a gradient.
    groups = [
        {"params": net[0].parameters()},
        {"params": list(net[1].parameters()), "weight_decay": 0.5},
        {"params": net[2].parameters()},
    ]
    optimizer = make(groups)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.zero_grad()
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        net[1](net[0](x)).square().mean().backward()
        optimizer.step()
    return net, optimizer


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (SGD, torch.optim.SGD, {}),
        (SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (Adam, torch.optim.Adam, {"weight_decay": 0.1}),
    ],
)
def test_weights_and_state_are_those_of_torch(ours, theirs, settings):
    net, optimizer = trained(lambda groups: ours(groups, lr=0.1, **settings))
    twin, other = trained(lambda groups: theirs(groups, lr=0.1, **settings))
    for parameter, expected in zip(net.parameters(), twin.parameters(), strict=True):
        assert parameter.equal(expected)
        slots = {k: v for k, v in other.state[expected].items() if v is not None}
        found = optimizer.state.get(parameter, {})
        assert found.keys() == slots.keys()
        assert all(found[name].equal(value) for name, value in slots.items())
    assert net[2].weight.equal(trained(lambda groups: ours(groups, lr=0.1), 0)[0][2].weight)


def test_an_added_group_takes_the_defaults():
    weight = nn.Parameter(torch.ones(2))
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.5, weight_decay=0.1)
    optimizer.add_param_group({"params": [weight], "weight_decay": 0.0})
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    weight.grad = torch.tensor([1.0, -2.0])
    optimizer.step()
    assert weight.tolist() == [0.5, 2.0]
    optimizer.zero_grad()
    assert weight.grad is None


def test_training_loads_no_compiler():
    code = (
        "import sys, torch\n"
        "from ltcli.engine.optimizers import SGD, Adam\n"
        "for make in (SGD, Adam):\n"
        "    weight = torch.nn.Parameter(torch.ones(2))\n"
        "    optimizer = make([weight], lr=0.1)\n"
        "    optimizer.zero_grad()\n"
        "    weight.sum().backward()\n"
        "    optimizer.step()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_one_launch_for_all_parameters_gives_the_same_weights(monkeypatch, kind):
    settings = {"momentum": 0.9} if kind is SGD else {}
    net, _ = trained(lambda groups: kind(groups, lr=0.1, weight_decay=0.1, **settings))
    monkeypatch.setattr(optimizers, "_FUSED", ("cpu",))
    launched, original = [], getattr(torch, f"_fused_{kind.__name__.lower()}_")
    spied = lambda *args, **more: launched.append(len(args[0])) or original(*args, **more)  # noqa: E731
    monkeypatch.setattr(torch, f"_fused_{kind.__name__.lower()}_", spied)
    twin, _ = trained(lambda groups: kind(groups, lr=0.1, weight_decay=0.1, **settings))
    for parameter, expected in zip(twin.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)
    # Once for each group with gradients, in each of four steps.
    assert launched == [2, 2] * 4


def test_the_number_of_steps_is_where_the_update_reads_it(monkeypatch):
    net, optimizer = trained(lambda groups: Adam(groups, lr=0.1))
    parameter = optimizer.parameters()[0]
    assert optimizers.home_of_numbers(parameter) == torch.device("cpu")
    monkeypatch.setattr(optimizers, "_FUSED", ("meta",))
    there = torch.empty(2, device="meta")
    assert optimizers.home_of_numbers(there) == torch.device("meta")
    # A checkpoint, which lies on the CPU, goes back there, too.
    state = TrainingState(net, optimizer, Snapshots(net, 9))
    saved = {name: tensor.clone() for name, tensor in state.tensors().items()}
    monkeypatch.setattr("ltcli.engine.state.home_of_numbers", lambda _parameter: there.device)
    state.restore(saved)
    assert optimizer.state[parameter]["step"].device == there.device
    assert optimizer.state[parameter]["exp_avg"].device == parameter.device
