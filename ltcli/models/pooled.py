"""A network of timm as a backbone: images to penultimate features, and to the maps before them."""

from typing import Any

import torch
from torch import nn


class Pooled(nn.Module):
    """Images to features.

    Args:
        body: A network of timm without its last layer.
        feature_dim: D.
        has_maps: Whether the features are the mean of feature maps over their positions.
    """

    def __init__(self, body: Any, feature_dim: int, *, has_maps: bool) -> None:
        """Keep the network; its tensors keep their names behind ``body.``."""
        super().__init__()
        self.body = body
        self._feature_dim, self._has_maps = feature_dim, has_maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features, float [B, D], of images float [B, 3, H, W]."""
        found = self.body.forward_features(images)
        features: torch.Tensor = self.body.forward_head(found, pre_logits=True)
        return features

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps, float [B, D, Y, X].

        Raises:
            ValueError: The features are not their mean.
        """
        if not self._has_maps:
            raise ValueError("the features are not the mean of feature maps")
        maps: torch.Tensor = self.body.forward_features(images)
        # Transformers on windows have their channels last.
        return maps if maps.shape[1] == self._feature_dim else maps.permute(0, 3, 1, 2)
