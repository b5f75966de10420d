"""Every command of every recipe parses, and every recipe says what it shows."""

import os
import subprocess
from pathlib import Path

import pytest

RECIPES = sorted((Path(__file__).parent.parent / "recipes").rglob("*.sh"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_opens_with_its_claim_time_and_expectation(recipe):
    lines = recipe.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    comment = " ".join(line for line in lines[1:10] if line.startswith("# "))
    assert "Takes" in comment
    assert "expect" in comment.lower()
    assert "set -euo pipefail" in lines
    assert os.access(recipe, os.X_OK)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_command_of_a_recipe_parses(recipe, tmp_path, ltcli):
    # A stand-in for the program writes down how it is called.
    log = tmp_path / "calls"
    program = tmp_path / "bin" / "ltcli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done >>{log}\n')
    program.write_text(program.read_text() + f'printf "\\n" >>{log}\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    place = tmp_path / "out"
    arguments = [place] if recipe.parent.name == "recipes" else [tmp_path / "data", place]
    done = subprocess.run(
        ["bash", recipe, *map(str, arguments)], env={**os.environ, "PATH": path}, check=False
    )
    assert done.returncode == 0
    calls = [line.split("\0")[:-1] for line in log.read_text().splitlines()]
    assert len(calls) > 5
    for words in calls:
        assert str(place) in words
        extra = [] if words[0] in ("compare", "plot", "report") else ["--dry-run"]
        result = ltcli(*words, *extra)
        # Only what is not there yet may be missing; parameters are right.
        assert result.code in (0, 3), result.err
        assert "Traceback" not in result.err
    assert not place.exists()
