"""predict: the classes that a trained model takes image files for."""

import csv
import io
import json

import typer

from ltcli.cli.commands import Command, read_kind
from ltcli.compute.memory import memory_needed
from ltcli.core.text import printable
from ltcli.stages.prediction import Params, find_images, predict


def run(params: Params, as_json: bool) -> None:
    """Print the classes of each image."""
    hint = "name a file of pretrain, finetune or adjust"
    header, files = read_kind(params.model, "model", hint), find_images(params.images)
    with memory_needed("predict", "use --device cpu, or a machine with more memory"):
        # All of it before the first line: a bad file stops the run with nothing printed.
        found = list(predict(header, files, params))
    document, text = [], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "rank", "class", "probability"])
    for file, classes in found:
        name = printable(str(file))
        if isinstance(classes, str):
            typer.echo(f"predict: skipped {name}: {classes}", err=True)
            continue
        named = [{"class": name, "probability": probability} for name, probability in classes]
        document.append({"file": str(file), "classes": named})
        for rank, (label, probability) in enumerate(classes, 1):
            writer.writerow([name, rank, printable(label), f"{probability:.6f}"])
    if as_json:
        typer.echo(json.dumps(document, sort_keys=True))
    else:
        typer.echo(text.getvalue(), nl=False)


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
