"""predict: the classes that a trained model takes image files for."""

import csv
import io
import json

import typer

from ltcli.cli.commands import Command, read_kind
from ltcli.compute.memory import memory_needed
from ltcli.core.errors import DataError
from ltcli.core.text import printable
from ltcli.data.walk import Left
from ltcli.stages.prediction import Params, find_images, predict


def run(params: Params, as_json: bool) -> None:
    """Print the classes of each image."""
    hint = "name a file of pretrain, finetune or adjust"
    header = read_kind(params.model, "model", hint)
    files, harmless, bad = find_images(params)
    with memory_needed("predict", "use --device cpu, or a machine with more memory"):
        # All of it before the first line: a bad file stops the run with nothing printed.
        found = list(predict(header, files, params))
    bad += [Left(str(file), reason) for file, reason in found if isinstance(reason, str)]
    for left in (*harmless, *bad):
        typer.echo(f"predict: skipped {left}", err=True)
    document, text = [], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "rank", "class", "probability"])
    for file, classes in found:
        if isinstance(classes, str):
            continue
        name = printable(str(file))
        named = [{"class": name, "probability": probability} for name, probability in classes]
        document.append({"file": str(file), "classes": named})
        for rank, (label, probability) in enumerate(classes, 1):
            writer.writerow([name, rank, printable(label), f"{probability:.6f}"])
    error = DataError("predict", f"number of files left out must be 0, got {len(bad)}")
    if as_json and bad:
        error.found = {"images": document}
    elif as_json:
        typer.echo(json.dumps(document, sort_keys=True))
    else:
        typer.echo(text.getvalue(), nl=False)
    if bad:
        raise error


COMMAND = Command(
    name="predict",
    summary="Name the classes of images, with probabilities.",
    details=(
        "Prints comma-separated values, one line for each image and class. Images are cut to their"
        " centre square and resized as by split folder. Nothing is printed unless every file could"
        " be read or bad ones are skipped. Files left out stand on standard error, and the exit"
        " code is 5 if one of them may be an image."
    ),
    params=Params,
    run=run,
    examples=(
        "ltcli predict photo.jpg --model artifacts/photos/pretrain.safetensors",
        "ltcli predict new/ --top 3 --json --model artifacts/photos/finetune-crt.safetensors",
    ),
)
