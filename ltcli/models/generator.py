"""The network of STG: from a feature to the mean and variance of differences to its class.

    (mu, Sigma) = s(a + p_y)

with one learnable token p_y per class and one multilayer perceptron for each of the two; the
variance goes through a softplus. Tokens are trained for head classes only: a tail sample borrows
that of the head class whose mean it is most similar to.

Source: "Sample-specific and context-aware augmentation" (STG), anonymous submission. Depth and
width, the softplus and the similarity are not given there.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltcli.artifacts.store import Artifact
from ltcli.core.errors import ArtifactError
from ltcli.stats.differences import Similarity, nearest_head


class Generator(nn.Module):
    """Features and classes to the moments of differences.

    Each perceptron has ``layers`` linear layers, with batch-norm and ReLU between them.

    Attributes:
        tokens: float [C, D], feature units.
        head: bool [C], classes whose token was trained.
        class_means: float [C, D], means of the training features.
    """

    head: Tensor
    class_means: Tensor

    def __init__(self, num_classes: int, feature_dim: int, width: int, layers: int) -> None:
        """Make perceptrons of random weights, and tokens, class means and head of zeros."""
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(num_classes, feature_dim))
        self.mean_mlp = _perceptron(feature_dim, width, layers)
        self.variance_mlp = _perceptron(feature_dim, width, layers)
        self.register_buffer("head", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("class_means", torch.zeros(num_classes, feature_dim))

    def forward(self, features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and Sigma, float [B, D], of features float [B, D] and classes int64 [B]."""
        inputs = features + self.tokens[classes]
        return self.mean_mlp(inputs), F.softplus(self.variance_mlp(inputs))

    def nearest_head(self, features: Tensor, similarity: Similarity = "cosine") -> Tensor:
        """Return the head class most similar to each feature float [B, D], int64 [B]."""
        return nearest_head(features, self.class_means, self.head, similarity)


def _perceptron(dim: int, width: int, layers: int) -> nn.Sequential:
    sizes = [dim, *([width] * (layers - 1)), dim]
    parts: list[nn.Module] = []
    for first, second in pairwise(sizes[:-1]):
        parts += [nn.Linear(first, second), nn.BatchNorm1d(second), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(sizes[-2], sizes[-1]))


def build_generator(
    class_means: Tensor, head: Tensor, *, width: int, layers: int, token_std: float, seed: int
) -> Generator:
    """Return a generator whose initial weights depend on the seed alone.

    Args:
        class_means: float [C, D], means of the training features.
        head: bool [C], classes whose token will be trained.
        width: Width of the hidden layers.
        layers: Linear layers of each perceptron.
        token_std: Standard deviation of the initial tokens, feature units.
        seed: Seed of weights and tokens.
    """
    # Initialisation draws from the global generator, which is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(len(class_means), class_means.shape[1], width, layers)
        nn.init.normal_(generator.tokens, std=token_std)
    generator.class_means.copy_(class_means)
    generator.head.copy_(head)
    return generator


def load_generator(artifact: Artifact, device: torch.device) -> Generator:
    """Return the network of a generator artifact, frozen and in eval mode.

    Raises:
        ArtifactError: The tensors do not fit the sizes that the artifact names.
    """
    info = artifact.header.info
    state = artifact.load("*")
    classes, dim = state["tokens"].shape
    try:
        # On "meta" nothing is allocated for a width that the tensors do not have.
        with torch.device("meta"):
            generator = Generator(classes, dim, info["width"], info["layers"])
        generator.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, ValueError):
        rule = f"its tensors do not fit {info['layers']} layers of width {info['width']}"
        raise ArtifactError(artifact.header.path, rule) from None
    return generator.requires_grad_(False).eval().to(device)
