"""show and lineage."""

import json
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch

from ltcli.artifacts.store import save
from ltcli.core.params import build
from ltcli.data.data_files import fingerprint
from ltcli.data.source_table import SOURCES
from ltcli.models import small_images
from ltcli.stages import adjust
from ltcli.stages.stage import OUTSIDE
from ltcli.stages.start import Start


def test_show_prints_kind_stage_parameters_inputs_and_tensors(ltcli, chain):
    text = ltcli("show", chain / "finetune-crt.safetensors").out
    assert "model (backbone and classifier)" in text.splitlines()[0]
    assert "made by finetune of ltcli" in text
    assert "classifier.weight" in text
    facts = json.loads(ltcli("show", "--json", chain / "finetune-crt.safetensors").out)
    assert facts["parameters"]["method"] == "crt"
    assert set(facts["inputs"]) == {"model", "features"}
    assert facts["tensors"]["classifier.weight"] == {"dtype": "F32", "shape": [10, 64]}


def test_show_writes_parameters_as_json_and_escapes_what_a_terminal_would_obey(ltcli, tmp_path):
    hostile = "\x1b[2J\x9b\u202e"
    info = {"class_names": [hostile, "b"], "class_counts": [2, 1], "split": "0", "model": "0"}
    parameters = {"on": True, "rank": None, "form": "full", hostile: hostile}
    tensors = {"graph": torch.zeros(2, 2), "scores": torch.zeros(2, 2), "top": torch.zeros(2, 1)}
    tensors["top"] = tensors["top"].long()
    facts = {"stage": "confusion", "parameters": parameters, "inputs": {}, "info": info}
    file = tmp_path / "confusion.safetensors"
    save(file, "confusion", tensors, **facts)
    shown = ltcli("show", file).out
    lines = [line.split(maxsplit=1) for line in shown.splitlines() if line.startswith("  ")]
    escaped = "\\u001b[2J\\u009b\\u202e"
    for name, value in (("on", "true"), ("rank", "null"), ("form", '"full"')):
        assert [name, value] in lines
    assert [escaped, f'"{escaped}"'] in lines
    assert f'["{escaped}", "b"]' in shown
    assert all(char.isprintable() for line in shown.splitlines() for char in line)


def test_lineage_verifies_every_ancestor(ltcli, chain):
    done = ltcli("lineage", "--json", chain / "evaluate-finetune-crt.safetensors")
    assert done.code == 0
    tree = json.loads(done.out)["tree"]
    (model,) = [node for node in tree["inputs"] if node["role"] == "model"]
    assert model["status"] == "verified"
    assert {node["role"] for node in model["inputs"]} == {"features", "model"}


def test_lineage_knows_samples_of_a_split_outside(ltcli, tmp_path):
    rows = [f"{value},{label}" for value, label in enumerate([0] * 8 + [1] * 8)]
    (tmp_path / "x.csv").write_text("\n".join(["x0,label", *rows]))
    command = ("split", "embeddings", "--root", tmp_path / "x.csv", "--val-per-class", 0)
    assert ltcli(*command, "-d", tmp_path).code == 0
    done = ltcli("lineage", tmp_path / "split.safetensors")
    assert done.code == 0
    assert done.out.splitlines()[1].split() == [ANY, "outside", "data:", "?"]


def test_whatever_stages_read_beside_artifacts_is_known_as_outside(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("0,1")
    found = [fingerprint(name, tmp_path, {}) for name in SOURCES]
    found.append(Start(small_images.backbone("resnet20"), str(file), "0" * 64, ()).fingerprint)
    for way in ("costs", "prior"):
        found.append(adjust.fingerprint(build(adjust.Params, {way: str(file)}, "adjust")))
    assert {role for roles in found for role in roles} == set(OUTSIDE)


def test_lineage_names_a_missing_ancestor(ltcli, copy):
    split = json.loads(ltcli("show", "--json", copy / "split.safetensors").out)["digest"]
    (copy / "split.safetensors").unlink()
    file = copy / "confusion.safetensors"
    done = ltcli("lineage", file)
    assert done.code == 3
    assert done.lines == [
        f"error: {file}: ancestor 'split' is missing or was altered: {split}",
        "hint: name its folder with --dir, or make it again",
    ]
    shown = [line.split() for line in done.out.splitlines()]
    assert [split[:12], "missing", "split:", "?"] in shown


def test_lineage_names_an_altered_ancestor(ltcli, copy):
    split = copy / "split.safetensors"
    data = bytearray(split.read_bytes())
    data[-1] ^= 1
    split.write_bytes(data)
    done = ltcli("lineage", copy / "confusion.safetensors")
    assert done.code == 3
    assert done.lines == [
        f"error: {split}: content does not match its digest",
        "hint: it may be one of the ancestors: make it again",
    ]


def test_a_damaged_file_that_is_no_ancestor_does_not_matter(ltcli, copy):
    (copy / "x.safetensors").write_bytes(b"x")
    done = ltcli("lineage", "--json", copy / "confusion.safetensors")
    assert done.code == 0
    assert list(json.loads(done.out)["damaged"]) == [str(copy / "x.safetensors")]


def test_lineage_looks_beside_the_file_and_in_other_folders(ltcli, copy):
    other = copy / "other"
    other.mkdir()
    (copy / "split.safetensors").rename(other / "split.safetensors")
    file = copy / "confusion.safetensors"
    assert ltcli("lineage", file).code == 3
    done = ltcli("lineage", file, "-d", other)
    assert (done.code, done.err) == (0, "")
    assert str(other / "split.safetensors") in done.out


def test_a_tree_that_is_not_whole_is_one_document_with_its_error(ltcli, copy):
    digest = json.loads(ltcli("show", "--json", copy / "split.safetensors").out)["digest"]
    (copy / "split.safetensors").unlink()
    file = copy / "confusion.safetensors"
    done = ltcli("lineage", "--json", file)
    assert (done.code, done.lines) == (3, ltcli("lineage", file).lines)
    document = json.loads(done.out)
    assert sorted(document) == ["damaged", "error", "tree"]
    assert document["tree"]["status"] == "verified"
    assert document["error"] == {
        "code": 3,
        "message": f"{file}: ancestor 'split' is missing or was altered: {digest}",
        "hint": "name its folder with --dir, or make it again",
    }


@pytest.mark.parametrize(
    "command", ["show", "methods", "compare", "plot", "doctor", "lineage", "predict", "export"]
)
def test_examples_in_help_have_lines_of_their_own(ltcli, command):
    lines = [line.strip() for line in ltcli(command, "--help").out.splitlines()]
    first = lines.index("Examples:")
    assert lines[first + 1].startswith(f"ltcli {command}")
    assert not any("\\b" in line for line in lines)


def test_a_folder_is_listed(ltcli, chain):
    lines = ltcli("show", "-d", chain).out.splitlines()
    assert lines[0].split() == ["file", "kind", "made", "by", "sha256"]
    headers = json.loads(ltcli("show", "--json", "-d", chain).out)
    assert len(lines) == len(headers) + 1 == 10
    found = [line.split() for line in lines[1:]]
    assert found == [
        [Path(h["path"]).name, h["kind"], h["stage"], h["digest"][:12]] for h in headers
    ]
    assert [name for name, *_ in found] == sorted(path.name for path in chain.glob("*.safetensors"))


def test_a_folder_that_is_not_there_cannot_be_listed(ltcli, tmp_path):
    done = ltcli("show", "-d", tmp_path / "no")
    hint = "hint: name the folder that holds the artifacts"
    assert (done.code, done.lines) == (3, [f"error: {tmp_path}/no: no such folder", hint])
