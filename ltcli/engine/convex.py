"""Linear classifiers on fixed features: a convex problem, solved to its end by L-BFGS.

    min over V, a of  sum_i s_i l(V x_i + a, y_i) / sum_i s_i  +  l2 / 2 |V|^2

x are features brought to mean 0 and standard deviation 1 in each dimension, so that one l2 suits
all dimensions. The bias a is not penalised. With l2 > 0 and a convex loss l there is one solution:
it depends on no start, no order, no batch size and no number of epochs. scikit-learn's
``LogisticRegression`` with C = 1 / (l2 N), on such features, has the same one for cross-entropy.

Source: Liu, Nocedal, Mathematical Programming 1989 (L-BFGS), by SciPy's L-BFGS-B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
SOLVED, RANKED = 1e-8, 1e-4
_MOST_STEPS = 5000
# Share of the largest variance below which an axis is rounding.
_LEAST = 1e-12


@dataclass(frozen=True)
class Problem:
    """Samples, and what a classifier of them is to have little of.

    Attributes:
        features: float [N, R], along the axes of a ``Scaling``, in the dtype of the products.
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
    """Features at mean 0 and standard deviation 1, turned to their principal axes.

    Turning changes no length, so the penalty means the same; along these axes the search is short.

    Attributes:
        mean: float64 [D].
        std: float64 [D]; 1 for a dimension without variance.
        axes: float64 [D, R], orthonormal: the directions in which standardised features vary.
    """

    mean: Tensor
    std: Tensor
    axes: Tensor

    @staticmethod
    def of(features: Tensor) -> Scaling:
        """Return that of features float [N, D]."""
        values = features.double()
        std, mean = torch.std_mean(values, dim=0, correction=0)
        # What rounding leaves of a constant must not be blown up.
        std = torch.where(std <= 1e-9 * values.abs().amax(0), 1.0, std)
        scaled = (values - mean) / std
        if len(values) < len(mean):
            # The axes of few samples come from the products of the samples, which are fewer.
            variances, turned = torch.linalg.eigh(scaled @ scaled.T)
            used = variances > _LEAST * variances.amax()
            return Scaling(mean, std, scaled.T @ turned[:, used] / variances[used].sqrt())
        variances, axes = torch.linalg.eigh(scaled.T @ scaled)
        return Scaling(mean, std, axes[:, variances > _LEAST * variances.amax()])

    def __call__(self, features: Tensor) -> Tensor:
        """Return features [N, D] along the axes, float64 [N, R]."""
        scaled: Tensor = (features.double() - self.mean) / self.std @ self.axes
        return scaled

    def undone(self, solution: Tensor) -> tuple[Tensor, Tensor]:
        """Return class vectors [C, D] and bias [C] for features as they were, float64."""
        weight = solution[:, :-1] @ self.axes.T / self.std
        return weight, solution[:, -1] - weight @ self.mean


def minimise(
    problem: Problem, l2: float, *, start: Tensor | None = None, tolerance: float = SOLVED
) -> Tensor:
    """Return the solution, float64 [C, R + 1]: class vectors V, and the bias a in the last column.

    The search begins at ``start``, or at zero, and ends where no derivative is larger than
    ``tolerance``, in units in which the curvature is near 1, or where rounding hides all progress.
    """
    from scipy.optimize import minimize

    shape = (problem.num_classes, problem.features.shape[1] + 1)
    units = _units(problem, l2)
    begin = torch.zeros(shape, dtype=torch.float64) if start is None else start

    def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope = value_and_slope(problem, torch.from_numpy(point).view(shape) / units, l2)
        return value, (slope / units).numpy().ravel()

    options = {"maxiter": _MOST_STEPS, "maxfun": 2 * _MOST_STEPS, "gtol": tolerance, "ftol": 0.0}
    at = (begin * units).numpy().ravel()
    found = minimize(objective, at, jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).view(shape) / units


def _units(problem: Problem, l2: float) -> Tensor:
    """Units of the search, float64 [C, R + 1], in which all curvatures are near 1."""
    weights = (problem.weights / problem.weights.sum()).double()
    spread = weights @ problem.features.double().square()
    shares = torch.zeros(problem.num_classes, dtype=torch.float64, device=weights.device)
    shares.index_add_(0, problem.labels, weights)
    # The curvature of cross-entropy where each sample has the shares as probabilities.
    curvature = (shares * (1 - shares)).clamp(min=1e-6)
    ones = torch.ones_like(spread[:1])
    by_axis = curvature.outer(torch.cat([spread, ones]))
    by_axis[:, :-1] += l2
    return by_axis.sqrt().cpu()


def value_and_slope(problem: Problem, point: Tensor, l2: float) -> tuple[float, Tensor]:
    """Return the objective and its gradient, float64 [C, R + 1], at a point of that shape."""
    features, weights = problem.features, problem.weights / problem.weights.sum()
    vectors, bias = point[:, :-1].to(features), point[:, -1].to(features)
    slope = torch.zeros_like(point, device=features.device)
    slope[:, :-1] = l2 * point[:, :-1].to(slope)
    value = l2 / 2 * float(point[:, :-1].square().sum())
    size = max(1, _BUDGET // max(features.shape[1], problem.num_classes))
    for rows in (slice(first, first + size) for first in range(0, len(features), size)):
        logits = torch.addmm(bias, features[rows], vectors.T).requires_grad_()
        losses = problem.loss(logits, problem.labels[rows]).double() * weights[rows]
        value += float(losses.detach().sum())
        (by_logit,) = torch.autograd.grad(losses.sum(), logits)
        slope[:, :-1] += (by_logit.T @ features[rows]).double()
        slope[:, -1] += by_logit.double().sum(0)
    return value, slope.cpu()


def held_out_losses(
    problem: Problem, folds: Tensor, path: Sequence[float] = PATH
) -> Iterator[tuple[float, float]]:
    """Yield each l2 of a path, the strongest first, with the mean loss of the held-out samples.

    ``folds``, int64 [N], has the fold in which a sample is held out, and -1 for samples that are
    never. Each solution starts from that of the l2 before. The path ends where the loss rises.
    """
    parts = []
    for fold in range(int(folds.max()) + 1):
        own, others = (folds == fold).nonzero().flatten(), (folds != fold).nonzero().flatten()
        parts.append((problem.part(others), problem.part(own)))
    weights = [float(held_out.weights.sum()) for _, held_out in parts]
    starts: list[Tensor | None] = [None] * len(parts)
    least = math.inf
    for l2 in path:
        total = 0.0
        for i, (training, held_out) in enumerate(parts):
            starts[i] = solution = minimise(training, l2, start=starts[i], tolerance=RANKED)
            total += value_and_slope(held_out, solution, 0.0)[0] * weights[i]
        mean = total / sum(weights)
        yield l2, mean
        if mean > least:
            return
        least = mean
