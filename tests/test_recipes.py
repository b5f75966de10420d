"""Every command of every recipe and of every document parses, and every recipe says its claim."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.sh"))
# What extending.md adds to the program is not in it: tests/test_extending.py runs its commands.
DOCUMENTS = [ROOT / "README.md", *sorted({*ROOT.glob("docs/*.md")} - {ROOT / "docs/extending.md"})]


def commands(document):
    """Return the command lines of ltcli in the code blocks of a document, as lists of words."""
    found, fenced = [], False
    for line in document.read_text().replace("\\\n", " ").splitlines():
        fenced ^= line.startswith("```")
        if not fenced and not line.startswith("    "):
            continue
        for part in line.split(" && "):
            words = shlex.split(part.strip().removesuffix(" \\"), comments=True)
            # torchrun starts the module; what goes into a file is not an option.
            start = re.match(r"(torchrun .* -m )?ltcli ", part.strip())
            if start is not None:
                words = words[words.index("ltcli") + 1 :]
                found.append(words[: words.index(">")] if ">" in words else words)
    return found


IN_DOCUMENTS = [
    pytest.param(words, id=f"{document.stem}-{number}")
    for document in DOCUMENTS
    for number, words in enumerate(commands(document))
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_opens_with_its_claim_time_and_expectation(recipe):
    lines = recipe.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    comment = " ".join(line for line in lines[1:10] if line.startswith("# "))
    assert "Takes" in comment
    assert "expect" in comment.lower()
    assert "set -euo pipefail" in lines
    assert os.access(recipe, os.X_OK)


@pytest.fixture
def calls(tmp_path):
    """Return the command lines of a recipe that is given some arguments, as lists of words."""
    log = tmp_path / "calls"
    # A stand-in for the program writes down how it is called.
    program = tmp_path / "bin" / "ltcli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done >>{log}\n')
    program.write_text(program.read_text() + f'printf "\\n" >>{log}\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"

    def of(recipe, *arguments):
        log.unlink(missing_ok=True)
        command = ["bash", recipe, *map(str, arguments)]
        done = subprocess.run(command, env={**os.environ, "PATH": path}, check=False)
        assert done.returncode == 0
        return [line.split("\0")[:-1] for line in log.read_text().splitlines()]

    return of


def check(ltcli, words, codes=(0, 3)):
    """Check that the program takes a command line; only what is not there yet may be missing."""
    no_stage = ("compare", "export", "plot", "predict", "report")
    result = ltcli(*words, *([] if words[0] in no_stage else ["--dry-run"]))
    assert result.code in codes, result.err
    assert result.code == 0 or "no such" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("words", IN_DOCUMENTS)
def test_every_command_of_a_document_parses(words, tmp_path, ltcli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(ltcli, words)
    assert not any(tmp_path.iterdir())


def test_the_documents_show_commands():
    assert {document.stem for document in DOCUMENTS if commands(document)} >= {
        "README",
        "own-data",
        "embeddings",
        "several-gpus",
        "methods",
        "numbers",
        "life-of-a-run",
    }
    assert len(IN_DOCUMENTS) > 40


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_command_of_a_recipe_parses(recipe, tmp_path, ltcli, calls):
    place = tmp_path / "out"
    arguments = [place] if recipe.parent.name == "recipes" else [tmp_path / "data", place]
    made = calls(recipe, *arguments)
    assert len(made) > 5
    for words in made:
        assert str(place) in words
        check(ltcli, words)
    assert not place.exists()


def after(words, *names):
    """Return what follows each of some options; None where it is not there."""
    return [words[words.index(name) + 1] if name in words else None for name in names]


WITH_BACKBONE = [recipe for recipe in RECIPES if "[BACKBONE]" in recipe.read_text()]


@pytest.mark.parametrize(
    "recipe", WITH_BACKBONE, ids=lambda path: f"{path.parent.stem}-{path.stem}"
)
def test_another_backbone_has_a_folder_of_its_own(recipe, calls):
    positions = recipe.read_text().split(f"#   {recipe.name} ")[1].split("\n")[0].split("] [")
    before = [""] * next(i for i, name in enumerate(positions) if name.startswith("BACKBONE"))
    (folder,) = {after(words, "-d")[0] for words in calls(recipe)}
    for backbone in ("timm.resnet101", "resnet18"):
        (other,) = {after(words, "-d")[0] for words in calls(recipe, *before, backbone)}
        assert other == f"{folder}-{backbone}"
    default = "resnet32" if recipe.parent.name == "cifar_lt" else "timm.resnet50.tv_in1k"
    (same,) = {after(words, "-d")[0] for words in calls(recipe, *before, default)}
    assert same == folder


def test_recipes_that_share_a_folder_make_each_file_in_one_way(calls):
    made = {}
    runs = [(recipe, ()) for recipe in RECIPES if recipe.parent.name != "recipes"]
    # Its mixup has the folder of stg.sh.
    runs += [(path, ("", "", "", "", "mixup")) for path in RECIPES if path.match("cifar_lt/fe*")]
    for recipe, arguments in runs:
        for words in calls(recipe, *arguments):
            if words[0] in ("evaluate", "compare"):
                continue
            folder, out, method = after(words, "-d", "--out", "--method")
            stem = f"{words[0]}-{method}" if words[0] == "finetune" else words[0]
            path = out or f"{folder}/{stem}.safetensors"
            assert made.setdefault(path, words) == words, recipe


@pytest.mark.parametrize("group", ["cifar_lt", "imagenet_lt", "inat", "places_lt"])
def test_the_control_of_feature_fusion_sees_the_images_that_fusion_sees(group, calls):
    recipe = next(path for path in RECIPES if path.match(f"{group}/feature_fusion.sh"))
    runs = [words for words in calls(recipe) if "feature-fusion" in words]
    seen = {tuple(after(words, "--data", "--jitter", "--epochs")) for words in runs}
    assert {after(words, "--donors-per-image")[0] for words in runs} == {None, "0"}
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("data", "factor", "mislas", "temperature"),
    [
        ("cifar10", "200", ["0.3", None, "0.5"], "1"),
        ("cifar10", "100", ["0.3", None, "0.5"], "1"),
        ("cifar10", "50", ["0.2", None, "0.2"], "1"),
        ("cifar10", "10", ["0.1", None, "0.2"], "1"),
        ("cifar100", "100", ["0.4", "0.1", "0.2"], "0.1"),
        ("cifar100", "50", ["0.3", None, "0.1"], "0.1"),
        ("cifar100", "20", ["0.2", None, "0.1"], "0.1"),
        ("cifar100", "10", ["0.2", None, "0.1"], "0.1"),
    ],
)
def test_the_papers_numbers_are_those_of_the_setting(
    ltcli, tmp_path, calls, data, factor, mislas, temperature
):
    recipe = next(path for path in RECIPES if path.name == "papers.sh")
    runs = calls(recipe, tmp_path, tmp_path / "out", data, factor)
    second = [words for words in runs if after(words, "--method") == ["mislas"]]
    assert len(second) == 2
    for words in second:
        assert after(words, "--smooth-head", "--smooth-tail", "--classifier-rate") == mislas
        assert after(words, "--data") == [None if data == "cifar10" else "images"]
        assert ("--shift-bn" in words) == (data == "cifar100")
        check(ltcli, words)
    (psc,) = [words for words in runs if after(words, "--method") == ["hybrid-psc"]]
    assert after(psc, "--temperature") == [temperature]


@pytest.mark.parametrize("name", ["quickstart", "own_data"])
def test_commands_for_any_data_are_taken_where_their_inputs_are(name, copy, ltcli, calls):
    (recipe,) = [path for path in RECIPES if path.stem == name]
    made = [words for words in calls(recipe, copy) if words[0] not in ("split", "pretrain")]
    assert len(made) > 4
    for words in made:
        check(ltcli, words, codes=(0,))


def check_on(folder, ltcli, words):
    """Check that no method refuses the options that a command line gives it, on other data."""
    # What depends on classes, kept epochs and backbones is not looked at.
    given = {"--model", "--features", "--covariances", "--confusion", "--generator", "--out", "-d"}
    of_data = ("head-at", "meta-per-class", "from-epoch", "snapshots", "jitter", "least-area")
    dropped = {i + k for i, word in enumerate(words) if word in given for k in (0, 1)}
    left = [word for i, word in enumerate(words) if i not in dropped]
    result = ltcli(*left, "--dry-run", "-d", folder)
    assert result.code in (0, 3) or any(word in result.err for word in of_data), words


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_no_method_of_a_recipe_refuses_its_options(recipe, copy, ltcli, calls):
    arguments = [copy] if recipe.parent.name == "recipes" else []
    for words in calls(recipe, *arguments):
        if words[0] == "finetune":
            check_on(copy, ltcli, words)


def test_no_method_of_a_document_refuses_its_options(copy, ltcli):
    runs = [words for (words,) in (one.values for one in IN_DOCUMENTS) if words[0] == "finetune"]
    assert len(runs) > 10
    for words in runs:
        check_on(copy, ltcli, words)
