"""State of a training run: weights, buffers, optimiser, snapshots, and the method's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from ltcli.engine.optimizers import Optimizer, home_of_numbers


class Stateful(Protocol):
    """State of a method that changes during training, such as running statistics."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """State as name to tensor."""

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``tensors`` returned, perhaps on another device."""


@dataclass(frozen=True)
class ModuleState:
    """State of a module that a method trains beside the network: its parameters."""

    module: nn.Module

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every parameter by its name."""
        return {name: p.detach() for name, p in self.module.named_parameters()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``tensors`` returned."""
        # In place: the optimiser holds these very parameters.
        for name, parameter in self.module.named_parameters():
            parameter.data.copy_(tensors[name])


@dataclass(frozen=True)
class Snapshots:
    """Copies of a module's state after each epoch from ``first`` on, counted from 0."""

    module: nn.Module
    first: int
    _by_epoch: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict, init=False)

    def take(self, epoch: int) -> None:
        """Copy the state after an epoch, if it is one of those to keep."""
        if epoch >= self.first:
            # On the CPU, as dozens of copies would take the memory that training needs.
            state = self.module.state_dict()
            self._by_epoch[epoch] = {n: tensor.to("cpu", copy=True) for n, tensor in state.items()}

    def restore(self, stacked: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``stacked`` returned without a prefix."""
        self._by_epoch.clear()
        states = {name.removeprefix("snapshots."): t for name, t in stacked.items()}
        for i, epoch in enumerate(states.pop("epoch").tolist() if states else []):
            self._by_epoch[epoch] = {name: tensor[i] for name, tensor in states.items()}

    def stacked(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Copies for a checkpoint or model artifact; none if there are none.

        ``snapshots.epoch`` is int64 [E] and ``snapshots.PREFIX NAME`` [E, ...]: few tensors for any
        number of epochs.
        """
        if not self._by_epoch:
            return {}
        states = list(self._by_epoch.values())
        stacked = {
            f"snapshots.{prefix}{name}": torch.stack([state[name] for state in states])
            for name in states[0]
        }
        return {"snapshots.epoch": torch.tensor(list(self._by_epoch)), **stacked}


@dataclass(frozen=True)
class TrainingState:
    """State of a run as flat tensors for a checkpoint. It keeps references and copies nothing."""

    module: nn.Module
    optimizer: Optimizer
    snapshots: Snapshots
    method: Stateful | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """State as name to tensor."""
        flat = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for index, parameter in enumerate(self.optimizer.parameters()):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                flat[f"optimizer.{index}.{name}"] = value
        if self.method is not None:
            flat |= {f"method.{name}": tensor for name, tensor in self.method.tensors().items()}
        return flat | self.snapshots.stacked()

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``tensors`` returned."""
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            group, name = key.split(".", 1)
            groups.setdefault(group, {})[name] = tensor
        self.module.load_state_dict(groups["module"])
        trained = self.optimizer.parameters()
        for key, tensor in groups.get("optimizer", {}).items():
            index, name = key.split(".", 1)
            parameter = trained[int(index)]
            if tensor.dim():
                # In the memory layout of the weights: the order of additions decides the bits.
                tensor = torch.empty_like(parameter).copy_(tensor)
            else:
                tensor = tensor.to(home_of_numbers(parameter))
            self.optimizer.state.setdefault(parameter, {})[name] = tensor
        if self.method is not None:
            self.method.restore(groups.get("method", {}))
        self.snapshots.restore(groups.get("snapshots", {}))
