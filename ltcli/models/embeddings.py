"""The backbone of data that are features already: it hands them on."""

import torch
from torch import nn


class Embeddings(nn.Module):
    """Embeddings to features, unchanged.

    Args:
        feature_dim: D.

    Attributes:
        views: Of a sample that features are made of.
    """

    views = 1

    def __init__(self, feature_dim: int) -> None:
        """Keep the dimension; there is nothing to train."""
        super().__init__()
        self.feature_dim = feature_dim

    def maps(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Refuse: there are no feature maps.

        Raises:
            ValueError: Always.
        """
        raise ValueError("embeddings have no feature maps")

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the features, float [B, D]."""
        return embeddings
