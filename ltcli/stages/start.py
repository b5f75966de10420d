"""Where pre-training starts from: a backbone for the samples, and weights from elsewhere."""

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
    """Where one run starts from.

    Attributes:
        backbone: The network, and how images are prepared for it.
        weights: File of the first weights, or ``default``; None for fresh ones.
        origin: SHA-256 of that file, or the name of the published weights; None for fresh ones.
        warnings: Lines for people about images that the network does not suit.
    """

    backbone: Backbone
    weights: str | None
    origin: str | None
    warnings: tuple[str, ...]

    @property
    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the weights by their role, so that a run notices changed ones."""
        if self.origin is None:
            return {}
        if self.weights == "default":
            return {"weights": hashlib.sha256(self.origin.encode()).hexdigest()}
        return {"weights": self.origin}


def resolve_start(params: Params, variant: str, split: Header) -> Start:
    """Return where a run starts from.

    Args:
        params: The parameters of ``pretrain``.
        variant: Change that the method makes to the backbone; empty for none.
        split: The split.

    Raises:
        ParamError: There is no such backbone, or not with this method, samples or weights.
        ArtifactError: The file of weights is missing or of another version.
    """
    backbone = resolve(params.backbone, split, params.method, variant)
    _check_weights(params, backbone, split)
    origin = None
    if params.weights == "default":
        origin = BACKBONES[backbone.source].published(backbone.name)
        if origin is None:
            rule = f"weights of {backbone} must be a file, got default"
            raise ParamError("pretrain", rule, "nobody publishes weights of this network")
    elif params.weights is not None:
        origin = _digest(Path(params.weights))
        mean, std = _pixel_statistics(Path(params.weights), backbone)
        backbone = dataclasses.replace(backbone, mean=mean, std=std)
    small = size_warning(split, backbone, params.root)
    return Start(backbone, params.weights, origin, () if small is None else (small,))


def _check_weights(params: Params, backbone: Backbone, split: Header) -> None:
    if params.weights is not None and not backbone.image_size:
        rule = f"weights must not be given for embeddings, got {params.weights}"
        raise ParamError("pretrain", rule)
    if params.epochs == 0 and params.weights is None:
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
        while block := file.read(2**22):
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


def recipe_of(params: Params, start: Start, split: Header) -> list[Any]:
    """Return how the model was made, with what ``auto`` came to and where weights came from."""
    # The inputs of a split are what its data set was: other files make another recipe.
    chosen = {**split.parameters, **split.inputs, "store": split.info["store"]}
    first = recipe([], "split", chosen)
    chosen = {**as_dict(params), "backbone": start.backbone.label}
    if start.origin is not None:
        chosen["weights"] = start.origin
    return recipe(first, "pretrain", chosen)


def load_start(network: Network, start: Start) -> None:
    """Put the weights from elsewhere into a fresh network, if there are any.

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
    rest = f"{classifier} of the classifier" if classifier else "none of the classifier"
    logger.info(
        "pretrain: took %d tensors of the backbone and %s from %s", backbone, rest, start.weights
    )
