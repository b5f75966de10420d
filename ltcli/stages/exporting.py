"""A model as one file that other programs run, checked against the model before it is written.

The file takes decoded images, uint8 [B, H, W, 3] in RGB, B >= 1, and gives ``logits`` and
``probabilities``, float32 [B, C]. It normalises the images itself. ``metadata`` lists its entries;
no path, clock or host is in the file.
"""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ltcli import __version__
from ltcli.artifacts.backbone import backbone_of
from ltcli.compute.memory import ran_out
from ltcli.compute.seeds import derive
from ltcli.core.errors import ArtifactError, NumericalError, ResourceError
from ltcli.stages.samples import check_samples, image_files

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ltcli.artifacts.header import Header
    from ltcli.models.network import Network

    Run = Callable[[torch.Tensor], torch.Tensor]
    """Inputs of an exported network to its logits, float [B, C]."""

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
# Relative to the largest logit, or to 1: float32 rounds differently in another order of operations.
TOLERANCE = 1e-4
# The limit of one protocol buffer, less some room for the graph.
ONNX_BYTES = 2**31 - 2**24
# Enough to show a wrong layout or normalisation, within seconds; fewer of large images.
_IMAGES, _PIXELS = 256, 2**24
_BATCH = 64
_CUT = "stored_size, crop_mode, crop_share and interpolation of the backbone say how it is cut"
_INPUT = f"uint8 [B, H, W, 3], RGB, of image_size; {_CUT} and resized"


def metadata(header: Header) -> dict[str, str]:
    """Metadata of an exported file, by key; values are JSON or text."""
    info = header.info
    return {
        # Readable in any viewer of such files, hence not as ASCII escapes.
        "class_names": json.dumps(info["class_names"], ensure_ascii=False),
        "backbone": json.dumps(info["backbone"], sort_keys=True),
        "input": _INPUT if info["backbone"]["image_size"] else "float32 [B, D]",
        "ltcli": __version__,
        "model": header.digest,
    }


def check_extra(form: str) -> None:
    """Refuse a format whose packages are not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ():
        if find_spec(package) is None:
            rule = f"onnx needs {package}, which is not installed"
            raise ResourceError("export", rule, "pip install 'ltcli[export]'")


def export(
    header: Header, form: str, split: Path | None, root: str | None = None
) -> tuple[bytes, int, float]:
    """Exported content of a model, number of images it was checked on, and largest difference.

    ``form`` is a key of ``FORMATS``. Training images of ``split`` check the file, found below
    ``root`` if they are in files that have moved; without a split, random images do.
    """
    import torch

    from ltcli.artifacts.store import open_artifact
    from ltcli.data.batches import FeatureBatches, ImageBatches, Samples
    from ltcli.engine.infer import features_of
    from ltcli.models.network import load_network

    weights = [n for n in header.tensors if n.startswith(("backbone.", "classifier."))]
    size = sum(4 * math.prod(header.tensors[name][1]) for name in weights)
    if form == "onnx" and size > ONNX_BYTES:
        rule = f"must have at most {ONNX_BYTES / 1e9:.1f} GB of weights for onnx"
        hint = "use --to torch: an ONNX file holds 2 GB"
        raise ArtifactError(header.path, f"{rule}, got {size / 1e9:.1f} GB", hint)
    with open_artifact(header.path) as model:
        network = load_network(model, torch.device("cpu"))
    backbone, images = backbone_of(header), _images(header, split, root)
    samples: Samples = FeatureBatches(images, torch.device("cpu"))
    if backbone.image_size:
        samples = ImageBatches(images, backbone.mean, backbone.std, torch.device("cpu"))
    # The logits that evaluate gives with --precision fp32.
    with torch.inference_mode():
        expected = network.classifier(features_of(network, samples, torch.float32))
    content, run = make(network, header, form)
    # Batches of several sizes, as tracing may fix the size of its example.
    found = torch.cat([run(part) for part in (images[:1], *torch.split(images[1:], _BATCH))])
    return content, len(images), compare(found, expected)


def make(network: Network, header: Header, form: str) -> tuple[bytes, Run]:
    """Content of a file of a network in eval mode on the CPU, and a function that runs it."""
    try:
        return _MAKERS[form](_program(network, header), metadata(header))
    except RuntimeError as error:
        if ran_out(error):  # The machine's fault, not the model's: the caller says so.
            raise
        # Torch's exporters raise this type; the first line of the message has the reason.
        reason = str(error).strip().partition("\n")[0]
        raise ArtifactError(header.path, f"cannot be exported to {form}: {reason}") from error


def _images(header: Header, split: Path | None, root: str | None) -> torch.Tensor:
    """Images to check on, uint8 [B, H, W, 3], or embeddings; at least two."""
    import torch

    from ltcli.artifacts.store import open_artifact
    from ltcli.data.batches import Augmentation, resized

    backbone = backbone_of(header)
    if split is None:
        # Always the same images, so that exports of one model can be compared.
        generator = torch.Generator().manual_seed(derive("export"))
        if not backbone.image_size:
            return torch.randn(_IMAGES, backbone.feature_dim, generator=generator)
        number = min(_IMAGES, max(2, _PIXELS // math.prod(backbone.image_size)))
        shape = (number, *backbone.image_size, 3)
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    with open_artifact(split) as artifact:
        if artifact.header.digest != header.info["split"]:
            rule = f"is not the split that {header.path} was trained on"
            raise ArtifactError(split, rule, "name that one, or leave --split out")
        count = artifact.header.size("train.labels", 0)
        # Spread over the training set, which is sorted by class in some sources.
        rows = range(0, count, max(1, count // _IMAGES))[:_IMAGES]
        store = artifact.header.info["store"]
        if store == "features":
            return artifact.tensor("train.features")[list(rows)]
        if store == "images":
            stored = artifact.tensor("train.images")[list(rows)].permute(0, 3, 1, 2).float()
            images = resized(stored, backbone.image_size, backbone.interpolation)
            # The file takes bytes, so both sides must see the same rounding.
            return images.byte().permute(0, 2, 3, 1).contiguous()
        check_samples("export", root, artifact.header)
        files = image_files(artifact, "train", root, backbone, Augmentation())
        return files.images((row, None) for row in rows).permute(0, 2, 3, 1).contiguous()


def _program(network: Network, header: Header) -> torch.export.ExportedProgram:
    """Network with its normalisation as one graph for any number of images."""
    import torch

    from ltcli.models.deployed import Deployed, Normalise

    backbone = backbone_of(header)
    prepare: torch.nn.Module = torch.nn.Identity()
    # Two rows, as torch.export takes a size of 1 for a constant.
    example = torch.zeros(2, backbone.feature_dim)
    if backbone.image_size:
        prepare = Normalise(backbone.mean, backbone.std)
        example = torch.zeros((2, *backbone.image_size, 3), dtype=torch.uint8)
    whole = Deployed(prepare, network).to(memory_format=torch.contiguous_format).eval()
    batch = {"inputs": {0: torch.export.Dim("batch")}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(whole, (example,), dynamic_shapes=batch)
    for node in program.graph.nodes:
        # A stack trace has the paths of our source files.
        node.meta.pop("stack_trace", None)
    return program


def _to_torch(program: torch.export.ExportedProgram, known: dict[str, str]) -> tuple[bytes, Run]:
    """Content of a file for ``torch.export.load``, and a function that runs it."""
    import torch

    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(known))
    content = buffer.getvalue()
    # The check runs the content itself, not the program that it was written from.
    again = torch.export.load(io.BytesIO(content)).module()

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = again(images)[0]
        return logits

    return content, run


def _to_onnx(program: torch.export.ExportedProgram, known: dict[str, str]) -> tuple[bytes, Run]:
    """Content of an ONNX file, and a function that runs it."""
    import onnxruntime
    import torch

    # It logs every constant that it does not fold.
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named: Any = {"input_names": ["images"], "output_names": ["logits", "probabilities"]}
        made: Any = torch.onnx.export(program, verbose=False, **named)
    model = made.model_proto
    for key, value in known.items():
        model.metadata_props.add(key=key, value=value)
    # Deterministic: the same model gives the same bytes.
    content = model.SerializeToString(deterministic=True)
    # Of the bytes themselves: what is checked is what is written.
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return content, run


_MAKERS = {"onnx": _to_onnx, "torch": _to_torch}


def compare(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference between the logits of a file and of its model, float [N, C] each.

    Raises:
        NumericalError: It exceeds ``TOLERANCE`` times the largest logit or 1, or a class differs
            although the two best logits of the model are further apart than that.
    """
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    difference = float((found - expected).abs().max())
    best = expected.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > allowed  # Rounding may swap classes that nearly tie.
    wrong = int(((found.argmax(1) != expected.argmax(1)) & clear).sum())
    # Written so that NaN, which compares as false, is refused.
    if not difference <= allowed:
        rule = f"logits must differ by at most {allowed:.2g} from the model's, got {difference:.2g}"
    elif wrong:
        rule = f"classes must be the model's, got others for {wrong} of {len(found)} images"
    else:
        return difference
    raise NumericalError("export", rule, "nothing was written; report this as a bug")
