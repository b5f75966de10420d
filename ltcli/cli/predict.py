"""predict: the classes that a trained model takes image files for."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from ltcli.artifacts.header import read_header
from ltcli.cli.commands import Command
from ltcli.compute.memory import memory_needed
from ltcli.core.errors import ArtifactError
from ltcli.core.params import param
from ltcli.core.text import printable
from ltcli.stages.prediction import find_images, predict


@dataclass(frozen=True, kw_only=True)
class Params:
    """Parameters of predict."""

    images: tuple[Path, ...] = param(help="image files, or folders of them", positional=True)
    model: Path = param(help="model file written by pretrain, finetune or adjust")
    top: int = param(1, "classes listed for each image, the most probable first", ge=1)
    on_bad_image: Literal["fail", "skip"] = param(
        "fail", "stop at a file that is no image, or skip it and say so"
    )
    device: str = param("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: Literal["auto", "fp32", "bf16"] = param(
        "auto", "precision of the backbone; auto is bf16 where the device computes in it"
    )


def run(params: Params, as_json: bool) -> None:
    """Print the classes of each image."""
    header = read_header(params.model)
    if header.kind != "model":
        hint = "name a file of pretrain, finetune or adjust"
        raise ArtifactError(params.model, f"must be of kind model, got {header.kind}", hint)
    files = find_images(params.images)
    with memory_needed("predict", "use --device cpu, or a machine with more memory"):
        # All before the first line: a bad file must not leave half a table.
        found = list(
            predict(
                header,
                files,
                top=params.top,
                on_bad_image=params.on_bad_image,
                device=params.device,
                precision=params.precision,
            )
        )
    good = []
    for prediction in found:
        name = printable(str(prediction.file))
        if prediction.bad is not None:
            typer.echo(f"predict: skipped {name}: {prediction.bad}", err=True)
        else:
            good.append((name, prediction))
    if as_json:
        document = [
            {
                "file": str(prediction.file),
                "classes": [
                    {"class": name, "probability": probability}
                    for name, probability in prediction.classes
                ],
            }
            for _, prediction in good
        ]
        typer.echo(json.dumps(document, sort_keys=True))
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "rank", "class", "probability"])
    for file, prediction in good:
        for rank, (name, probability) in enumerate(prediction.classes, 1):
            writer.writerow([file, rank, name, f"{probability:.6f}"])
    typer.echo(text.getvalue(), nl=False)  # The writer ended the last line.


COMMAND = Command(
    name="predict",
    summary="Name the classes of images, with probabilities.",
    details=(
        "Prints comma-separated values, one line for each image and class. Images are cut to their"
        " centre square and resized as by split folder. Nothing is printed unless every file could"
        " be read or bad ones are skipped."
    ),
    params=Params,
    run=run,
    examples=(
        "ltcli predict photo.jpg --model artifacts/photos/pretrain.safetensors",
        "ltcli predict new/ --top 3 --json --model artifacts/photos/finetune-crt.safetensors",
    ),
)
