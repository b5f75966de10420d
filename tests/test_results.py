import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "recipes" / "cifar_lt" / "cifar10-100.csv"


def tables(document):
    """Return (accuracy, low, high) in per cent of every table row that starts with them."""
    found = []
    for line in document.read_text().splitlines():
        cells = [cell.strip(" *") for cell in line.split("|")[1:-1]]
        if len(cells) > 2 and re.fullmatch(r"\d\d\.\d\d", cells[1]):
            low, high = cells[2].split(" to ")
            found.append((cells[1], low, high))
    return found


@pytest.mark.parametrize(("name", "rows"), [("README.md", 15), ("RESULTS.md", 40)])
def test_the_accuracies_of_the_documents_are_those_of_the_results_file(name, rows):
    with MEASURED.open(newline="") as file:
        measured = {
            tuple(f"{100 * float(line[key]):.2f}" for key in keys)
            for line in csv.DictReader(file)
            for keys in [("accuracy", "interval_low", "interval_high")]
        }
    printed = tables(ROOT / name)
    assert len(printed) >= rows
    assert [row for row in printed if row not in measured] == []
