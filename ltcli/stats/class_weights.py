"""Class weights from class counts: the effective number of samples."""

import torch
from torch import Tensor

from ltcli.core.errors import DataError, ParamError


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """Class weights by the inverse effective number of samples, float64 [C], mean 1.

    w_c = (1 - beta) / (1 - beta^n_c), scaled. beta = 0 gives weights of 1; towards beta = 1 they
    approach the inverse frequency. Counts are int64 [C], at least 1.

    Source: Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of
    Samples", CVPR 2019, arXiv 1901.05555.
    """
    if not 0 <= beta < 1:
        raise ParamError(
            "effective number weights",
            f"beta must be at least 0 and below 1, got {beta}",
            "values close to 1, such as 0.9999, come close to the inverse frequency",
        )
    # An empty class would have an infinite weight and take all others to 0.
    empty = torch.nonzero(class_counts < 1).flatten().tolist()
    if empty:
        found = f"got {int(class_counts[empty[0]])} for class {empty[0]}"
        raise DataError("effective number weights", f"class_counts must be at least 1, {found}")
    counts = class_counts.to(torch.float64)
    # beta^n = exp(n log beta). log1p(beta - 1) is log beta with all digits, as beta - 1 is exact
    # near 1, and expm1 keeps the digits that 1 - beta^n would lose. The factor 1 - beta is common
    # to all classes and cancels in the scaling.
    log_beta = torch.log1p(torch.tensor(beta - 1.0, dtype=torch.float64, device=counts.device))
    weights = -1.0 / torch.expm1(counts * log_beta)
    return weights / weights.mean()
