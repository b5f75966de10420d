"""predict: the classes that a trained model takes image files for."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ltcli.artifacts.header import read_header
from ltcli.cli.commands import help_of
from ltcli.compute.memory import memory_needed
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.text import printable
from ltcli.stages.prediction import Prediction, find_images
from ltcli.stages.prediction import predict as predict_files

_BAD = ("fail", "skip")
_PRECISIONS = ("auto", "fp32", "bf16")


def predict(
    places: Annotated[
        list[Path], typer.Argument(help="Images, or folders of them.", metavar="FILE_OR_DIR...")
    ],
    model: Annotated[Path, typer.Option("--model", help="Of pretrain, finetune or adjust.")],
    top: Annotated[int, typer.Option(help="Classes of each image.")] = 1,
    on_bad_image: Annotated[
        str, typer.Option(help="A file that is no image: fail or skip.")
    ] = "fail",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    r"""Say which classes images belong to, with probabilities.

    Prints comma-separated values, a line for each image and class, the most probable first. Images
    are cut to their centre square and resized as by split folder. Nothing is printed unless all
    files could be read, or the bad ones are to be skipped; these are named on standard error.

    \b
    Examples:
      ltcli predict photo.jpg --model artifacts/photos/pretrain.safetensors
      ltcli predict new/ --top 3 --json --model artifacts/photos/finetune-crt.safetensors
    """
    if top < 1:
        raise ParamError("predict", f"top must be at least 1, got {top}")
    for name, value, allowed in (
        ("on-bad-image", on_bad_image, _BAD),
        ("precision", precision, _PRECISIONS),
    ):
        if value not in allowed:
            rule = f"{name} must be one of {', '.join(allowed)}, got {value}"
            raise ParamError("predict", rule)
    header = read_header(model)
    if header.kind != "model":
        hint = "name a file of pretrain, finetune or adjust"
        raise ArtifactError(model, f"must be of kind model, got {header.kind}", hint)
    files = find_images(places)
    with memory_needed("predict", "use --device cpu, or a machine with more memory"):
        found = list(
            predict_files(
                header,
                files,
                top=top,
                on_bad_image="skip" if on_bad_image == "skip" else "fail",
                device=device,
                precision=precision,
            )
        )
    for prediction in found:
        if prediction.bad is not None:
            typer.echo(f"predict: skipped {_shown(prediction.file)}: {prediction.bad}", err=True)
    good = [prediction for prediction in found if prediction.bad is None]
    if as_json:
        typer.echo(json.dumps([_document(prediction) for prediction in good], sort_keys=True))
    else:
        _print_csv(good)


def _shown(file: Path) -> str:
    return printable(str(file))


def _document(prediction: Prediction) -> dict[str, Any]:
    classes = [{"class": name, "probability": share} for name, share in prediction.classes]
    return {"file": str(prediction.file), "classes": classes}


def _print_csv(predictions: Sequence[Prediction]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "rank", "class", "probability"])
    for prediction in predictions:
        for rank, (name, share) in enumerate(prediction.classes, 1):
            writer.writerow([_shown(prediction.file), rank, name, f"{share:.6f}"])
    typer.echo(text.getvalue(), nl=False)


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("predict", help=help_of(predict))(predict)
