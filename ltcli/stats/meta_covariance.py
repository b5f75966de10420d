"""MetaSAug's gradient by the class covariances, in closed form.

A virtual step moves the parameters by -a grad L(theta, Sigma); after it comes a held-out loss M. As
Sigma enters L through the logits alone,

    dM/dSigma_u = -a d/dSigma_u < grad L(theta, Sigma), v >,    v = grad M after the virtual step

is the derivative along v of a closed form. With z~ = z + lambda/2 Q[y] the augmented logits,
g = dL/dz~ [B, C], G_u the sum of g over the samples of class u, and D_uc = w_c - w_u:

    dL/dSigma_u = lambda/2 sum_c G_uc D_uc D_uc'

Its derivative along v takes the tangents of z~ and g, marked with a dot. V and v_b are v's class
vectors and biases, f. is the tangent of the features along v's backbone part:

    z~. = f V' + v_b + f. W' + lambda rowsum((D Sigma_u) * D.)
    g.  = (d^2 L / dz~^2) z~.

Nothing has the size [B, D, D], and no second backward pass goes through the backbone.

Source of the method: Li, Gong, Liu, Wang, Qiao, Cheng, CVPR 2021, arXiv 2103.12579, whose code
differentiates twice through the virtual step; the closed form gives the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ltcli.compute.transfer import to_device
from ltcli.stats.chunks import batched, chunks
from ltcli.stats.quadratic import Diagonal, Full


@dataclass(frozen=True)
class Tangents:
    """The direction v at the classifier: class vectors float [C, D] and biases float [C].

    ``features``, float [B, D], is the derivative of the features along v; None if it is frozen.
    """

    weight: Tensor
    bias: Tensor
    features: Tensor | None


def covariance_gradient(
    loss: Callable[[Tensor], Tensor],
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    covariances: Full | Diagonal,
    tangents: Tangents,
    *,
    classes: Tensor,
    strength: float,
    rate: float,
) -> Tensor:
    """dM/dSigma_u for the classes of a batch, float [U, D, D], symmetric, or [U, D] if diagonal.

    For all other classes it is zero. ``classes``, int64 [U], are ascending and on the CPU. The loss
    maps augmented logits of the batch to L and is twice differentiable; features are float [B, D],
    labels int64 [B], and class vectors, float [C, D], and biases, float [C], those at theta.
    ``strength`` is lambda, ``rate`` the learning rate a of the virtual step.
    """
    present: list[int] = classes.tolist()
    where, weight_dot = to_device(classes, labels.device), tangents.weight
    if isinstance(covariances, Diagonal):
        variances = covariances.variances[where]
        quadratic = _diagonal_shifts(weight, weight, variances, where)
        quadratic_dot = _diagonal_shifts(weight, weight_dot, variances, where)
    else:
        shifts = _shifts(weight, weight_dot, covariances, present, where)
        quadratic, quadratic_dot = shifts[:, 0], shifts[:, 1]
    # One row of shifts per class of the batch; ``position`` finds the row of each sample.
    own = labels.unsqueeze(1) == where
    position = own.to(torch.int64).argmax(1)
    logits = features @ weight.T + bias + 0.5 * strength * quadratic[position]
    moved = features @ tangents.weight.T + tangents.bias + strength * quadratic_dot[position]
    if tangents.features is not None:
        moved = moved + tangents.features @ weight.T
    # Forward over reverse: g and its tangent in one pass, without forming the Hessian of the loss.
    gradient = torch.func.grad(loss)
    g, g_dot = cast(tuple[Tensor, Tensor], torch.func.jvp(gradient, (logits,), (moved,)))
    member = own.to(g.dtype)
    by_class, by_class_dot = member.T @ g, member.T @ g_dot
    scale = -0.5 * rate * strength
    if isinstance(covariances, Diagonal):
        squares = _diagonal_sums(weight, weight, by_class_dot, where)
        return scale * (squares + 2 * _diagonal_sums(weight, weight_dot, by_class, where))
    if batched(weight.device):
        parts = []
        for some in chunks(len(present), max(weight.numel(), weight.shape[1] ** 2)):
            apart, apart_dot = _apart(weight, where[some]), _apart(weight_dot, where[some])
            cross = (by_class[some].unsqueeze(2) * apart_dot).mT @ apart
            square = (by_class_dot[some].unsqueeze(2) * apart).mT @ apart
            parts.append(square + cross + cross.mT)
        return scale * torch.cat(parts)
    # Class by class: all D_uc at once would be [U, C, D].
    found = []
    for row, u in enumerate(present):
        apart, apart_dot = weight - weight[u], weight_dot - weight_dot[u]
        cross = (by_class[row].unsqueeze(1) * apart_dot).T @ apart
        square = (by_class_dot[row].unsqueeze(1) * apart).T @ apart
        found.append(square + cross + cross.T)
    return scale * torch.stack(found)


def _diagonal_shifts(a: Tensor, b: Tensor, variances: Tensor, where: Tensor) -> Tensor:
    """sum_d s_ud (a_cd - a_ud)(b_cd - b_ud), float [U, C], of a, b [C, D] and variances s [U, D].

    ``where``, int64 [U], has the classes u.
    """
    # Multiplied out, there is no [U, C, D]; centred first, as the expansion cancels digits.
    a, b = a - a.mean(0), b - b.mean(0)
    own, other = a[where], b[where]
    mixed = (variances * own) @ b.T + (variances * other) @ a.T
    return variances @ (a * b).T - mixed + (variances * own * other).sum(1, keepdim=True)


def _diagonal_sums(a: Tensor, b: Tensor, g: Tensor, where: Tensor) -> Tensor:
    """sum_c g_uc (a_cd - a_ud)(b_cd - b_ud), float [U, D], as ``_diagonal_shifts``, g [U, C]."""
    a, b = a - a.mean(0), b - b.mean(0)
    own, other = a[where], b[where]
    mixed = own * (g @ b) + other * (g @ a)
    return g @ (a * b) - mixed + own * other * g.sum(1, keepdim=True)


def _apart(vectors: Tensor, where: Tensor) -> Tensor:
    """Differences of all class vectors to those of some classes, float [U, C, D]."""
    return vectors - vectors[where].unsqueeze(1)


def _shifts(
    weight: Tensor, weight_dot: Tensor, covariances: Full, present: list[int], where: Tensor
) -> Tensor:
    """Q[u] and half its tangent for each class u, float [U, 2, C]."""
    rows = []
    if batched(weight.device):
        for some in chunks(len(present), max(weight.numel(), weight.shape[1] ** 2)):
            apart, apart_dot = _apart(weight, where[some]), _apart(weight_dot, where[some])
            product = apart @ torch.stack([covariances.matrices[u] for u in present[some]])
            rows.append(torch.stack([(product * apart).sum(2), (product * apart_dot).sum(2)], 1))
        return torch.cat(rows)
    for u in present:
        apart, apart_dot = weight - weight[u], weight_dot - weight_dot[u]
        product = apart @ covariances.matrices[u]
        rows.append(torch.stack([(product * apart).sum(1), (product * apart_dot).sum(1)]))
    return torch.stack(rows)
