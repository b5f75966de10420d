import torch
from torch import nn

from ltcli.engine.optimizers import SGD, Adam
from ltcli.engine.state import Snapshots, TrainingState


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def trained(module, optimizer, steps):
    for step in range(steps):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


def test_only_the_last_epochs_are_kept_in_order_and_as_copies():
    net = module()
    snapshots = Snapshots(net, 3)
    for epoch in range(5):
        net[0].weight.data.fill_(epoch)
        snapshots.take(epoch)
    net[0].weight.data.fill_(-1)
    stacked = snapshots.stacked("part.")
    assert stacked["snapshots.epoch"].tolist() == [3, 4]
    assert stacked["snapshots.part.0.weight"].shape == (2, 4, 3)
    assert stacked["snapshots.part.0.weight"][:, 0, 0].tolist() == [3.0, 4.0]
    assert "snapshots.part.1.running_mean" in stacked


def test_before_the_last_epochs_there_is_nothing():
    snapshots = Snapshots(module(), 1)
    snapshots.take(0)
    assert snapshots.stacked("") == {}
    snapshots.restore({})
    assert snapshots.stacked() == {}


def test_snapshots_come_back_in_the_order_of_numbers_not_of_text():
    net = module()
    snapshots, other = Snapshots(net, 9), Snapshots(net, 9)
    for epoch in (9, 10, 11):
        snapshots.take(epoch)
    stacked = snapshots.stacked()
    other.restore({name: stacked[name] for name in sorted(stacked)})
    assert other.stacked("")["snapshots.epoch"].tolist() == [9, 10, 11]
    again = other.stacked()
    assert all(again[name].equal(tensor) for name, tensor in stacked.items())
    other.take(12)
    assert other.stacked("")["snapshots.epoch"].tolist() == [9, 10, 11, 12]


def test_more_epochs_are_no_more_tensors_of_a_checkpoint():
    net = module()
    optimizer = SGD(net.parameters(), lr=0.1)
    snapshots, numbers = Snapshots(net, 0), []
    for epoch in range(3):
        snapshots.take(epoch)
        numbers.append(len(TrainingState(net, optimizer, snapshots).tensors()))
    assert numbers[0] == numbers[2] == 2 * len(net.state_dict()) + 1


def test_every_kind_of_optimiser_state_survives():
    for make in (
        lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: Adam(p, lr=0.1),
        lambda p: SGD(p, lr=0.1),
    ):
        whole = module()
        optimizer = make(whole.parameters())
        trained(whole, optimizer, 3)
        state = TrainingState(whole, optimizer, Snapshots(whole, 0))
        saved = {name: tensor.detach().clone() for name, tensor in state.tensors().items()}
        copy = module()
        other = make(copy.parameters())
        TrainingState(copy, other, Snapshots(copy, 0)).restore(saved)
        trained(whole, optimizer, 3)
        trained(copy, other, 3)
        expected = whole.state_dict()
        assert all(value.equal(expected[name]) for name, value in copy.state_dict().items())


def test_what_comes_back_has_the_memory_layout_of_the_weights():
    whole = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = SGD(whole.parameters(), lr=0.1, momentum=0.9)
    whole(torch.ones(2, 3, 5, 5)).square().mean().backward()
    optimizer.step()
    state = TrainingState(whole, optimizer, Snapshots(whole, 0))
    saved = {name: tensor.detach().clone().contiguous() for name, tensor in state.tensors().items()}
    state.restore(saved)
    momentum = optimizer.state[whole.weight]["momentum_buffer"]
    assert momentum.equal(saved["optimizer.0.momentum_buffer"])
    assert momentum.stride() == whole.weight.stride() != saved["module.weight"].stride()
