"""A network is a backbone and a classifier; here they are built by name and from artifacts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ltcli.artifacts.header import Header
from ltcli.artifacts.store import Artifact
from ltcli.compute.device import autocast
from ltcli.compute.parallel import World
from ltcli.core.errors import ArtifactError
from ltcli.models.borrowed import Borrowed, borrowed_map_size, build_borrowed
from ltcli.models.classifier import FORMS, Classifier
from ltcli.models.embeddings import Embeddings
from ltcli.models.names import BORROWED, EMBEDDINGS
from ltcli.models.resnet import ResNet
from ltcli.models.several import Experts, Rotations, TwoBranches

Backbone = ResNet | Borrowed | Embeddings

_WIDE = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
_EXPERTS = tuple("23456789")
_NARROW = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}


class Network(nn.Module):
    """Images to logits.

    Attributes:
        backbone: Images to features.
        classifier: Features to logits.
    """

    def __init__(self, backbone: Backbone, classifier: Classifier) -> None:
        """Join the two."""
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self._together: Callable[[torch.Tensor], torch.Tensor] | None = None

    def share(self, world: World) -> None:
        """Let several processes compute the features of a training batch together."""
        if world.size > 1:
            world.synchronised(self.backbone)
            self._together = world.shared(self.backbone)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features, float [B, D], of images float [B, 3, H, W] or of embeddings."""
        features: torch.Tensor = (self._together or self.backbone)(images)
        return features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 [B, C]; see ``features``.

        The last layer is small, and its logits decide: it has no lower precision.
        """
        features = self.features(images).float()
        with autocast(features.device, torch.float32):
            logits: torch.Tensor = self.classifier(features)
        return logits

    def size(self) -> int:
        """Return the number of parameters; the classifier's factors are part of its vectors."""
        total = sum(parameter.numel() for parameter in self.parameters())
        return total - self.classifier.scales.numel()


def build_backbone(name: str, image_size: Sequence[int] = (224, 224)) -> Backbone:
    """Return a freshly initialised backbone.

    Args:
        name: resnet20/32/44/56/110 (6n+2 layers, widths 16, 32, 64, D = 64) or resnet10/18/34
            (widths 64 to 512, D = 512), both with a 3x3 stem of stride 1 and no max-pooling. With
            ``-bbn``, ``-sla`` or ``-ride3`` (3 experts) behind it, see ``ltcli.models.several``.
            Or a network of torchvision, ``torchvision.resnet50``, see ``ltcli.models.borrowed``.
        image_size: Height and width, for networks that are made for one size.

    Raises:
        KeyError: There is none of this name.
        AssertionError, RuntimeError, ValueError: It cannot be made for such images.
    """
    if name.startswith(BORROWED):
        return build_borrowed(name, image_size)
    plain, _, more = name.partition("-")
    if plain.startswith(EMBEDDINGS) and not more:
        return Embeddings(int(plain.removeprefix(EMBEDDINGS)))
    shape: dict[str, Any] = {
        "widths": (64, 128, 256, 512) if plain in _WIDE else (16, 32, 64),
        "blocks": _WIDE[plain] if plain in _WIDE else (_NARROW[plain],) * 3,
        "projection": plain in _WIDE,
    }
    if more.startswith("ride") and more[4:] in _EXPERTS:
        return Experts(**shape, experts=int(more[4:]))
    return {"": ResNet, "bbn": TwoBranches, "sla": Rotations}[more](**shape)


def num_stages(name: str) -> int:
    """Return how many of its last stages a backbone can be split before, without building it.

    Networks of torchvision have no stages that are known here; of experts and turned images there
    are no maps of one image before the last stages.
    """
    plain, _, more = name.partition("-")
    return _depth(plain) if more in ("", "bbn") and not name.startswith(BORROWED) else 0


def _depth(plain: str) -> int:
    return 4 if plain in _WIDE else 3


def map_size(name: str, image_size: Sequence[int]) -> tuple[int, ...] | None:
    """Return the sides of a backbone's last feature map, without values for its weights.

    Args:
        name: As for ``build_backbone``.
        image_size: Height and width; empty for embeddings.

    Returns:
        None if its features are not the mean of feature maps.
    """
    if name.startswith(BORROWED):
        return borrowed_map_size(name, image_size)
    if name.startswith(EMBEDDINGS):
        return None
    # Every stage but the first halves the sides, rounding up.
    scale = 2 ** (_depth(name.partition("-")[0]) - 1)
    return tuple(-(-side // scale) for side in image_size)


def require_maps(model: Header) -> tuple[int, ...]:
    """Return the sides of the last feature map of a model.

    Raises:
        ArtifactError: The features of its backbone are not the mean of feature maps.
    """
    name = model.info["backbone"]
    try:
        size = map_size(name, model.info["image_size"])
    except (AttributeError, KeyError, TypeError):
        raise ArtifactError(model.path, f"unknown backbone {name}") from None
    if size is None:
        hint = "its features must be the mean of feature maps, as those of a ResNet"
        raise ArtifactError(model.path, f"backbone {name} has no feature maps", hint)
    return size


def build_network(
    backbone: str,
    num_classes: int,
    seed: int,
    form: str = "linear",
    image_size: Sequence[int] = (224, 224),
) -> Network:
    """Return a network whose initial weights depend on the seed alone.

    Args:
        backbone: As for ``build_backbone``.
        num_classes: C.
        seed: Of the weights.
        form: Of the classifier.
        image_size: As for ``build_backbone``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = build_backbone(backbone, image_size)
        return Network(body, Classifier(body.feature_dim, num_classes, form))


def build_classifier(
    feature_dim: int, num_classes: int, seed: int, form: str = "linear"
) -> Classifier:
    """Return a classifier whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(feature_dim, num_classes, form)


def place(network: Network, device: torch.device) -> Network:
    """Move a network to a device, its convolutions in channels-last memory, which is faster."""
    return network.to(device).to(memory_format=torch.channels_last)


def load_network(model: Artifact, device: torch.device, epoch: int | None = None) -> Network:
    """Rebuild the network of a model artifact, in eval mode and channels-last memory.

    Args:
        model: The artifact.
        device: Where to put it.
        epoch: Take the weights that were kept after this epoch, from 0; None for the last.

    Raises:
        ArtifactError: The tensors do not fit the named backbone.
    """
    where, info = model.header.path, model.header.info
    try:
        body = build_backbone(info["backbone"], info["image_size"])
    except (AttributeError, KeyError, TypeError):
        raise ArtifactError(where, f"unknown backbone {info['backbone']}") from None
    except (AssertionError, RuntimeError, ValueError):
        rule = f"backbone {info['backbone']} takes no images of {info['image_size']} pixels"
        raise ArtifactError(where, rule) from None
    if info["classifier"] not in FORMS:
        raise ArtifactError(where, f"unknown classifier {info['classifier']}")
    head = Classifier(body.feature_dim, len(info["class_names"]), info["classifier"])
    network = Network(body, head)
    try:
        network.load_state_dict(_state(model, epoch))
    except RuntimeError:
        rule = f"its tensors do not fit backbone {info['backbone']}"
        raise ArtifactError(where, rule) from None
    return place(network.eval(), device)


def _state(model: Artifact, epoch: int | None) -> dict[str, torch.Tensor]:
    state = {}
    prefix = "" if epoch is None else "snapshots."
    for part in ("backbone", "classifier"):
        for name, tensor in model.load(f"{prefix}{part}.*").items():
            state[f"{part}.{name}"] = tensor
    if epoch is None:
        return state
    position = model.tensor("snapshots.epoch").tolist().index(epoch)
    return {name: stacked[position] for name, stacked in state.items()}
