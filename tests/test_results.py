import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "results" / "cifar10-lt-100.csv"


def tables(document):
    """Return the cells of every table row that begins with an accuracy in per cent, by column."""
    rows, heads = [], []
    for line in document.read_text().splitlines():
        cells = [cell.strip(" *") for cell in line.split("|")[1:-1]]
        if not cells:
            heads = []
        elif not heads:
            heads = cells
        elif len(cells) > 2 and re.fullmatch(r"\d\d\.\d\d", cells[1]):
            best = dict(zip(heads, cells, strict=True)).get("best")
            rows.append((cells[1], *cells[2].split(" to "), best if best != "-" else ""))
    return rows


@pytest.mark.parametrize(("name", "rows"), [("README.md", 8), ("docs/results.md", 74)])
def test_what_the_documents_print_is_in_the_results_file(name, rows):
    with MEASURED.open(newline="") as file:
        measured = {
            tuple(f"{100 * float(line[key]):.2f}" if line[key] else "" for key in keys)
            for line in csv.DictReader(file)
            for keys in [("accuracy", "interval_low", "interval_high", "best_on_test")]
        }
    printed = tables(ROOT / name)
    assert len(printed) >= rows
    assert [row for row in printed if row not in measured] == []
