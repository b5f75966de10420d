"""A network, which is a backbone and a classifier, built from a record or an artifact."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ltcli.artifacts.backbone import Backbone, backbone_of
from ltcli.artifacts.store import Artifact
from ltcli.compute.device import autocast
from ltcli.compute.memory import keep_freed_memory
from ltcli.compute.parallel import World
from ltcli.core.errors import ArtifactError
from ltcli.models.backbones import build_backbone
from ltcli.models.classifier import Classifier


class Network(nn.Module):
    """Images to logits: the backbone makes features, the classifier makes logits of them."""

    def __init__(self, backbone: nn.Module, classifier: Classifier) -> None:
        """Join the two."""
        super().__init__()
        self.backbone, self.classifier = backbone, classifier
        self._together: Callable[[torch.Tensor], torch.Tensor] | None = None

    def share(self, world: World) -> None:
        """Let several processes compute the features of a training batch together."""
        if world.size > 1:
            world.synchronised(self.backbone)
            self._together = world.shared(self.backbone)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features, float [B, D], of images float [B, 3, H, W] or of embeddings."""
        # The wrapped backbone adds up gradients over processes; without one there is a single
        # process.
        features: torch.Tensor = (self._together or self.backbone)(images)
        return features

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps, float [B, D, Y, X], of a backbone that has some."""
        maps: torch.Tensor = self.backbone.maps(images)  # type: ignore[operator]
        return maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 [B, C]; see ``features``."""
        # The last layer is small, and its logits decide: it has no lower precision.
        features = self.features(images).float()
        with autocast(features.device, torch.float32):
            logits: torch.Tensor = self.classifier(features)
        return logits

    def size(self) -> int:
        """Return the number of parameters; the classifier's factors are part of its vectors."""
        total = sum(parameter.numel() for parameter in self.parameters())
        return total - self.classifier.scales.numel()


class Pooled(nn.Module):
    """A network of timm without its last layer as a backbone.

    ``has_maps`` says that its features, D numbers, are the mean of feature maps over positions.
    """

    def __init__(self, body: Any, feature_dim: int, *, has_maps: bool) -> None:
        """Keep the network; its tensors keep their names behind ``body.``."""
        super().__init__()
        self.body = body
        self._feature_dim, self._has_maps = feature_dim, has_maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features, float [B, D], of images float [B, 3, H, W]."""
        found = self.body.forward_features(images)
        features: torch.Tensor = self.body.forward_head(found, pre_logits=True)
        return features

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps, float [B, D, Y, X], whose mean the features are."""
        if not self._has_maps:
            raise ValueError("the features are not the mean of feature maps")
        maps: torch.Tensor = self.body.forward_features(images)
        # Transformers on windows have their channels last.
        return maps if maps.shape[1] == self._feature_dim else maps.permute(0, 3, 1, 2)


def build_network(backbone: Backbone, num_classes: int, seed: int, form: str = "linear") -> Network:
    """Return a network whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = build_backbone(backbone)
        return Network(body, Classifier(backbone.feature_dim, num_classes, form))


def build_classifier(
    feature_dim: int, num_classes: int, seed: int, form: str = "linear"
) -> Classifier:
    """Return a classifier whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(feature_dim, num_classes, form)


def place(network: Network, device: torch.device) -> Network:
    """Move a network to a device, its convolutions in channels-last memory, which is faster."""
    if device.type == "cpu":
        keep_freed_memory()
    return network.to(device).to(memory_format=torch.channels_last)


def load_network(model: Artifact, device: torch.device, epoch: int | None = None) -> Network:
    """Return the network of a model artifact, in eval mode and channels-last memory.

    Its weights are those after an epoch whose snapshot was kept, from 0; None for the last.

    Raises:
        ArtifactError: There is no such backbone, or the tensors do not fit it.
    """
    where, backbone = model.header.path, backbone_of(model.header)
    try:
        body = build_backbone(backbone)
    except KeyError:
        raise ArtifactError(where, f"unknown backbone {backbone}") from None
    classifier = load_classifier(model, epoch)
    try:
        body.load_state_dict(load_part(model, "backbone", epoch))
        fits = backbone.feature_dim == classifier.weight.shape[1]
    except RuntimeError:
        fits = False
    if not fits:
        raise ArtifactError(where, f"its tensors do not fit backbone {backbone}")
    return place(Network(body, classifier).eval(), device)


def load_classifier(model: Artifact, epoch: int | None = None) -> Classifier:
    """Rebuild the classifier of a model artifact, in eval mode on the CPU; see ``load_network``."""
    form, shape = model.header.info["classifier"], model.header.tensors["classifier.weight"][1]
    classifier = Classifier(shape[1], shape[0], form)
    try:
        classifier.load_state_dict(load_part(model, "classifier", epoch))
    except RuntimeError:
        rule = f"its tensors do not fit a classifier of form {form}"
        raise ArtifactError(model.header.path, rule) from None
    return classifier.eval()


def load_part(model: Artifact, part: str, epoch: int | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors of ``backbone`` or ``classifier`` by name; see ``load_network``."""
    if epoch is None:
        return model.load(f"{part}.*")
    known = model.tensor("snapshots.epoch").tolist()
    if epoch not in known:
        rule = f"snapshots.epoch must hold {epoch}, one of the last epochs"
        raise ArtifactError(model.header.path, rule)
    position = known.index(epoch)
    kept = model.load(f"snapshots.{part}.*")
    return {name: stacked[position] for name, stacked in kept.items()}
