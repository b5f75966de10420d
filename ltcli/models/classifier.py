"""The last layer: linear or cosine, with one factor per class, and OLTR's memory before it."""

import torch
from torch import nn
from torch.nn import functional as F

from ltcli.stats.metric import squared_distances

FORMS = ("linear", "cosine", "memory", *(f"experts{count}" for count in range(2, 10)))


class Memory(nn.Module):
    """OLTR's meta-embedding: features enriched with a memory of class centroids.

        o = softmax(H f + h),  e = tanh(S f + s),  r = 10 / min_c |f - M_c|
        v = r (f + e * (o M)),    v / (1 + |v|) is returned

    Features far from every centroid M_c become short. Where e is 0 only their length changes. No
    gradient of v reaches M.

    Source: Liu, Miao, Zhan, Wang, Gong, Yu, CVPR 2019, arXiv 1904.05160, released code.
    """

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        """Begin with centroids at zero."""
        super().__init__()
        self.centroids = nn.Parameter(torch.zeros(num_classes, feature_dim))
        self.hallucinator = nn.Linear(feature_dim, num_classes)
        self.selector = nn.Linear(feature_dim, feature_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return enriched features shorter than 1, float [B, D], of features float [B, D]."""
        # The centroids learn from a loss of their own.
        centroids = self.centroids.detach()
        recalled = self.hallucinator(features).softmax(1) @ centroids
        concept = self.selector(features).tanh()
        nearest = squared_distances(features, centroids).amin(1, keepdim=True)
        enriched = 10 / (nearest + 1e-12).sqrt() * (features + concept * recalled)
        short: torch.Tensor = enriched / (1 + enriched.norm(dim=1, keepdim=True))
        return short


class Classifier(nn.Module):
    """Features to logits.

    linear: z_c = s_c (w_c . f + b_c)
    cosine: z_c = s_c (cos(w_c, f) + b_c)
    experts3: the mean of three cosine classifiers, each on its third of the features
    memory: z_c = s_c (w_c / |w_c| . v + b_c), v the features enriched by ``Memory``

    The factors s are 1 and fixed unless a method says otherwise.
    """

    def __init__(self, feature_dim: int, num_classes: int, form: str = "linear") -> None:
        """Initialise with Kaiming-normal weights, zero bias and unit factors; see ``FORMS``."""
        super().__init__()
        self.form = form
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        # A parameter although fixed, so that methods can train it and the artifact holds it.
        self.scales = nn.Parameter(torch.ones(num_classes), requires_grad=False)
        nn.init.kaiming_normal_(self.weight)
        self.memory = Memory(feature_dim, num_classes) if form == "memory" else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits, float [B, C], of features float [B, D]."""
        if self.memory is not None:
            enriched = self.memory(features)
            return self.scales * F.linear(enriched, F.normalize(self.weight), self.bias)
        if self.form != "linear":
            return self.each(features).mean(0)
        return self.scales * F.linear(features, self.weight, self.bias)

    def each(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of each expert of a classifier on cosines, float [experts, B, C]."""
        count = 1 if self.form == "cosine" else int(self.form.removeprefix("experts"))
        parts = zip(features.chunk(count, 1), self.weight.chunk(count, 1), strict=True)
        cosines = [F.linear(F.normalize(f), F.normalize(w), self.bias) for f, w in parts]
        return self.scales * torch.stack(cosines)

    def add(self, shift: torch.Tensor) -> None:
        """Add a vector float [C] to the logits of all features from now on."""
        # The bias stands inside the factors: z_c = s_c (... + b_c).
        self.bias.data += shift / self.scales.data

    def vectors(self) -> torch.Tensor:
        """Return the derivative of a linear classifier's logits by the features, float [C, D]."""
        return self.scales.unsqueeze(1) * self.weight

    def train_only(self, *names: str) -> None:
        """Let only the named parameters (weight, bias, scales, memory) be trained."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.partition(".")[0] in names)
