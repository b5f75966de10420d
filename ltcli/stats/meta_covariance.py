"""MetaSAug's gradient with respect to the class covariances, in closed form.

A virtual step moves the parameters by -a grad L(theta, Sigma), and a held-out loss M is measured
behind it. As Sigma enters L through the logits alone,

    dM/dSigma_u = -a d/dSigma_u < grad L(theta, Sigma), v >,    v = grad M behind the virtual step

is the derivative along v of a closed form. With z~ = z + lambda/2 Q[y] the augmented logits,
g = dL/dz~ [B, C], G_u the sum of g over the samples of class u, and D_uc = w_c - w_u:

    dL/dSigma_u = lambda/2 sum_c G_uc D_uc D_uc'

Its derivative along v takes the tangents of z~ and g, marked with a dot, in which V and v_b are v's
class vectors and biases, f. the tangent of the features along v's backbone part:

    z~. = f V' + v_b + f. W' + lambda rowsum((D Sigma_u) * D.)
    g.  = (d^2 L / dz~^2) z~.

Nothing of size [B, D, D], and no second backward pass through the backbone.

Source of the method: Li, Gong, Liu, Wang, Qiao, Cheng, CVPR 2021, arXiv 2103.12579, whose code
differentiates twice through the virtual step; the closed form gives the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ltcli.compute.transfer import to_device
from ltcli.stats.quadratic import Diagonal, Full


@dataclass(frozen=True)
class Tangents:
    """The direction v, as the classifier sees it.

    Attributes:
        weight: float [C, D], v's class vectors.
        bias: float [C].
        features: float [B, D], directional derivative of the features; None if they are constants.
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
    """Return dM/dSigma_u of the classes that a batch has; it is zero for all others.

    Args:
        loss: Augmented logits of the batch to L, twice differentiable.
        features: float [B, D].
        labels: int64 [B].
        weight: float [C, D], class vectors at theta.
        bias: float [C].
        covariances: Of all classes.
        tangents: v.
        classes: int64 [U], the classes that the batch has, ascending, on the CPU.
        strength: lambda.
        rate: a, of the virtual step.

    Returns:
        float [U, D, D], symmetric, or [U, D] for diagonal covariances.
    """
    present: list[int] = classes.tolist()
    where, weight_dot = to_device(classes, labels.device), tangents.weight
    if isinstance(covariances, Diagonal):
        variances = covariances.variances[where]
        quadratic = _diagonal_shifts(weight, weight, variances, where)
        quadratic_dot = _diagonal_shifts(weight, weight_dot, variances, where)
    else:
        shifts = _shifts(weight, weight_dot, covariances, present)
        quadratic, quadratic_dot = shifts[:, 0], shifts[:, 1]
    own = labels.unsqueeze(1) == where
    position = own.to(torch.int64).argmax(1)
    logits = features @ weight.T + bias + 0.5 * strength * quadratic[position]
    moved = features @ tangents.weight.T + tangents.bias + strength * quadratic_dot[position]
    if tangents.features is not None:
        moved = moved + tangents.features @ weight.T
    gradient = torch.func.grad(loss)
    g, g_dot = cast(tuple[Tensor, Tensor], torch.func.jvp(gradient, (logits,), (moved,)))
    member = own.to(g.dtype)
    by_class, by_class_dot = member.T @ g, member.T @ g_dot
    scale = -0.5 * rate * strength
    if isinstance(covariances, Diagonal):
        squares = _diagonal_sums(weight, weight, by_class_dot, where)
        return scale * (squares + 2 * _diagonal_sums(weight, weight_dot, by_class, where))
    found = []
    for row, u in enumerate(present):
        apart, apart_dot = weight - weight[u], weight_dot - weight_dot[u]
        cross = (by_class[row].unsqueeze(1) * apart_dot).T @ apart
        square = (by_class_dot[row].unsqueeze(1) * apart).T @ apart
        found.append(square + cross + cross.T)
    return scale * torch.stack(found)


def _diagonal_shifts(a: Tensor, b: Tensor, variances: Tensor, where: Tensor) -> Tensor:
    """Return sum_d s_ud (a_cd - a_ud)(b_cd - b_ud), float [U, C], by products of matrices.

    Args:
        a: float [C, D].
        b: float [C, D].
        variances: s, float [U, D].
        where: int64 [U], the classes.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    own, other = a[where], b[where]
    mixed = (variances * own) @ b.T + (variances * other) @ a.T
    return variances @ (a * b).T - mixed + (variances * own * other).sum(1, keepdim=True)


def _diagonal_sums(a: Tensor, b: Tensor, shares: Tensor, where: Tensor) -> Tensor:
    """Return sum_c g_uc (a_cd - a_ud)(b_cd - b_ud), float [U, D], by products of matrices.

    Args:
        a: float [C, D].
        b: float [C, D].
        shares: g, float [U, C].
        where: int64 [U], the classes.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    own, other = a[where], b[where]
    mixed = own * (shares @ b) + other * (shares @ a)
    return shares @ (a * b) - mixed + own * other * shares.sum(1, keepdim=True)


def _shifts(weight: Tensor, weight_dot: Tensor, covariances: Full, present: list[int]) -> Tensor:
    """Return Q[u] and half its tangent for each class u, float [U, 2, C]."""
    rows = []
    for u in present:
        apart, apart_dot = weight - weight[u], weight_dot - weight_dot[u]
        product = apart @ covariances.matrices[u]
        rows.append(torch.stack([(product * apart).sum(1), (product * apart_dot).sum(1)]))
    return torch.stack(rows)
