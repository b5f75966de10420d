"""A memory of class centroids that features are enriched with before the last layer."""

import torch
from torch import nn

from ltcli.stats.metric import squared_distances


class Memory(nn.Module):
    """OLTR's meta-embedding.

        o = softmax(H f + h),  e = tanh(S f + s),  r = 10 / min_c |f - M_c|
        v = r (f + e * (o M)),    v / (1 + |v|) is returned

    Features far from every centroid M_c become short. Where e is 0 only their length changes. No
    gradient of what is made of v reaches M.

    Source: Liu, Miao, Zhan, Wang, Gong, Yu, CVPR 2019, arXiv 1904.05160, released code.

    Args:
        feature_dim: D.
        num_classes: C.
    """

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        """Begin with centroids at zero."""
        super().__init__()
        self.centroids = nn.Parameter(torch.zeros(num_classes, feature_dim))
        self.hallucinator = nn.Linear(feature_dim, num_classes)
        self.selector = nn.Linear(feature_dim, feature_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return enriched features shorter than 1, float [B, D], of features float [B, D]."""
        centroids = self.centroids.detach()
        recalled = self.hallucinator(features).softmax(1) @ centroids
        concept = self.selector(features).tanh()
        nearest = squared_distances(features, centroids).amin(1, keepdim=True)
        enriched = 10 / (nearest + 1e-12).sqrt() * (features + concept * recalled)
        short: torch.Tensor = enriched / (1 + enriched.norm(dim=1, keepdim=True))
        return short
