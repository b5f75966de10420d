"""show, lineage and methods."""

import json

import pytest
import torch

from ltcli.artifacts.store import save
from ltcli.core.params import build
from ltcli.data.source_table import SOURCES
from ltcli.methods import METHODS
from ltcli.stages import STAGES
from ltcli.stages.stage import OUTSIDE


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
    assert done.out.splitlines()[1].startswith("  data: ? ")
    assert done.out.endswith(" outside\n")


def test_whatever_stages_read_beside_artifacts_is_known_as_outside(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("0,1")
    given = {
        "split": [{"source": name, "root": str(tmp_path)} for name in SOURCES],
        "pretrain": [{"weights": str(file)}],
        "adjust": [{"costs": str(file)}, {"prior": str(file)}],
    }
    reading = {stage.name: stage for stage in STAGES if stage.external is not None}
    assert given.keys() == reading.keys()
    found = [
        stage.external(build(stage.params, values, name, defaults=stage.defaults))
        for name, stage in reading.items()
        for values in given[name]
    ]
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
    assert f"split: ? {split[:12]} missing" in done.out


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


def test_methods_lists_every_method_with_its_source_and_parameters(ltcli):
    text = ltcli("methods").out
    table = json.loads(ltcli("methods", "--json").out)
    assert set(table) == set(METHODS)
    for name, method in METHODS.items():
        assert f"{name}: {method.summary}" in text
        assert table[name]["source"] == method.source
    assert "--tau" in ltcli("methods", "tau-norm").out
    assert "crt:" not in ltcli("methods", "tau-norm").out


@pytest.mark.parametrize(
    "command",
    ["show", "methods", "compare", "plot", "doctor", "lineage", "predict", "export"],
)
def test_examples_in_help_have_lines_of_their_own(ltcli, command):
    lines = [line.strip() for line in ltcli(command, "--help").out.splitlines()]
    first = lines.index("Examples:")
    assert lines[first + 1].startswith(f"ltcli {command}")
    assert not any("\\b" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("class-balanced", ["in pretrain: --beta 0.9999", "in finetune: --beta 0.9999"]),
        ("crt", ["in finetune: --sampler class-aware"]),
        ("ce-drw", ["in pretrain: --beta 0.9999 --defer 160"]),
        ("ce-drs", ["in pretrain: --sampler class-aware --defer 160"]),
        ("remix", ["in pretrain: --mixup 1.0 --mixed-labels remix"]),
        ("cross-entropy", []),
    ],
)
def test_methods_say_for_each_stage_which_defaults_are_their_own(ltcli, name, lines):
    shown = [line.strip() for line in ltcli("methods", name).out.splitlines()]
    assert [line for line in shown if line.startswith("in ")] == lines
    facts = json.loads(ltcli("methods", name, "--json").out)[name]
    assert sorted(facts["defaults"]) == sorted(line.split()[1].strip(":") for line in lines)


def test_methods_show_the_default_that_a_parameter_has_in_the_method(ltcli):
    shown = ltcli("methods", "class-balanced-focal").out
    assert "  for pretrain; needs labels\n" in shown
    assert "  in pretrain: --form sigmoid --beta 0.9999 --reduction mean-of-weighted\n" in shown
    form = "softmax over the classes, or one sigmoid per class"
    assert f"  --form [default: sigmoid]  {form}\n" in shown
    assert f"  --form [default: softmax]  {form}\n" in ltcli("methods", "focal").out


def test_a_default_that_differs_between_stages_is_said_for_each(ltcli):
    shown = ltcli("methods", "gcl").out
    assert "  --scale [default: 30.0 in pretrain, 20.0 in finetune]" in shown
    parameters = json.loads(ltcli("methods", "gcl", "--json").out)["gcl"]["parameters"]
    assert parameters["--scale"]["default"] == {"pretrain": 30.0, "finetune": 20.0}
    # One word where both agree, also on what a stage has of its own.
    shown = ltcli("methods", "class-balanced").out
    assert " in finetune, " not in shown
    assert " in pretrain, " not in shown


def test_defaults_are_shown_as_they_are_written_on_the_command_line(ltcli):
    shown = ltcli("methods").out
    assert "[default: none]" in shown
    for word in ("None", "True", "False"):
        assert not [line for line in shown.splitlines() if f"[default: {word}]" in line]


def test_methods_say_what_they_read_and_which_defaults_are_their_own(ltcli):
    shown = ltcli("methods", "risda").out.splitlines()
    assert "  for finetune; needs labels, covariances, a confusion graph" in shown
    assert "  in finetune: --lr 0.01 --beta 0.9999" in shown
    shown = ltcli("methods", "metasaug").out.splitlines()
    assert "  for finetune; needs labels, held-out samples" in shown
    own = next(line for line in shown if line.startswith("  in finetune: --data images"))
    assert own.endswith(
        "--milestones 20 --factors 0.01 --nesterov --pad-mode reflect --beta 0.9999"
    )
