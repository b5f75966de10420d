"""Residual networks for small images: the CIFAR family (6n+2), ResNet-10/18/34, and their variants.

The variants look at an image more than once, and put the features of all views side by side.

Source: He, Zhang, Ren, Sun, CVPR 2016, arXiv 1512.03385, sections 3.3 and 4.2.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut.

    Where shapes differ, the shortcut is a 1x1 convolution with batch-norm (option B, projection),
    or else subsampling and zero channels (option A, no parameters).
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
        """Return the last feature maps, of those that ``early`` returned."""
        for stage in list(self.stages)[stages:]:
            maps = stage(maps)
        return maps

    def stem(self, images: torch.Tensor) -> torch.Tensor:
        """Return the maps that the first stage works on, float [B, ., H, W]."""
        return F.relu(self.bn1(self.conv1(images)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features, float [B, D]: the maps averaged over positions."""
        return self.maps(images).mean((2, 3))


class TwoBranches(ResNet):
    """BBN's backbone: the last block exists twice, and D is twice the last width.

    Source: Zhou, Cui, Wei, Chen, CVPR 2020, arXiv 1912.02413.
    """

    def __init__(
        self, widths: tuple[int, ...], blocks: tuple[int, ...], *, projection: bool
    ) -> None:
        """Take the last block out of the last stage and make another one like it."""
        super().__init__(widths, blocks, projection=projection)
        kept = list(self.stages[-1].children())
        last = kept.pop()
        self.stages[-1] = nn.Sequential(*kept)
        # A copy has the right shapes; fresh weights make the branches differ.
        other = copy.deepcopy(last)
        for module in other.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.branches = nn.ModuleList([last, other])

    def late(self, maps: torch.Tensor, stages: int) -> torch.Tensor:
        """Return the last feature maps of both branches, float [B, D, Y, X]."""
        shared = super().late(maps, stages)
        return torch.cat([branch(shared) for branch in self.branches], dim=1)

    def of_branch(self, images: torch.Tensor, branch: int) -> torch.Tensor:
        """Return the features of one branch, float [B, D / 2]."""
        shared = super().late(self.stem(images), 0)
        features: torch.Tensor = self.branches[branch](shared).mean((2, 3))
        return features


class Experts(ResNet):
    """RIDE's backbone: each expert has its own stages behind the first, 3/4 as wide.

    D is the number of experts times the last width.

    Source: Wang, Lian, Miao, Liu, Yu, ICLR 2021, arXiv 2010.01809 and released code.
    """

    def __init__(
        self, widths: tuple[int, ...], blocks: tuple[int, ...], *, projection: bool, experts: int
    ) -> None:
        """Make the shared first stage, and the others of every expert."""
        super().__init__(widths[:1], blocks[:1], projection=projection)
        narrow = (widths[0], *(3 * width // 4 for width in widths[1:]))
        self.experts = nn.ModuleList()
        for _ in range(experts):
            # A whole network, whose first stage is thrown away: its last stages have the right
            # shapes.
            alone = ResNet(narrow, blocks, projection=projection)
            self.experts.append(nn.Sequential(*list(alone.stages)[1:]))

    def late(self, maps: torch.Tensor, stages: int) -> torch.Tensor:
        """Return the last feature maps of all experts, float [B, D, Y, X]."""
        shared = super().late(maps, stages)
        return torch.cat([expert(shared) for expert in self.experts], dim=1)


class Rotations(ResNet):
    """A backbone that sees an image turned by 0, 90, 180 and 270 degrees; D is four times as large.

    Images must be square, and whole: maps after some stages cannot be turned.
    """

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps of the four views, turned back to lie on one another."""
        turned = torch.cat([torch.rot90(images, quarter, (2, 3)) for quarter in range(4)])
        # One pass for all views: folding batch-norms into convolutions takes each to run once.
        views: torch.Tensor = super().maps(turned).unflatten(0, (4, -1))  # type: ignore[no-untyped-call]
        back = [torch.rot90(views[quarter], -quarter, (2, 3)) for quarter in range(4)]
        return torch.cat(back, dim=1)

    def of_view(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of images as they come, float [B, D / 4]."""
        return super().maps(images).mean((2, 3))
