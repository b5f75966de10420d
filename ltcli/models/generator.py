"""The network of STG: from a feature to the mean and variance of differences to its class."""

import torch
from torch import nn

from ltcli.artifacts.store import Artifact


class Generator(nn.Module):
    """Placeholder of the skeleton; the STG part fills it."""


def load_generator(artifact: Artifact, device: torch.device) -> Generator:
    """Rebuild the network of a generator artifact, frozen and in eval mode."""
    raise NotImplementedError
