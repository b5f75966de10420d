"""The starting point of pre-training: a backbone for the samples, and weights from elsewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcli.artifacts.backbone import Backbone, backbone_of
from ltcli.artifacts.header import Header, opened, read_header
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import as_dict
from ltcli.models.backbones import BACKBONES, resolve
from ltcli.stages.samples import size_warning
from ltcli.stages.stage import recipe

if TYPE_CHECKING:
    from ltcli.models.network import Network
    from ltcli.stages.pretrain import Params

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The starting point of one run.

    Attributes:
        backbone: Record of the network and the preparation of its images.
        weights: File of the first weights, or ``default``; None for fresh ones.
        origin: SHA-256 of that file, or the name of the published weights; None for fresh ones.
        warnings: Lines for people about images that do not suit the network.
    """

    backbone: Backbone
    weights: str | None
    origin: str | None
    warnings: tuple[str, ...]

    @property
    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the weights by their role, so that a run notices changed ones."""
        if self.weights == "default" and self.origin:
            # A header takes only SHA-256 values, so the name is hashed.
            return {"weights": hashlib.sha256(self.origin.encode()).hexdigest()}
        return {} if self.origin is None else {"weights": self.origin}


def resolve_start(params: Params, variant: str, split: Header) -> Start:
    """Return the starting point of a run; ``variant`` is the method's change of the backbone.

    Raises:
        ParamError: There is no such backbone, or not with this method, samples or weights.
        ArtifactError: The file of weights is missing or of another version.
    """
    backbone = resolve(params.backbone, split, params.method, variant)
    _check_weights(params, backbone)
    origin = None
    if params.weights == "default":
        origin = BACKBONES[backbone.source].published(backbone.name)
        if origin is None:
            rule = f"weights of {backbone} must be a file, got default"
            raise ParamError("pretrain", rule, "nobody publishes weights of this network")
    elif params.weights is not None:
        origin = _digest(Path(params.weights))
        mean, std = _pixel_statistics(Path(params.weights), backbone)
        # Weights expect their own colours.
        backbone = dataclasses.replace(backbone, mean=mean, std=std)
    small = size_warning(split, backbone, params.root)
    return Start(backbone, params.weights, origin, () if small is None else (small,))


def _check_weights(params: Params, backbone: Backbone) -> None:
    if params.weights is not None and not backbone.image_size:
        rule = f"weights must not be given for embeddings, got {params.weights}"
        raise ParamError("pretrain", rule)
    if params.epochs == 0 and params.weights is None:  # It would save random numbers as a model.
        hint = "0 keeps the weights of --weights as they are"
        raise ParamError("pretrain", "epochs must be at least 1 without weights, got 0", hint)
    if params.epochs == 0 and params.method != "cross-entropy":
        rule = f"method must be cross-entropy with 0 epochs, got {params.method}"
        raise ParamError("pretrain", rule, "nothing is trained")


def _digest(path: Path) -> str:
    if not path.is_file():
        raise ArtifactError(path, "no such file")
    digest = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(2**22):  # In pieces: weights may exceed the memory.
            digest.update(block)
    return digest.hexdigest()


def _pixel_statistics(
    weights: Path, backbone: Backbone
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of each colour that weights were trained with, else the backbone's."""
    try:
        header = read_header(weights)
        if header.kind == "model":
            backbone = backbone_of(header)
    except ArtifactError as error:
        # Most files of weights are no artifacts; one of an older version has colours of its own.
        if "version must be" in error.message:
            raise
    return backbone.mean, backbone.std


def recipe_of(params: Params, solver: str, start: Start, split: Header) -> list[Any]:
    """Return the recipe of the model, with the outcomes of ``auto`` and the origin of weights."""
    # The inputs of a split identify its data set: other files make another recipe.
    chosen = {**split.parameters, **split.inputs, "store": split.info["store"]}
    first = recipe([], "split", chosen)
    chosen = {**as_dict(params), "backbone": start.backbone.label, "optimizer": solver}
    if start.origin is not None:
        chosen["weights"] = start.origin  # Not the path: a moved file is the same recipe.
    return recipe(first, "pretrain", chosen)


def load_start(network: Network, start: Start) -> None:
    """Load the weights from elsewhere into a fresh network, if there are any.

    Raises:
        ArtifactError: They do not fit.
        ResourceError: They cannot be fetched.
    """
    if start.weights is None:
        return
    from ltcli.models.weights import put_in, read_weights

    source, name = BACKBONES[start.backbone.source], start.backbone.name
    if start.weights == "default":
        tensors = source.fetch(start.backbone)
    else:
        tensors = read_weights(Path(start.weights))
    backbone, classifier = put_in(network, tensors, start.weights, source.head(name))
    # A partial load that nobody notices looks like weights that do not help.
    took = f"{backbone} tensors of the backbone and {classifier or 'none'} of the classifier"
    logger.info("pretrain: took %s from %s", took, start.weights)
