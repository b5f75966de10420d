"""The last layer: linear or cosine, with one factor per class."""

import torch
from torch import nn
from torch.nn import functional as F

FORMS = ("linear", "cosine")


class Classifier(nn.Module):
    """Features to logits.

    linear: z_c = s_c (w_c . f + b_c)
    cosine: z_c = s_c (cos(w_c, f) + b_c)

    The factors s are 1 and fixed unless a method says otherwise.

    Args:
        feature_dim: D.
        num_classes: C.
        form: linear or cosine.
    """

    def __init__(self, feature_dim: int, num_classes: int, form: str = "linear") -> None:
        """Initialise with Kaiming-normal weights, zero bias and unit factors."""
        super().__init__()
        self.form = form
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.scales = nn.Parameter(torch.ones(num_classes), requires_grad=False)
        nn.init.kaiming_normal_(self.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits, float [B, C], of features float [B, D]."""
        if self.form == "cosine":
            cosines = F.linear(F.normalize(features), F.normalize(self.weight), self.bias)
            return self.scales * cosines
        return self.scales * F.linear(features, self.weight, self.bias)

    def vectors(self) -> torch.Tensor:
        """Return the class vectors of a linear classifier with its factors in them, float [C, D].

        They are the derivative of the logits by the features.
        """
        return self.scales.unsqueeze(1) * self.weight

    def train_only(self, *names: str) -> None:
        """Let only the named parameters (weight, bias, scales) be trained."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in names)
