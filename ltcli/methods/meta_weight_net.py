"""Meta-weight-net: a small network learns the weight of a sample from its loss.

    V(l; phi): 1 -> 100 -> 1, ReLU, sigmoid;     w_i = V(l_i) / sum_j V(l_j)
    theta'  = theta - rate grad sum_i w_i l_i           a virtual step, V's input held fixed
    phi    <- SGD step of rate meta_lr on M(theta'(phi))
    theta  <- SGD step on sum_i w_i l_i with the new phi

M is the cross-entropy of the held-out batch; its derivative by phi goes through w alone, with
dM/dw_i = -rate < grad l_i, grad M(theta') >. A constant V gives the mean loss. The authors' code
for imbalanced classes normalises within the batch and trains phi by SGD with 1e-5, as here; that
for noisy labels takes the mean of V(l_i) l_i, and Adam with 1e-3.

Source: Shu, Xie, Yi, Zhao, Zhou, Xu, Meng, NeurIPS 2019, arXiv 1902.07379, algorithm 1 and
released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.core.params import param
from ltcli.methods import bilevel
from ltcli.methods.method import BOTH, Method, TrainingRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from ltcli.data.batches import Batch
    from ltcli.engine.steps import Steps


@dataclass(frozen=True)
class Options(bilevel.Reweighting):
    """Options of meta-weight-net."""

    width: int = param(100, "hidden units of the weighting network", ge=1)
    meta_lr: float = param(1e-5, "learning rate of the weighting network", ge=0)


class _Weigher:
    """V and its optimiser, with the state of both for a resumed run."""

    def __init__(self, options: Options, run: TrainingRun) -> None:
        import torch

        from ltcli.compute.seeds import derive
        from ltcli.engine.optimizers import SGD

        device = run.labels.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("meta-weight-net", run.seed, 0))
            layers = [torch.nn.Linear(1, options.width), torch.nn.ReLU()]
            layers += [torch.nn.Linear(options.width, 1), torch.nn.Sigmoid()]
            self.network = torch.nn.Sequential(*layers).to(device)
        self._optimizer = SGD(
            self.network.parameters(), lr=options.meta_lr, momentum=0.9, nesterov=True
        )
        # SGD makes them in its first step; a checkpoint before it would have none to restore.
        for parameter in self.network.parameters():
            self._optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}

    def weights(self, losses: torch.Tensor) -> torch.Tensor:
        """Weights of a batch, float [B], sum 1, for its losses float [B]."""
        # Detached: V learns from the held-out loss, and the losses must not learn to please V.
        values: torch.Tensor = self.network(losses.detach().unsqueeze(1)).squeeze(1)
        total = values.sum()
        return values / (total + (total == 0))

    def step(self, losses: torch.Tensor, slopes: torch.Tensor) -> None:
        """Lower sum_i slopes_i w_i, whose gradient by phi is that of M."""
        import torch

        self._optimizer.zero_grad()
        torch.autograd.backward((slopes.detach() * self.weights(losses)).sum())
        self._optimizer.step()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and momentum by name."""
        found = {}
        for name, parameter in self.network.named_parameters():
            found[name] = parameter.detach()
            found[f"{name}.momentum"] = self._optimizer.state[parameter]["momentum_buffer"]
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``tensors`` returned."""
        for name, parameter in self.network.named_parameters():
            parameter.data.copy_(tensors[name])
            self._optimizer.state[parameter]["momentum_buffer"].copy_(tensors[f"{name}.momentum"])


def make_steps(options: Options, run: TrainingRun) -> Steps:
    """Steps with learned weights."""
    import dataclasses

    weigher = _Weigher(options, run)

    def before(losses: torch.Tensor, _labels: torch.Tensor, _batch: Batch) -> torch.Tensor:
        return (weigher.weights(losses).detach() * losses).sum()

    def after(
        losses: torch.Tensor, agreed: torch.Tensor, _labels: torch.Tensor, _batch: Batch
    ) -> torch.Tensor:
        # First phi, then theta with the new weights, as in algorithm 1.
        weigher.step(losses, -run.optimizer.param_groups[0]["lr"] * agreed)
        return (weigher.weights(losses).detach() * losses).sum()

    return dataclasses.replace(bilevel.reweighting(options, run, before, after), state=weigher)


METHOD = Method(
    summary="a small network learns the weight of a sample from its loss",
    source="Shu et al., NeurIPS 2019, arXiv 1902.07379",
    stages=BOTH,
    options=Options,
    defaults={"pretrain": {"schedule": "mwn"}, "finetune": bilevel.SECOND_STAGE},
    steps=make_steps,
    alone=True,
    on_host=True,
    reads=bilevel.reads,
    set_aside=bilevel.set_aside,
    check=bilevel.check_weights,
)
