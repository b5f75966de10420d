"""A trained network as other programs take it: bytes of images in, logits and probabilities out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ltcli.models.network import Network


class Normalise(nn.Module):
    """Bytes of images to the input of a backbone; mean and std are those of each colour, 0..1."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keep mean and standard deviation in units of bytes."""
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(1, 3, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Return float [B, 3, H, W] of uint8 [B, H, W, 3], RGB."""
        return (images.permute(0, 3, 1, 2).float() - self.mean) * self.scale


class Deployed(nn.Module):
    """A network in eval mode, with the preparation of its inputs before it and a softmax behind."""

    def __init__(self, prepare: nn.Module, network: Network) -> None:
        """Join the two."""
        super().__init__()
        self.prepare, self.network = prepare, network

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, float [B, C]."""
        # Not by way of forward, whose autocast would be part of the program.
        logits = self.network.classifier(self.network.features(self.prepare(inputs)).float())
        return logits, logits.softmax(1)
