"""Time to read a data set of iNaturalist 2018's size as a list, a table and annotations.

437,513 made-up images of 8,142 classes. Prints ratios to reading the table with the csv module, and
the annotations with the json module, and doing nothing with them.

    python benchmarks/split_lists.py [--rounds 3]
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path

import numpy as np
import ratios

from ltcli.data.annotations import load_annotations
from ltcli.data.listed import load_lists, load_table
from ltcli.data.source_table import Request

IMAGES, CLASSES = 437_513, 8142


def write(folder: Path) -> None:
    """Write the three forms of one data set, every class with at least two images."""
    rest = np.random.default_rng(0).integers(CLASSES, size=IMAGES - 2 * CLASSES)
    labels = np.concatenate([np.arange(CLASSES), np.arange(CLASSES), rest]).tolist()
    rows = [(f"train_val2018/Plantae/{c}/{i:032x}.jpg", c) for i, c in enumerate(labels)]
    (folder / "list.txt").write_text("".join(f"{path} {label}\n" for path, label in rows))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    document = {
        "images": [{"id": i, "file_name": path} for i, (path, _) in enumerate(rows)],
        "annotations": [{"image_id": i, "category_id": c} for i, c in enumerate(labels)],
        "categories": [{"id": c, "name": f"species {c}"} for c in range(CLASSES)],
    }
    (folder / "all.json").write_text(json.dumps(document))


def read_csv(path: Path) -> None:
    """Read a table with the csv module and do nothing with it."""
    with path.open(newline="") as file:
        for _ in csv.reader(file):
            pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        table, annotations = folder / "table.csv", folder / "all.json"
        of_csv, of_json, lists, made, joined = ratios.in_turns(
            rounds,
            lambda: read_csv(table),
            lambda: json.loads(annotations.read_bytes()),
            lambda: load_lists({"train": folder / "list.txt"}, None, Request("list", folder)),
            lambda: load_table(table, Request("csv", folder)),
            lambda: load_annotations(annotations, None, Request("inat", folder)),
        )
        ratios.check("source list / csv module", lists, of_csv, most=6)
        ratios.check("source csv / csv module", made, of_csv, most=7)
        ratios.check("source inat / json module", joined, of_json, most=4)


if __name__ == "__main__":
    ratios.run(main)
