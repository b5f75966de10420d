"""The interface of a source of backbones: a few functions, and the names of its networks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcli.artifacts.backbone import Backbone

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ltcli.artifacts.header import Header


@dataclass(frozen=True)
class Source:
    """A source of backbones, declared in a file that imports torch within functions alone.

    Attributes:
        names: Names of its networks.
        resolve: (name, variant, split) to the record of a network for the samples of a split;
            raises KeyError for an unknown name.
        build: Record to a network with fresh weights, from images float [B, 3, H, W] to features
            float [B, D]. Where the record has a map size, the method ``maps`` of the network
            returns the maps, float [B, D, Y, X], whose mean the features are.
        variants: Changes of the network that methods may ask for.
        head: Name to the tensors behind the features, which files of weights may hold and the
            network does not have.
        published: Name to an identifier of the published weights, or to None.
        fetch: Record to the tensors of the published weights, by name.
    """

    names: Callable[[], Sequence[str]]
    resolve: Callable[[str, str, Header], Backbone]
    build: Callable[[Backbone], nn.Module]
    variants: tuple[str, ...] = ()
    head: Callable[[str], Collection[str]] = lambda _name: ()
    published: Callable[[str], str | None] = lambda _name: None
    fetch: Callable[[Backbone], Mapping[str, torch.Tensor]] = lambda _record: {}
