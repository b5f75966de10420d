"""A method, a backbone source and a data source are each one file and one line of a table.

The examples of docs/extending.md go into a copy of the package as that page says, and the command
lines of the page run there.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
CODE = """
import json, sys
from ltcli.cli.main import run
for words in json.loads(sys.argv[1]):
    code = run(words)
    sys.stdout.flush()
    sys.stderr.write(f"exit {code}\\n")
"""


@pytest.fixture
def extended(tmp_path):
    """Return a function that adds an example to a copy of the package, and runs command lines."""
    package = tmp_path / "ltcli"
    shutil.copytree(ROOT / "ltcli", package, ignore=shutil.ignore_patterns("__pycache__"))

    def add(example, table, opening):
        """Put the file of an example beside a table, and the page's line into the table."""
        (line,) = re.findall(rf"^ +(.*\b{example}\b.*,)$", PAGE, re.MULTILINE)
        path = package / table
        shutil.copy(ROOT / "docs" / "examples" / f"{example}.py", path.parent)
        text = path.read_text()
        assert text.count(opening) == 1
        # Data sources are imported by name, when they are read.
        named = f'"{example}"' in line
        imports = "" if named else f"from ltcli.{path.parent.name} import {example}\n"
        path.write_text(text.replace(opening, f"{imports}{opening}    {line}\n"))

    def call(*lines):
        """Return standard output, and the error lines and exit code of each command line."""
        words = [[str(word) for word in line] for line in lines]
        done = subprocess.run(
            [sys.executable, "-c", CODE, json.dumps(words)],
            # The folder of the copy comes before any installed package.
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert "Traceback" not in done.stderr
        said = re.split(r"exit (\d+)\n", done.stderr)[:-1]
        return done.stdout, list(zip(said[::2], map(int, said[1::2]), strict=True))

    return add, call


def page(command, name, folder):
    """Return the words of the page's command line that names something, on another folder."""
    (line,) = re.findall(rf"^ +ltcli ({command} .*\b{name}\b.*) -d \S+$", PAGE, re.MULTILINE)
    return [*line.split(), "-d", folder]


def classifier(path):
    with open_artifact(path) as artifact:
        return artifact.load("classifier.*")


def test_a_method_is_one_file_and_one_line(extended, copy):
    add, call = extended
    add("label_smoothing", "methods/__init__.py", "METHODS: dict[str, Method[Any]] = {\n")
    finetune = page("finetune", "label-smoothing", copy)
    off, plain = copy / "off.safetensors", copy / "plain.safetensors"
    out, done = call(
        ["methods", "label-smoothing"],
        finetune,
        ["finetune", "--method", "label-smoothing", "--smoothing", 0, "--out", off, "-d", copy],
        ["finetune", "--method", "cross-entropy", "--out", plain, "-d", copy],
        ["finetune", "--method", "label-smoothing", "--smoothing", 1, "-d", copy],
        ["evaluate", "--model", off, "-d", copy],
    )
    assert [code for _, code in done] == [0, 0, 0, 0, 2, 0]
    assert "Szegedy et al., CVPR 2016, arXiv 1512.00567" in out
    assert done[4][0] == "error: finetune: smoothing must be less than 1, got 1\n"
    made = copy / "finetune-label-smoothing.safetensors"
    header = read_header(made)
    assert header.parameters["smoothing"] == 0.2
    assert header.info["method"] == "label-smoothing"
    assert not header.info["balanced"]
    # The limit case of the page: without smoothing it is cross-entropy, to the bit.
    smooth, zero, reference = map(classifier, (made, off, plain))
    assert all(torch.equal(zero[name], reference[name]) for name in reference)
    assert not torch.equal(smooth["weight"], reference["weight"])


@pytest.mark.slow
def test_a_backbone_source_is_one_file_and_one_line(extended, copy):
    add, call = extended
    add("small_convolutions", "models/backbones.py", "BACKBONES: dict[str, Source] = {\n")
    pretrain = page("pretrain", "convolutions.three", copy)
    other = copy / "other"
    unknown = ["--backbone", "convolutions.tree", "--out", other / "tree.safetensors", "-d", copy]
    _, done = call(
        [*pretrain, "--padding", 1, "--no-flip", "--force"],
        ["dump-features", "--maps", "--force", "-d", copy],
        ["evaluate", "--model", copy / "pretrain.safetensors", "-d", copy],
        ["pretrain", *unknown],
    )
    assert [code for _, code in done] == [0, 0, 0, 2]
    assert "error: pretrain: no backbone 'convolutions.tree'\n" in done[3][0]
    assert "hint: did you mean 'convolutions.three'?\n" in done[3][0]
    record = read_header(copy / "pretrain.safetensors").info["backbone"]
    assert (record["source"], record["name"], record["feature_dim"]) == (
        "convolutions",
        "three",
        64,
    )
    bank = copy / "dump-features.safetensors"
    with open_artifact(bank) as artifact:
        maps, features = artifact.tensor("train.maps"), artifact.tensor("train.features")
    torch.testing.assert_close(maps.mean((2, 3)), features)


@pytest.mark.slow
def test_a_data_source_is_one_file_and_one_line(extended, rng, tmp_path):
    add, call = extended
    add("image_arrays", "data/source_table.py", "    for source in (\n")
    images = torch.randint(256, (90, 8, 8, 3), generator=rng, dtype=torch.uint8)
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 10)
    np.savez(tmp_path / "images.npz", images=images.numpy(), labels=labels.numpy())
    np.savez(tmp_path / "no.npz", images=images.numpy())
    folder = tmp_path / "arrays"
    _, done = call(
        page("split", "arrays", folder),
        page("split", "arrays", folder),
        ["pretrain", "--backbone", "resnet20", "--epochs", 1, "-d", folder],
        ["split", "arrays", "--root", "no.npz", "-d", tmp_path / "no"],
    )
    assert [code for _, code in done] == [0, 0, 0, 5]
    assert "up to date" in done[1][0]
    assert "error: no.npz: must hold labels, got none\n" in done[3][0]
    header = read_header(folder / "split.safetensors")
    assert header.info["class_names"] == ["0", "1", "2"]
    assert sum(header.info["class_counts"]) < 90
