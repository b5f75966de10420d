"""The script of a machine with a GPU, as far as a machine without one can try it."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
PARTS = ("tests", "steps", "pretrain", "features", "metasaug", "bank")
NO_CUDA = {"not_measured": "no CUDA device"}


def script(*words, timeout):
    done = subprocess.run(
        [SCRIPT, *words], capture_output=True, text=True, timeout=timeout, check=True
    )
    return done, json.loads((words[0] / "results.json").read_text())


def test_parts_that_are_there_are_joined_and_not_measured_again(tmp_path):
    known = {part: {"seconds": number} for number, part in enumerate(PARTS)}
    for part, figures in known.items():
        (tmp_path / f"{part}.json").write_text(json.dumps(figures))
    done, results = script(tmp_path, timeout=60)
    assert results["parts"] == known
    assert results["torch"] == torch.__version__
    assert done.stdout.count("already there") == len(PARTS)


def test_all_parts_are_done_in_eight_minutes():
    limits = [
        int(word.rstrip(";").split(":")[1])
        for word in SCRIPT.read_text().split()
        if _is_limit(word)
    ]
    assert len(limits) == len(PARTS)
    assert sum(limits) < 480


def _is_limit(word):
    part, _, limit = word.rstrip(";").partition(":")
    return part in PARTS and limit.isdigit()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_nothing_is_measured(tmp_path):
    _, results = script(tmp_path, timeout=300)
    assert results["gpu"] is None
    assert results["parts"] == dict.fromkeys(PARTS, NO_CUDA)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_every_part_can_be_tried_on_a_few_images(tmp_path):
    done, results = script(tmp_path, "--tiny", timeout=500)
    assert done.stderr.count("no result") == 0
    parts = results["parts"]
    assert parts["tests"] == NO_CUDA
    assert all(parts[name]["tiny"] for name in PARTS[1:])
    assert {name: parts["steps"][name]["cuda_graph"] for name in ("images", "bank")} == {
        "images": NO_CUDA,
        "bank": NO_CUDA,
    }
    assert (parts["pretrain"]["epochs"], parts["pretrain"]["cuda_graph"]) == (1, False)
    assert 0 <= parts["pretrain"]["accuracy"] <= 1
    assert parts["features"]["seconds"] > 0
    assert parts["metasaug"]["metasaug_over_plain_seconds"] > 0
    assert {"covariances", "confusion", "stg-train", "risda", "stg"} <= set(parts["bank"])
