"""export: a trained model as a file that other programs run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ltcli.artifacts.folder import make_folder
from ltcli.artifacts.header import Header, opened, read_header
from ltcli.cli.commands import help_of
from ltcli.compute.memory import memory_needed
from ltcli.core.errors import ArtifactError, ParamError, nearest
from ltcli.stages.exporting import FORMATS, check_extra
from ltcli.stages.exporting import export as export_model
from ltcli.stages.run import check_output


def export(
    model: Annotated[
        Path, typer.Argument(help="Of pretrain, finetune or adjust.", metavar="MODEL")
    ],
    to: Annotated[str, typer.Option("--to", help="onnx or torch.")],
    out: Annotated[Path, typer.Option("--out", help="File to write, .onnx or .pt2.")],
    split: Annotated[
        Path | None,
        typer.Option(help="Check on training images of this split [default: random images]."),
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder of these images, if they are files that moved.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    r"""Write a trained model as ONNX, or as a program of torch.export.

    The file takes images as bytes, uint8 [B, H, W, 3] in RGB, and gives logits and probabilities;
    normalisation is inside. Class names, image size and the model's digest are in its metadata. It
    computes in float32 and is run before it is written: it must give the classes of evaluate
    --precision fp32, and its logits up to rounding.

    \b
    Examples:
      ltcli export artifacts/photos/pretrain.safetensors --to onnx --out photos.onnx
      ltcli export artifacts/photos/adjust-tau.safetensors --to torch --out photos.pt2
        --split artifacts/photos/split.safetensors
    """
    if to not in FORMATS:
        rule = f"to must be one of {', '.join(FORMATS)}, got {to}"
        raise ParamError("export", rule, nearest(to, list(FORMATS)))
    if out.suffix != FORMATS[to]:
        raise ParamError("export", f"out must end in {FORMATS[to]} for {to}, got {out}")
    if root is not None and split is None:
        raise ParamError("export", "root is of the images of a split: --root needs --split")
    header = _header(model, "model", "name a file of pretrain, finetune or adjust")
    if split is not None:
        _header(split, "split", "name the split that the model was trained on")
    check_output(out, [model] if split is None else [model, split])
    if out.exists() and not force:
        # Unreadable files are found before the work, not after it.
        with opened(out):
            pass
    check_extra(to)
    with memory_needed("export", "use a machine with more memory, or a smaller model"):
        content, images, difference = export_model(header, to, split, root)
    made = _write(out, content, force)
    document = {
        "out": str(out),
        "status": "made" if made else "up to date",
        "model": header.digest,
        "images": images,
        "largest_difference": difference,
    }
    if as_json:
        typer.echo(json.dumps(document, sort_keys=True))
        return
    typer.echo(str(out))
    kind = "random" if split is None else "training"
    found = f"the model's classes in float32, logits within {difference:.1e}"
    typer.echo(f"{images} {kind} images: {found}")


def _header(path: Path, kind: str, hint: str) -> Header:
    header = read_header(path)
    if header.kind != kind:
        raise ArtifactError(path, f"must be of kind {kind}, got {header.kind}", hint)
    return header


def _write(out: Path, content: bytes, force: bool) -> bool:
    """Write a file unless it is there as it shall be; return whether it was written."""
    from ltcli.artifacts.store import locked, save_bytes

    make_folder(out.parent, out)
    with locked(out):
        if out.exists() and not force:
            with opened(out) as file:
                if file.read() == content:
                    return False
            hint = "--force replaces it, --out writes elsewhere"
            raise ArtifactError(out, "is there with another content", hint)
        save_bytes(out, content)
    return True


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("export", help=help_of(export))(export)
