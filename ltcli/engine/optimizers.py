"""SGD and Adam by the functions of ``torch.optim``, whose classes are slow to load.

The methods of ``torch.optim.Optimizer`` load ``torch._dynamo`` when they are first called, which
takes longer than all of torch; a classifier on features is trained in less time than that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

_Slots: TypeAlias = list[dict[str, Tensor]]
# One launch updates all parameters, and reads the learning rate on the device.
_FUSED = ("cuda",)


class Optimizer(ABC):
    """Groups of parameters, each with its learning rate and weight decay, and their state.

    ``param_groups`` and ``state`` are as in ``torch.optim``, from which the arithmetic comes.
    """

    def __init__(self, params: Iterable[Any], **defaults: float) -> None:
        """Take parameters, or groups of them as mappings with settings of their own."""
        self._defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Train more parameters from now on."""
        self.param_groups.append({**self._defaults, **group, "params": list(group["params"])})

    def zero_grad(self) -> None:
        """Drop the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in moving]
            slots = [self.state.setdefault(parameter, {}) for parameter in moving]
            # None leaves the choice to torch.
            fused = True if moving and moving[0].device.type in _FUSED else None
            self._update(moving, gradients, slots, group, fused)

    def parameters(self) -> list[Tensor]:
        """Every parameter, in the order that numbers their state in a checkpoint."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @abstractmethod
    def _update(
        self,
        moving: list[Tensor],
        gradients: list[Tensor],
        slots: _Slots,
        group: Mapping[str, Any],
        fused: bool | None,
    ) -> None:
        """Move some parameters in place by their gradients and state, and change the state."""


class SGD(Optimizer):
    """Gradient descent with momentum, or with that of Nesterov."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        """Take the parameters or groups of them; see ``Optimizer``."""
        defaults = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, lr=lr, **defaults)

    def _update(
        self,
        moving: list[Tensor],
        gradients: list[Tensor],
        slots: _Slots,
        group: Mapping[str, Any],
        fused: bool | None,
    ) -> None:
        momenta = [slot.get("momentum_buffer") for slot in slots]
        sgd(
            moving,
            gradients,
            momenta,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=group["nesterov"],
            maximize=False,
            fused=fused,
        )
        # The first step of a parameter makes its momentum.
        for slot, momentum in zip(slots, momenta, strict=True):
            if momentum is not None:
                slot["momentum_buffer"] = momentum


class Adam(Optimizer):
    """Adam with its usual moments: 0.9 of the gradient and 0.999 of its square."""

    def __init__(self, params: Iterable[Any], lr: float, *, weight_decay: float = 0.0) -> None:
        """Take the parameters or groups of them; see ``Optimizer``."""
        super().__init__(params, lr=lr, weight_decay=weight_decay)

    def _update(
        self,
        moving: list[Tensor],
        gradients: list[Tensor],
        slots: _Slots,
        group: Mapping[str, Any],
        fused: bool | None,
    ) -> None:
        for parameter, slot in zip(moving, slots, strict=True):
            if not slot:
                slot["step"] = torch.tensor(0.0, device=home_of_numbers(parameter))
                slot["exp_avg"] = torch.zeros_like(parameter)
                slot["exp_avg_sq"] = torch.zeros_like(parameter)
        names = ("exp_avg", "exp_avg_sq", "step")
        means, squares, steps = ([slot[name] for slot in slots] for name in names)
        adam(
            moving,
            gradients,
            means,
            squares,
            [],
            steps,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
            fused=fused,
        )


def home_of_numbers(parameter: Tensor) -> torch.device:
    """Device of the numbers in a parameter's state, such as the number of its steps."""
    # Where the CPU reads them they stay there, so that reading never waits.
    return parameter.device if parameter.device.type in _FUSED else torch.device("cpu")
