"""Backbones that look at an image more than once; their features stand side by side."""

import copy

import torch
from torch import nn

from ltcli.models.resnet import ResNet


class TwoBranches(ResNet):
    """A backbone whose last block is there twice; its features are those of both, side by side.

    Source: Zhou, Cui, Wei, Chen, CVPR 2020, arXiv 1912.02413.

    Args:
        widths: As for ``ResNet``; D is twice the last.
        blocks: As for ``ResNet``.
        projection: As for ``ResNet``.
    """

    def __init__(
        self, widths: tuple[int, ...], blocks: tuple[int, ...], *, projection: bool
    ) -> None:
        """Take the last block out of the last stage and make another one like it."""
        super().__init__(widths, blocks, projection=projection)
        kept = list(self.stages[-1].children())
        last = kept.pop()
        self.stages[-1] = nn.Sequential(*kept)
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
    """A backbone whose stages behind the first are there once for each expert, with 3/4 the width.

    Source: Wang, Lian, Miao, Liu, Yu, ICLR 2021, arXiv 2010.01809 and released code.

    Args:
        widths: As for ``ResNet``.
        blocks: As for ``ResNet``.
        projection: As for ``ResNet``.
        experts: How many; D is so many times the last width.
    """

    def __init__(
        self, widths: tuple[int, ...], blocks: tuple[int, ...], *, projection: bool, experts: int
    ) -> None:
        """Make the shared first stage, and the others of every expert."""
        super().__init__(widths[:1], blocks[:1], projection=projection)
        narrow = (widths[0], *(3 * width // 4 for width in widths[1:]))
        self.experts = nn.ModuleList()
        for _ in range(experts):
            alone = ResNet(narrow, blocks, projection=projection)
            self.experts.append(nn.Sequential(*list(alone.stages)[1:]))

    def late(self, maps: torch.Tensor, stages: int) -> torch.Tensor:
        """Return the last feature maps of all experts, float [B, D, Y, X]."""
        shared = super().late(maps, stages)
        return torch.cat([expert(shared) for expert in self.experts], dim=1)


class Rotations(ResNet):
    """A backbone that sees an image turned by 0, 90, 180 and 270 degrees; D is four times as large.

    Images must be square. Only whole images can be turned: there are no ``early`` maps.
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
