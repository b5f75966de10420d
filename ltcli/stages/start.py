"""What pre-training starts from: a backbone by name, and weights from elsewhere."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcli.artifacts.header import opened, read_header
from ltcli.core.errors import ArtifactError, ParamError, nearest
from ltcli.core.params import as_dict
from ltcli.models.names import BACKBONES, BORROWED, EMBEDDINGS
from ltcli.stages.recipe import recipe

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header
    from ltcli.models.network import Network
    from ltcli.stages.pretrain import Params

logger = logging.getLogger(__name__)


def backbone_of(params: Params, variant: str, split: Header) -> str:
    """Return the name of the backbone as the samples and the method want it."""
    name = plain_backbone(params, split)
    return f"{name}-{variant}" if variant else name


def plain_backbone(params: Params, split: Header) -> str:
    """Return the name of the backbone without what a method changes of it."""
    if params.backbone != "auto":
        return str(params.backbone)
    if split.info["store"] == "features":
        return f"{EMBEDDINGS}{split.size('train.features', 1)}"
    return "resnet32"


def pixels(params: Params, split: Header) -> dict[str, list[float]]:
    """Return mean and standard deviation of each colour, 0..1, that the network shall know.

    Those of the model that the weights are of; of a network of torchvision with other weights
    those of its published ones, mostly ImageNet's; else those of the split.
    """
    model = _model_of(params)
    if model is not None:
        return {"mean": model.info["mean"], "std": model.info["std"]}
    if params.weights is not None and params.backbone.startswith(BORROWED):
        from ltcli.models.weights import published_pixels

        name = None if _is_file(params.weights) else params.weights
        return published_pixels(params.backbone, name)
    return {"mean": split.info["mean"], "std": split.info["std"]}


def check_start(params: Params, variant: str, split: Header) -> None:
    """Check backbone and weights.

    Raises:
        ParamError: There are none of this name, or the method cannot be had with them.
        ArtifactError: The images do not suit the backbone.
    """
    name = params.backbone
    as_it_is = not variant
    if split.info["store"] == "features":
        if name != "auto":
            rule = f"backbone must be auto for the embeddings of {split.path}, got {name}"
            raise ParamError("pretrain", rule)
        if not as_it_is:
            rule = "method must be one without a backbone of its own for embeddings"
            raise ParamError("pretrain", f"{rule}, got {params.method}")
        if params.weights is not None:
            rule = f"weights must not be given for embeddings, got {params.weights}"
            raise ParamError("pretrain", rule)
    elif name.startswith(BORROWED):
        _check_borrowed(name, as_it_is, params.method, split)
    elif name not in ("auto", *BACKBONES):
        rule = f"backbone must be one of {', '.join(BACKBONES)} or {BORROWED}NAME, got {name}"
        raise ParamError("pretrain", rule, nearest(name, BACKBONES))
    if params.epochs == 0 and params.weights is None:
        hint = "0 keeps the weights of --weights as they are"
        raise ParamError("pretrain", "epochs must be at least 1 without weights, got 0", hint)
    if params.epochs == 0 and params.method != "cross-entropy":
        rule = f"method must be cross-entropy with 0 epochs, got {params.method}"
        raise ParamError("pretrain", rule, "nothing is trained")
    _origin(params)


def _check_borrowed(name: str, as_it_is: bool, method: str, split: Header) -> None:
    from ltcli.models.borrowed import names, takes

    if name not in names():
        rule = f"no backbone '{name}'"
        raise ParamError("pretrain", rule, nearest(name, names()))
    if not as_it_is:
        rule = f"backbone must be one of {', '.join(BACKBONES)} for {method}, got {name}"
        raise ParamError("pretrain", rule, "the method changes the layers of the backbone")
    height, width = split.info["image_size"]
    if not takes(name, (height, width)):
        rule = f"{name} takes no images of {height}x{width}"
        hint = "make the split with another --image-size, or choose another backbone"
        raise ArtifactError(split.path, rule, hint)


def _model_of(params: Params) -> Header | None:
    """Return the header of the weights where they are a model of ltcli."""
    if params.weights is None or not _is_file(params.weights):
        return None
    try:
        header = read_header(Path(params.weights))
    except ArtifactError:
        return None
    return header if header.kind == "model" else None


def _is_file(weights: str) -> bool:
    return "." in weights or "/" in weights


@functools.cache
def _digest(path: Path, _size: int, _changed: int) -> str:
    # One command asks several times, and weights are large.
    digest = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def _origin(params: Params) -> str | None:
    """Return what identifies the weights: the SHA-256 of a file, or torchvision's name of them.

    Raises:
        ArtifactError: There is no such file.
        ParamError: Torchvision has no such weights of the backbone.
    """
    if params.weights is None:
        return None
    if _is_file(params.weights):
        path = Path(params.weights)
        if not path.is_file():
            raise ArtifactError(path, "no such file")
        state = path.stat()
        return _digest(path, state.st_size, state.st_mtime_ns)
    if not params.backbone.startswith(BORROWED):
        rule = f"weights must be a file for this backbone, got {params.weights}"
        hint = "a file's name has a dot or a slash"
        raise ParamError("pretrain", rule, hint)
    from ltcli.models.weights import registered

    return str(registered(params.backbone, params.weights))


def facts(params: Params) -> dict[str, str]:
    """Return what a header says of the weights beside the parameters: their origin, if any."""
    origin = _origin(params)
    return {} if origin is None else {"weights": origin}


def recipe_of(params: Params, split: Header) -> list[Any]:
    """Return how the model was made, with what ``auto`` came to and where weights came from."""
    # The inputs of a split are what its data set was: other files make another recipe.
    chosen = {**split.parameters, **split.inputs, "store": split.info["store"]}
    first = recipe([], "split", chosen)
    chosen = {**as_dict(params), "backbone": plain_backbone(params, split), **facts(params)}
    return recipe(first, "pretrain", chosen)


def fingerprint(params: Params) -> dict[str, str]:
    """Return a SHA-256 for the weights, so that changed ones are seen."""
    found: Mapping[str, str] = facts(params)
    if params.weights is None or _is_file(params.weights):
        return dict(found)
    return {"weights": hashlib.sha256(found["weights"].encode()).hexdigest()}


def load_start(network: Network, params: Params) -> None:
    """Put the weights from elsewhere into a fresh network, if there are any.

    Raises:
        ArtifactError: They do not fit.
        ResourceError: They cannot be fetched.
    """
    if params.weights is None:
        return
    from ltcli.models.weights import fetch, put_in, read_weights, registered

    if _is_file(params.weights):
        tensors = read_weights(Path(params.weights))
    else:
        tensors = fetch(registered(params.backbone, params.weights))
    backbone, classifier = put_in(network, tensors, params.weights)
    rest = f"{classifier} of the classifier" if classifier else "none of the classifier"
    logger.info(
        "pretrain: took %d tensors of the backbone and %s from %s", backbone, rest, params.weights
    )
