"""Residual networks for small images: the CIFAR family (6n+2), and ResNet-10/18/34.

Source: He, Zhang, Ren, Sun, CVPR 2016, arXiv 1512.03385, sections 3.3 and 4.2.
"""

import torch
from torch import nn
from torch.nn import functional as F


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut.

    Args:
        width_in: Channels in.
        width_out: Channels out.
        stride: Of the first convolution.
        projection: Where shapes differ: a 1x1 convolution with batch-norm (option B) or, without,
            subsampling and zero channels (option A, no parameters).
    """

    def __init__(self, width_in: int, width_out: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.shortcut = (
                nn.Sequential(
                    nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out)
                )
                if projection
                else _ZeroPad(stride, width_out - width_in)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class _ZeroPad(nn.Module):
    """Option A: every ``stride``-th position, new channels zero, half of them on either side."""

    def __init__(self, stride: int, channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.before, self.after = channels // 2, channels - channels // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class ResNet(nn.Module):
    """A backbone: images to features.

    Args:
        widths: Channels of each stage; the last is the feature dimension D.
        blocks: Blocks of each stage.
        projection: Option B shortcuts (see ``_Block``) instead of option A.
    """

    def __init__(
        self, widths: tuple[int, ...], blocks: tuple[int, ...], *, projection: bool
    ) -> None:
        """Initialise convolutions with Kaiming-normal weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages = []
        width_in = widths[0]
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stage = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(_Block(width_in, width, stride, projection))
                width_in = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps, float [B, D, Y, X], of images float [B, 3, H, W]."""
        return self.late(self.stem(images), 0)

    def early(self, images: torch.Tensor, stages: int) -> torch.Tensor:
        """Return the maps after so many stages, float [B, ., Y, X]."""
        maps = self.stem(images)
        for stage in list(self.stages)[:stages]:
            maps = stage(maps)
        return maps

    def late(self, maps: torch.Tensor, stages: int) -> torch.Tensor:
        """Return the last feature maps of what ``early`` returned."""
        for stage in list(self.stages)[stages:]:
            maps = stage(maps)
        return maps

    def stem(self, images: torch.Tensor) -> torch.Tensor:
        """Return the maps that the first stage works on, float [B, ., H, W]."""
        return F.relu(self.bn1(self.conv1(images)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features, float [B, D]: the maps averaged over positions."""
        return self.maps(images).mean((2, 3))
