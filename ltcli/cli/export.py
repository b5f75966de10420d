"""export: a trained model as a file that other programs run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from ltcli.artifacts.header import opened
from ltcli.cli.commands import Command, read_kind
from ltcli.compute.memory import memory_needed
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import param
from ltcli.stages.exporting import FORMATS, check_extra, export
from ltcli.stages.run import check_name, check_writable


@dataclass(frozen=True, kw_only=True)
class Params:
    """Parameters of export."""

    model: Path = param(help="model file written by pretrain, finetune or adjust", positional=True)
    to: Literal["onnx", "torch"] = param(help="file format: ONNX, or a program of torch.export")
    out: Path = param(help="file to write, .onnx or .pt2")
    split: Path | None = param(
        None, "check the file on training images of this split, not on random images"
    )
    root: str | None = param(None, "folder of these images, if they have moved")
    force: bool = param(False, "replace another file")


def run(params: Params, as_json: bool) -> None:
    """Write the file, after a comparison of its outputs with the model's."""
    to, out, split = params.to, params.out, params.split
    if out.suffix != FORMATS[to]:
        raise ParamError("export", f"out must end in {FORMATS[to]} for {to}, got {out}")
    if params.root is not None and split is None:
        raise ParamError("export", "root is of the images of a split: --root needs --split")
    header = read_kind(params.model, "model", "name a file of pretrain, finetune or adjust")
    inputs = [params.model]
    if split is not None:
        read_kind(split, "split", "name the split that the model was trained on")
        inputs.append(split)
    check_name(out, inputs)
    check_writable(out)
    if out.exists() and not params.force:
        # Unreadable files are found before the work, not after it.
        with opened(out):
            pass
    check_extra(to)
    with memory_needed("export", "use a machine with more memory, or a smaller model"):
        content, images, difference = export(header, to, split, params.root)
    made = _write(out, content, params.force)
    if as_json:
        status = "made" if made else "up to date"
        document: dict[str, object] = {"out": str(out), "status": status, "model": header.digest}
        document |= {"images": images, "largest_difference": difference}
        typer.echo(json.dumps(document, sort_keys=True))
        return
    typer.echo(str(out))
    kind = "random" if split is None else "training"
    found = f"the model's classes in float32, logits within {difference:.1e}"
    typer.echo(f"{images} {kind} images: {found}")


def _write(out: Path, content: bytes, force: bool) -> bool:
    """Write a file unless the same one is there; return whether it was written."""
    from ltcli.artifacts.store import locked, save_bytes

    with locked(out):
        # Under the lock, as another export may have written it since the first look.
        if out.exists() and not force:
            with opened(out) as file:
                if file.read() == content:
                    return False
            hint = "--force replaces it, --out writes elsewhere"
            raise ArtifactError(out, "is there with another content", hint)
        save_bytes(out, content)
    return True


COMMAND = Command(
    name="export",
    summary="Write a model as ONNX, or as a torch.export program.",
    details=(
        "The file takes images as bytes, uint8 [B, H, W, 3] in RGB, and gives logits and"
        " probabilities; it normalises inside. Its metadata holds class names, image size and the"
        " model's digest. Before it is written it must give the classes of evaluate --precision"
        " fp32, and its logits up to rounding."
    ),
    params=Params,
    run=run,
    examples=(
        "ltcli export artifacts/photos/pretrain.safetensors --to onnx --out photos.onnx",
        "ltcli export artifacts/photos/adjust-tau.safetensors --to torch --out photos.pt2"
        " --split artifacts/photos/split.safetensors",
    ),
)
