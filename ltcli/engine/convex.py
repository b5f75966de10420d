"""Linear classifiers on fixed features: a convex problem, solved to its end by L-BFGS.

    min over V, a of  sum_i s_i l(V x_i + a, y_i) / sum_i s_i  +  l2 / 2 |V|^2

x are features brought to mean 0 and standard deviation 1 in each dimension, so that one l2 suits
all dimensions. The bias a is not penalised. With l2 > 0 and a convex loss l there is one solution:
it depends on no start, no order, no batch size and no number of epochs. scikit-learn's
``LogisticRegression`` with C = 1 / (l2 N), on such features, has the same one for cross-entropy.

Source: Liu, Nocedal, Mathematical Programming 1989 (L-BFGS), by SciPy's L-BFGS-B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# l2 from the strongest, which leaves class means, to one that hardly penalises.
PATH = tuple(float(f"{factor}e{power}") for power in range(0, -6, -1) for factor in (1, 0.3))
# Elements of the largest tensor of a block of rows; 64 MB in float64.
_BUDGET = 2**23
# Largest gradient of a solution, and of one that only has to be ranked among others.
SOLVED, RANKED = 1e-8, 1e-5
_MOST_STEPS = 5000
# Steps down the path without a better loss, after which it ends.
_PATIENCE = 2


@dataclass(frozen=True)
class Problem:
    """Samples, and what a classifier of them is to have little of.

    Attributes:
        features: float [N, D], mean 0 and standard deviation 1 in each dimension; their dtype is
            that of the products.
        labels: int64 [N].
        weights: float [N], at least 0: the weight s of each sample.
        loss: Logits float [B, C] and labels int64 [B] to losses float [B], nats.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    num_classes: int

    def part(self, rows: Tensor) -> Problem:
        """Return the problem of some of the samples, int64 [n]."""
        of = (self.features[rows], self.labels[rows], self.weights[rows])
        return Problem(*of, self.loss, self.num_classes)


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each dimension of the features, float64 [D]."""

    mean: Tensor
    std: Tensor

    @staticmethod
    def of(features: Tensor) -> Scaling:
        """Return those of features float [N, D]; a dimension without variance keeps its size."""
        values = features.double()
        std, mean = torch.std_mean(values, dim=0, correction=0)
        # What rounding leaves of a constant must not be blown up.
        small = std <= 1e-9 * values.abs().amax(0)
        return Scaling(mean, torch.where(small, 1.0, std))

    def __call__(self, features: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return standardised features [N, D] in a dtype."""
        return ((features.double() - self.mean) / self.std).to(dtype)

    def undone(self, solution: Tensor) -> tuple[Tensor, Tensor]:
        """Return class vectors [C, D] and bias [C] for features as they were, float64."""
        weight = solution[:, :-1] / self.std
        return weight, solution[:, -1] - weight @ self.mean


def minimise(
    problem: Problem, l2: float, *, start: Tensor | None = None, tolerance: float = SOLVED
) -> Tensor:
    """Return the solution, float64 [C, D + 1]: class vectors V, and the bias a in the last column.

    The search begins at ``start``, or at zero, and ends where no derivative is larger than
    ``tolerance``, or where rounding hides all progress.
    """
    from scipy.optimize import minimize

    shape = (problem.num_classes, problem.features.shape[1] + 1)
    begin = np.zeros(shape) if start is None else start.numpy()

    def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope = value_and_slope(problem, torch.from_numpy(point).view(shape), l2)
        return value, slope.numpy().ravel()

    options = {"maxiter": _MOST_STEPS, "maxfun": 2 * _MOST_STEPS, "gtol": tolerance, "ftol": 0.0}
    found = minimize(objective, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).view(shape)


def value_and_slope(problem: Problem, point: Tensor, l2: float) -> tuple[float, Tensor]:
    """Return the objective and its gradient, float64 [C, D + 1], at a point of that shape."""
    features, weights = problem.features, problem.weights / problem.weights.sum()
    vectors, bias = point[:, :-1].to(features.dtype), point[:, -1].to(features.dtype)
    slope = torch.zeros_like(point)
    slope[:, :-1] = l2 * point[:, :-1]
    value = l2 / 2 * float(point[:, :-1].square().sum())
    size = max(1, _BUDGET // max(features.shape[1], problem.num_classes))
    for rows in (slice(first, first + size) for first in range(0, len(features), size)):
        logits = torch.addmm(bias, features[rows], vectors.T).requires_grad_()
        losses = problem.loss(logits, problem.labels[rows]).double() * weights[rows]
        value += float(losses.detach().sum())
        (by_logit,) = torch.autograd.grad(losses.sum(), logits)
        slope[:, :-1] += (by_logit.T @ features[rows]).double()
        slope[:, -1] += by_logit.double().sum(0)
    return value, slope


def held_out_losses(problem: Problem, folds: Tensor, path: Sequence[float] = PATH) -> list[float]:
    """Return the mean loss of held-out samples for each l2 of a path, the strongest first.

    ``folds``, int64 [N], has the fold in which a sample is held out, and -1 for samples that are
    never. Each solution starts from that of the l2 before. The path ends early where its last l2
    made the loss worse, or no better, twice in a row.
    """
    parts = []
    for fold in range(int(folds.max()) + 1):
        own, others = (folds == fold).nonzero().flatten(), (folds != fold).nonzero().flatten()
        parts.append((problem.part(others), problem.part(own)))
    weights = sum(float(held_out.weights.sum()) for _, held_out in parts)
    starts: list[Tensor | None] = [None] * len(parts)
    found: list[float] = []
    for l2 in path:
        total = 0.0
        for i, (training, held_out) in enumerate(parts):
            solution = minimise(training, l2, start=starts[i], tolerance=RANKED)
            starts[i] = solution
            total += value_and_slope(held_out, solution, 0.0)[0] * float(held_out.weights.sum())
        found.append(total / weights)
        if found.index(min(found)) <= len(found) - 1 - _PATIENCE:
            break
    return found
