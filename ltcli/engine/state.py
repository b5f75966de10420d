"""Everything that training must remember: weights, buffers, optimiser, snapshots, meters."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn


class Stateful(Protocol):
    """State of a method that changes during training, such as running statistics."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the state as name to tensor."""

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what ``tensors`` returned; it may come from another device."""


class ModuleState:
    """The parameters of a module that a method trains beside the network, as its state.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        """Keep the module."""
        self.module = module

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return every parameter by its name."""
        return {name: p.detach() for name, p in self.module.named_parameters()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what ``tensors`` returned."""
        for name, parameter in self.module.named_parameters():
            parameter.data.copy_(tensors[name])


class Snapshots:
    """Copies of a module's state after each of the last epochs of a run.

    Args:
        module: The module.
        first: The first epoch, from 0, to keep.
    """

    def __init__(self, module: nn.Module, first: int) -> None:
        """Start empty."""
        self._module, self._first = module, first
        self._by_epoch: dict[int, dict[str, torch.Tensor]] = {}

    def take(self, epoch: int) -> None:
        """Copy the state after an epoch, if it is one of the last."""
        if epoch < self._first:
            return
        state = self._module.state_dict()
        self._by_epoch[epoch] = {
            name: tensor.to("cpu", copy=True) for name, tensor in state.items()
        }

    def restore(self, stacked: Mapping[str, torch.Tensor]) -> None:
        """Take back what ``stacked`` returned without a prefix."""
        self._by_epoch = {}
        states = {name.removeprefix("snapshots."): t for name, t in stacked.items()}
        for i, epoch in enumerate(states.pop("epoch").tolist() if states else []):
            self._by_epoch[epoch] = {name: tensor[i] for name, tensor in states.items()}

    def stacked(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Return the copies for a checkpoint or a model artifact: few tensors, however many epochs.

        Args:
            prefix: Goes before each name, as ``classifier.``.

        Returns:
            ``snapshots.epoch`` int64 [E] and ``snapshots.PREFIX NAME`` [E, ...]; nothing if none
            were kept.
        """
        if not self._by_epoch:
            return {}
        states = list(self._by_epoch.values())
        stacked = {
            f"snapshots.{prefix}{name}": torch.stack([state[name] for state in states])
            for name in states[0]
        }
        return {"snapshots.epoch": torch.tensor(list(self._by_epoch)), **stacked}


class TrainingState:
    """The state of a run, as flat tensors for a checkpoint.

    Args:
        module: What is trained, with its buffers.
        optimizer: Any torch optimiser over its parameters.
        snapshots: Copies kept so far.
        method: State of the method, if it has any.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        snapshots: Snapshots,
        method: Stateful | None = None,
    ) -> None:
        """Keep references; nothing is copied."""
        self.module, self.optimizer, self.snapshots = module, optimizer, snapshots
        self.method = method

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the state as name to tensor."""
        flat = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            for name, value in slots.items():
                if torch.is_tensor(value):
                    flat[f"optimizer.{index}.{name}"] = value
        if self.method is not None:
            flat |= {f"method.{name}": tensor for name, tensor in self.method.tensors().items()}
        return flat | self.snapshots.stacked()

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what ``tensors`` returned."""
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            group, name = key.split(".", 1)
            groups.setdefault(group, {})[name] = tensor
        self.module.load_state_dict(groups["module"])
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in groups.get("optimizer", {}).items():
            index, name = key.split(".", 1)
            slots.setdefault(int(index), {})[name] = tensor
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**state, "state": slots})
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if value.dim() == 4:
                    # In the memory layout of the weights, as where nothing was interrupted.
                    values[name] = torch.empty_like(parameter).copy_(value)
        if self.method is not None:
            self.method.restore(groups.get("method", {}))
        self.snapshots.restore(groups.get("snapshots", {}))
