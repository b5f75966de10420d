"""What tail classes borrow from the classes that they are taken for: the reasoning of RISDA.

Both functions turn the confusion graph, row-normalised shares eps [C, C] of class-i training images
predicted as j, into shares m [C, C] of moments: a class c borrows sum_i m_ci of the moments of the
classes i. ``variant`` tells the paper from the released code, which rounds eps to two decimals.

Source: Chen, Zhou, Wu, Yang, Xie, Wang, Li, AAAI 2022, arXiv 2112.07928, and its released code.
"""

from typing import Literal

import torch
from torch import Tensor

Variant = Literal["paper", "code"]


def prototype_shares(graph: Tensor, tail: Tensor, variant: Variant) -> Tensor:
    """Return the shares of the class means in the displacement of each class's features.

    paper: those of the other classes, for tail classes only. code: eps - 1, for every class: from
    its own mean towards the mean of those that it is taken for.

    Args:
        graph: float [C, C], eps.
        tail: bool [C].
        variant: paper or code.

    Returns:
        float [C, C].
    """
    if variant == "code":
        return graph.round(decimals=2) - torch.eye(len(graph)).to(graph)
    return graph.clone().fill_diagonal_(0).mul_(tail.unsqueeze(1))


def covariance_shares(graph: Tensor, tail: Tensor, variant: Variant) -> Tensor:
    """Return the shares of the classes' covariances in the one that a class is augmented with.

    A head class has its own. A tail class, paper: its own and, by eps, those of the others. code:
    by eps, its own like the others.

    Args:
        graph: float [C, C], eps.
        tail: bool [C].
        variant: paper or code.

    Returns:
        float [C, C].
    """
    # In place: [C, C] of thousands of classes is large.
    shares = graph.round(decimals=2) if variant == "code" else graph.clone().fill_diagonal_(1)
    shares[~tail] = 0
    shares.diagonal()[~tail] = 1
    return shares
