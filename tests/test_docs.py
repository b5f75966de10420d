"""The documents stay short, and name only what is there."""

import re
from pathlib import Path

import pytest

from ltcli.methods import METHODS
from ltcli.methods.presets import PRESETS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Options of methods in the table of presets, as the records hold them.
_VALUES = {"beta": float, "mixup": float, "lr": float, "defer": int, "epochs": int}


def test_the_readme_fits_on_two_screens_and_has_its_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 122
    assert "    pip install uv && uv run recipes/quickstart.sh" in lines
    assert "    pip install uv && uv run --extra test pytest -q -n 2" in lines


def test_the_life_of_a_run_fits_on_one_screen():
    assert len((ROOT / "docs" / "life-of-a-run.md").read_text().splitlines()) <= 60


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_links_and_files_of_a_document_exist(document):
    text = document.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    files = re.findall(r"(?:ltcli|recipes|benchmarks|tests)/[\w./]*\w\.(?:py|sh|sbatch|md)", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [file for file in files if not (ROOT / file).exists()]
    assert missing == []


def test_every_method_is_in_the_tables_of_methods():
    text = (ROOT / "docs" / "methods.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)`", text, re.MULTILINE)
    assert sorted(rows) == sorted(METHODS)


def test_presets_are_what_the_table_says():
    text = (ROOT / "docs" / "methods.md").read_text()
    table = dict(re.findall(r"^\| `([\w-]+)` \| `([^`]+)` \|$", text, re.MULTILINE))
    assert sorted(table) == sorted(PRESETS)
    for name, line in table.items():
        base, *options = line.split()
        names = [word.removeprefix("--").replace("-", "_") for word in options[::2]]
        read = [_VALUES.get(key, str) for key in names]
        said = {key: of(text) for key, of, text in zip(names, read, options[1::2], strict=True)}
        preset, method = PRESETS[name], METHODS[base]
        assert (preset.loss, preset.options) == (method.loss, method.options)
        assert all(preset.defaults[stage] == said for stage in preset.stages), name


def test_the_methods_whose_steps_need_the_cpu_are_named():
    text = (ROOT / "docs" / "several-gpus.md").read_text()
    named = text.partition("choose rows on the CPU:")[2].partition(".")[0]
    own = [name for name, method in METHODS.items() if method.on_host]
    assert sorted(re.findall(r"`([\w-]+)`", named)) == sorted(own)
