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
    """Class activation map of each image, float [B, Y, X], in logit units.

    Its mean over positions, plus the bias of the class, is the logit of a linear classifier. Maps
    before pooling are float [B, D, Y, X], class vectors of the images' classes float [B, D].
    """
    return torch.bmm(weights.unsqueeze(1), maps.flatten(2)).view(maps[:, 0].shape)


def unit_range(activations: Tensor) -> Tensor:
    """The map of each image, float [B, Y, X], scaled to 0..1; a constant map becomes 0."""
    low = activations.amin((1, 2), keepdim=True)
    span = activations.amax((1, 2), keepdim=True) - low
    # A constant map has a span of 0, and 0 / 0 would make every mask empty.
    return (activations - low) / span.where(span > 0, 1.0)


def masks(
    activations: Tensor, specific_above: float, generic_below: float
) -> tuple[Tensor, Tensor]:
    """Class-specific and class-generic positions, bool [B, Y, X] each.

    The activations float [B, Y, X] are scaled to 0..1 first. ``specific_above`` below 0 and
    ``generic_below`` above 1 take every position. No mask is empty; a constant map fills both.
    """
    scaled = unit_range(activations)
    # The highest positions are specific at any threshold: ``fuse`` must have something to draw.
    highest = scaled.amax((1, 2), keepdim=True)
    return (scaled > specific_above) | (scaled == highest), scaled < generic_below


def fuse(
    tail_maps: Tensor,
    donor_maps: Tensor,
    specific: Tensor,
    generic: Tensor,
    weights: Tensor,
    draws: Tensor,
) -> Tensor:
    """Maps of specific columns of tail images and generic columns of donors, float [B, D, Y, X].

    Columns are drawn with replacement, each from its mask with equal probability. The first
    round(weight * Y X) positions, row by row, come from the tail image; weights are float [B],
    0..1. Maps are float [B, D, Y, X]; masks bool [B, Y, X], true somewhere in each image; draws
    int64 [B, Y X], not negative, large against the number of positions.
    """
    length = draws.shape[1]
    of_tail = torch.arange(length, device=draws.device) < (weights * length).round().unsqueeze(1)
    fused = torch.where(
        of_tail.unsqueeze(1),
        _columns(tail_maps, _positions(specific, draws)),
        _columns(donor_maps, _positions(generic, draws)),
    )
    return fused.view_as(donor_maps)


def _positions(mask: Tensor, draws: Tensor) -> Tensor:
    """Position of each draw among the true ones of its mask, int64 [B, L]."""
    # The running count reaches k + 1 at the k-th true position: one search, no list per image.
    reached = mask.flatten(1).cumsum(1)
    # The modulo favours low positions, but by less than their number over 2^31.
    return torch.searchsorted(reached, draws % reached[:, -1:] + 1)


def _columns(maps: Tensor, positions: Tensor) -> Tensor:
    """Columns of maps at positions int64 [B, L], float [B, D, L]."""
    flat = maps.flatten(2)
    return flat.gather(2, positions.unsqueeze(1).expand(-1, flat.shape[1], -1))
