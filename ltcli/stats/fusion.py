"""Feature maps of tail images, fused with those of images of confusable classes.

    M(p) = w_c . F(p), the class activation map of an image of class c, scaled to 0..1
    class-specific: M(p) > specific_above;  class-generic: M(p) < generic_below
    fused(p) = F_tail at a specific position for p < n, else F_donor at a generic one

Source: Chu, Bian, Liu, Ling, "Feature Space Augmentation for Long-Tailed Data", ECCV 2020, arXiv
2008.03673. Equations 2 and 3 multiply the masks by M; the text and algorithm 1 use them binarised,
as here.
"""

import torch
from torch import Tensor


def activation_maps(maps: Tensor, weights: Tensor) -> Tensor:
    """Return the class activation map of each image, in logit units.

    Its mean over positions, plus the class's bias, is the logit of a linear classifier.

    Args:
        maps: float [B, D, Y, X], feature maps before pooling.
        weights: float [B, D], the classifier's row for the class of each image.

    Returns:
        float [B, Y, X].
    """
    return torch.bmm(weights.unsqueeze(1), maps.flatten(2)).view(maps[:, 0].shape)


def unit_range(activations: Tensor) -> Tensor:
    """Return the map of each image, float [B, Y, X], scaled to 0..1; a constant one is all 0."""
    low = activations.amin((1, 2), keepdim=True)
    span = activations.amax((1, 2), keepdim=True) - low
    return (activations - low) / span.where(span > 0, 1.0)


def masks(
    activations: Tensor, specific_above: float, generic_below: float
) -> tuple[Tensor, Tensor]:
    """Return which positions are class-specific and which class-generic.

    The map of each image is scaled to 0..1. No set is empty: the highest positions are specific
    whatever the threshold, so that of a constant map, all zero, every position is both.

    Args:
        activations: float [B, Y, X].
        specific_above: Less than 1; below 0 for every position.
        generic_below: More than 0; above 1 for every position.

    Returns:
        Two bool [B, Y, X].
    """
    scaled = unit_range(activations)
    highest = scaled.amax((1, 2), keepdim=True)
    return (scaled > specific_above) | (scaled == highest), scaled < generic_below


def fuse(
    tail_maps: Tensor,
    donor_maps: Tensor,
    specific: Tensor,
    generic: Tensor,
    shares: Tensor,
    draws: Tensor,
) -> Tensor:
    """Build maps of specific columns of tail images and generic columns of donor images.

    Columns are drawn with replacement, each from its set with equal probability. The first
    round(share * Y X) positions, row by row, come from the tail image.

    Args:
        tail_maps: float [B, D, Y, X].
        donor_maps: float [B, D, Y, X].
        specific: bool [B, Y, X], of the tail images; true somewhere in each.
        generic: bool [B, Y, X], of the donor images; true somewhere in each.
        shares: float [B], in 0..1.
        draws: int64 [B, Y X], not negative, to be taken modulo the size of a set.

    Returns:
        float [B, D, Y, X].
    """
    length = draws.shape[1]
    of_tail = torch.arange(length, device=draws.device) < (shares * length).round().unsqueeze(1)
    fused = torch.where(
        of_tail.unsqueeze(1),
        _columns(tail_maps, _positions(specific, draws)),
        _columns(donor_maps, _positions(generic, draws)),
    )
    return fused.view_as(donor_maps)


def _positions(mask: Tensor, draws: Tensor) -> Tensor:
    """Return the position, int64 [B, L], that each draw means among those of a mask."""
    reached = mask.flatten(1).cumsum(1)
    return torch.searchsorted(reached, draws % reached[:, -1:] + 1)


def _columns(maps: Tensor, positions: Tensor) -> Tensor:
    """Return the columns at positions, float [B, D, L]."""
    flat = maps.flatten(2)
    return flat.gather(2, positions.unsqueeze(1).expand(-1, flat.shape[1], -1))
