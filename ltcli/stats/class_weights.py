"""Class weights from class counts: the effective number of samples."""

import torch
from torch import Tensor

from ltcli.core.errors import DataError, ParamError


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """Weigh every class by the inverse of its effective number of samples.

    w_c = (1 - beta) / (1 - beta^n_c), then scaled to a mean of 1. With beta = 0 all weights are 1;
    towards beta = 1 they approach the inverse frequency.

    Source: Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of
    Samples", CVPR 2019, arXiv 1901.05555.

    Args:
        class_counts: int64 [C], training samples of each class, all at least 1.
        beta: Overlap of the samples, at least 0 and below 1.

    Returns:
        float64 [C], weights of mean 1.

    Raises:
        ParamError: ``beta`` is out of its range.
        DataError: A class has no samples.
    """
    if not 0 <= beta < 1:
        raise ParamError(
            "effective number weights",
            f"beta must be at least 0 and below 1, got {beta}",
            "values close to 1, such as 0.9999, come close to the inverse frequency",
        )
    empty = torch.nonzero(class_counts < 1).flatten().tolist()
    if empty:
        raise DataError(
            "effective number weights",
            f"class_counts must be at least 1, got {int(class_counts[empty[0]])} for class "
            f"{empty[0]}",
        )
    counts = class_counts.to(torch.float64)
    # beta^n = exp(n log beta), and log beta = log1p(beta - 1), where beta - 1 is exact for beta
    # near 1; expm1 keeps the digits that 1 - beta^n would lose. The factor 1 - beta is common to
    # all classes and cancels in the scaling.
    log_beta = torch.log1p(torch.tensor(beta - 1.0, dtype=torch.float64, device=counts.device))
    weights = -1.0 / torch.expm1(counts * log_beta)
    return weights / weights.mean()
