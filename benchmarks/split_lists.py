"""Time to read a data set of iNaturalist 2018's size as a list, a table and annotations.

437,513 made-up images of 8,142 classes. Prints seconds, the best of three, beside those of reading
the table with the csv module and the annotations with json alone, and the ratios to these.

    python benchmarks/split_lists.py
"""

import csv
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ltcli.data.annotations import load_annotations
from ltcli.data.listed import load_lists, load_table

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


def seconds(work: Callable[[], object]) -> float:
    """Return the shortest of three times."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def read_csv(path: Path) -> None:
    """Read a table with the csv module and do nothing with it."""
    with path.open(newline="") as file:
        for _ in csv.reader(file):
            pass


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        table, annotations = folder / "table.csv", folder / "all.json"
        of_csv = seconds(lambda: read_csv(table))
        of_json = seconds(lambda: json.loads(annotations.read_bytes()))
        print(f"csv alone       {of_csv:6.2f} s")
        print(f"json alone      {of_json:6.2f} s")
        lists = seconds(lambda: load_lists({"train": folder / "list.txt"}, None))
        print(f"source list     {lists:6.2f} s  {lists / of_csv:.1f} x csv")
        made = seconds(lambda: load_table(table))
        print(f"source csv      {made:6.2f} s  {made / of_csv:.1f} x csv")
        joined = seconds(lambda: load_annotations(annotations, None))
        print(f"source inat     {joined:6.2f} s  {joined / of_json:.1f} x json")


if __name__ == "__main__":
    main()
