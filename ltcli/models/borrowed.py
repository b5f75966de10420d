"""The classification networks of torchvision as backbones: all but their last layer.

Nothing here is written for one network. The last module with weights of its own makes the logits
and is taken out: it is linear in all of them but SqueezeNet, whose 1x1 convolution before the
pooling leaves the maps before it. What is left makes the penultimate features.

The features are the mean of feature maps over their positions if nothing but a pooling to 1x1,
flattening and dropout lies between them, which is read off the traced graph of the network.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

from ltcli.models.names import BORROWED

# Of OLTR and those who compare with it: torchvision has the blocks, but not this depth.
_MORE = {"resnet10": partial(ResNet, BasicBlock, [1, 1, 1, 1])}
# What may be done to pooled maps without making other features of them; dropout is off in tests.
_FLAT = (torch.flatten, "flatten", nn.Flatten, nn.Identity, nn.Dropout)


class Borrowed(nn.Module):
    """A backbone: images to features.

    Args:
        body: A classification network whose last layer was taken out.
        feature_dim: D, the width of what that layer took.
        head: The name that it had.

    Attributes:
        views: Of an image that features are made of.
        has_maps: Whether the features are the mean of feature maps over their positions.
    """

    views = 1

    def __init__(self, body: nn.Module, feature_dim: int, head: str) -> None:
        """Look for feature maps."""
        super().__init__()
        self.body, self.feature_dim, self.head = body, feature_dim, head
        self._to_maps = _graph_to_maps(body)
        self.has_maps = self._to_maps is not None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features, float [B, D], of images float [B, 3, H, W]."""
        features: torch.Tensor = self.body(images)
        return features

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps, float [B, D, Y, X], as in eval mode but for batch-norms.

        Raises:
            ValueError: The features are not made of any.
        """
        if self._to_maps is None:
            raise ValueError("the features are not the mean of feature maps")
        maps: torch.Tensor = fx.Interpreter(self.body, graph=self._to_maps).run(images)
        return maps


def names() -> list[str]:
    """Return the names of all backbones here."""
    return [BORROWED + name for name in (*models.list_models(module=models), *_MORE)]


def build_borrowed(name: str, image_size: Sequence[int]) -> Borrowed:
    """Return a freshly initialised backbone.

    Args:
        name: One of ``names``.
        image_size: Height and width of the images; some networks are made for one size.

    Raises:
        KeyError: There is none of this name.
        AssertionError, RuntimeError, ValueError: It cannot be made for such images.
    """
    if name not in names():
        raise KeyError(name)
    plain = name.removeprefix(BORROWED)
    if plain in _MORE:
        body = _MORE[plain]()
    else:
        builder = models.get_model_builder(plain)
        body = builder(**_options(builder, image_size))
    # MNASNet refuses tensors without the version of its code; ours are always of the present one.
    body._load_from_state_dict = partial(nn.Module._load_from_state_dict, body)
    head = [name for name, module in body.named_modules() if [*module.parameters(recurse=False)]][
        -1
    ]
    last = body.get_submodule(head)
    body.set_submodule(head, nn.Identity())
    return Borrowed(
        body, last.in_features if isinstance(last, nn.Linear) else last.in_channels, head
    )


def _options(builder: Callable[..., nn.Module], image_size: Sequence[int]) -> dict[str, Any]:
    """Return what a network is told of the images, and that it shall have no second classifier."""
    made = inspect.signature(inspect.signature(builder).return_annotation).parameters
    options: dict[str, Any] = {}
    if "image_size" in made:
        options["image_size"] = image_size[0]
    if "input_size" in made:
        options["input_size"] = tuple(image_size)
    if "aux_logits" in made:
        # The published weights of these networks are for images that they normalise themselves.
        options |= {"aux_logits": False, "init_weights": True, "transform_input": True}
    return options


def outline(name: str, image_size: Sequence[int]) -> Borrowed:
    """Return a backbone in eval mode whose tensors have shapes but no values.

    Raises:
        As for ``build_borrowed``.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build_borrowed(name, image_size).eval()
        except NotImplementedError:
            # RegNet computes its widths with tensors.
            return build_borrowed(name, image_size).eval().to("meta")


def takes(name: str, image_size: Sequence[int]) -> bool:
    """Return whether a backbone can make features of images of a size."""
    try:
        backbone = outline(name, image_size)
        features = backbone(torch.empty(2, 3, *image_size, device="meta"))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return tuple(features.shape) == (2, backbone.feature_dim)


def borrowed_map_size(name: str, image_size: Sequence[int]) -> tuple[int, ...] | None:
    """Return the sides of a backbone's last feature map; None if its features are of no maps."""
    backbone = outline(name, image_size)
    if not backbone.has_maps:
        return None
    return tuple(backbone.maps(torch.empty(1, 3, *image_size, device="meta")).shape[2:])


def _graph_to_maps(body: nn.Module) -> fx.Graph | None:
    """Return the graph from images to the maps whose mean are the features, if it is one."""
    training = body.training
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = fx.Tracer().trace(body.eval())
    except (RuntimeError, TypeError, ValueError):
        return None
    finally:
        body.train(training)
    output = next(iter(reversed(graph.nodes)))
    behind, node = [], output.args[0]
    while _what(node, body) in _FLAT:
        behind.append(node)
        node = node.args[0]
    if not _pools(node, body):
        return None
    output.args = (node.args[0],)
    for passed in (*behind, node):
        graph.erase_node(passed)
    return graph


def _what(node: fx.Node, body: nn.Module) -> Any:
    """Return the type of the module, or the function, or the name of the method that is called."""
    return type(body.get_submodule(str(node.target))) if node.op == "call_module" else node.target


def _pools(node: fx.Node, body: nn.Module) -> bool:
    """Return whether a step takes the mean over all positions."""
    what = _what(node, body)
    if what is nn.AdaptiveAvgPool2d:
        return body.get_submodule(str(node.target)).output_size in (1, (1, 1))
    if what is F.adaptive_avg_pool2d:
        return node.args[1] in (1, (1, 1))
    return what == "mean" and node.args[1:] == ([2, 3],)
