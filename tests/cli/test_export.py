import json
import os

import pytest
import torch

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.stages import exporting


def test_more_weights_than_an_onnx_file_holds_are_refused(ltcli, chain, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(exporting, "ONNX_BYTES", 1_000_000)
    model, out = chain / "pretrain.safetensors", tmp_path / "digits.onnx"
    done = ltcli("export", model, "--to", "onnx", "--out", out)
    assert done.code == 3
    assert done.lines == [
        f"error: {model}: must have at most 0.0 GB of weights for onnx, got 0.0 GB",
        "hint: use --to torch: an ONNX file holds 2 GB",
    ]
    assert not out.exists()


@pytest.mark.slow
def test_onnx_gives_the_classes_of_evaluate_in_any_runtime(ltcli, copy):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out, model = copy / "new" / "digits.onnx", copy / "finetune-crt.safetensors"
    command = ("export", model, "--to", "onnx", "--out", out)
    done = ltcli(*command, "--split", copy / "split.safetensors", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document.pop("largest_difference") < 1e-3
    assert document == {
        "out": str(out),
        "status": "made",
        "model": read_header(model).digest,
        "images": 256,
    }
    assert [path.name for path in out.parent.iterdir() if path.suffix != ".lock"] == [out.name]
    evaluated = copy / "fp32.safetensors"
    options = ("--model", model, "--precision", "fp32", "--out", evaluated, "-d", copy)
    assert ltcli("evaluate", *options).code == 0
    with open_artifact(copy / "split.safetensors") as split:
        images = split.tensor("test.images")
    with open_artifact(evaluated) as artifact:
        expected = artifact.tensor("logits")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    logits, probabilities = map(torch.from_numpy, session.run(None, {"images": images.numpy()}))
    assert logits.argmax(1).equal(expected.argmax(1))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probabilities, expected.softmax(1), rtol=1e-3, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["model"] == read_header(model).digest


@pytest.mark.slow
def test_a_program_of_torch_is_made_once_and_not_put_in_place_of_another(ltcli, copy):
    out, model = copy / "digits.pt2", copy / "pretrain.safetensors"
    command = ("export", model, "--to", "torch", "--out", out)
    done = ltcli(*command)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == str(out)
    assert done.out.splitlines()[1].startswith(
        "256 random images: the model's classes in float32, logits within "
    )
    before = out.read_bytes()
    assert json.loads(ltcli(*command, "--json").out)["status"] == "up to date"
    other = ("export", copy / "finetune-crt.safetensors", "--to", "torch", "--out", out)
    done = ltcli(*other)
    assert done.code == 3
    assert done.lines == [
        f"error: {out}: is there with another content",
        "hint: --force replaces it, --out writes elsewhere",
    ]
    assert out.read_bytes() == before
    assert ltcli(*other, "--force").code == 0
    assert out.read_bytes() != before


@pytest.mark.parametrize(
    ("options", "code", "lines"),
    [
        (
            ["--to", "onx", "--out", "x.onnx"],
            2,
            ["error: export: to must be one of onnx, torch, got onx", "hint: did you mean 'onnx'?"],
        ),
        (
            ["--to", "torch", "--out", "x.onnx"],
            2,
            ["error: export: out must end in .pt2 for torch, got x.onnx"],
        ),
        (
            ["--to", "torch", "--out", "x.pt2", "--root", "."],
            2,
            ["error: export: root is of the images of a split: --root needs --split"],
        ),
        (
            ["--to", "torch", "--out", "nowhere/file/x.pt2"],
            6,
            [
                "error: nowhere/file/x.pt2: cannot be written: nowhere/file is not a writable"
                " folder",
                "hint: choose another --out",
            ],
        ),
    ],
)
def test_wrong_options_are_refused(ltcli, chain, tmp_path, monkeypatch, options, code, lines):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "file").write_text("")
    done = ltcli("export", chain / "pretrain.safetensors", *options)
    assert (done.code, done.lines) == (code, lines)
    assert not list(tmp_path.glob("x.*"))


def test_an_output_that_cannot_be_read_is_found_before_the_work(ltcli, copy, monkeypatch):
    def work(*_args: object) -> None:
        raise AssertionError

    monkeypatch.setattr("ltcli.cli.export.export", work)
    out = copy / "x.pt2"
    out.symlink_to("/dev/null")
    done = ltcli("export", copy / "pretrain.safetensors", "--to", "torch", "--out", out)
    assert (done.code, done.lines) == (3, [f"error: {out}: cannot be read: not a regular file"])
    out.unlink()
    out.touch()

    open_file = os.open

    def refuse(path, *more):
        if path == out:
            raise PermissionError(13, "Permission denied")
        return open_file(path, *more)

    monkeypatch.setattr("os.open", refuse)
    done = ltcli("export", copy / "pretrain.safetensors", "--to", "torch", "--out", out)
    assert done.lines == [f"error: {out}: cannot be read: permission denied"]
    assert done.code == 3


def test_what_is_no_model_or_not_its_split_is_refused(ltcli, copy):
    out, model, split = copy / "x.pt2", copy / "pretrain.safetensors", copy / "split.safetensors"
    command = ("--to", "torch", "--out", out)
    done = ltcli("export", split, *command)
    assert done.code == 3
    assert done.lines == [
        f"error: {split}: must be of kind model, got split",
        "hint: name a file of pretrain, finetune or adjust",
    ]
    done = ltcli("export", model, *command, "--split", model)
    assert done.code == 3
    assert done.lines == [
        f"error: {model}: must be of kind split, got model",
        "hint: name the split that the model was trained on",
    ]
    other = copy / "other.safetensors"
    assert ltcli("split", "digits", "--seed", "1", "--out", other).code == 0
    done = ltcli("export", model, *command, "--split", other)
    assert done.code == 3
    assert done.lines == [
        f"error: {other}: is not the split that {model} was trained on",
        "hint: name that one, or leave --split out",
    ]
    assert not out.exists()


@pytest.mark.parametrize("place", ["ltcli.engine.infer.features_of", "torch.export.export"])
def test_memory_that_runs_out_is_an_error(ltcli, copy, monkeypatch, place):
    def fail(*_args: object, **_more: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 TB")

    monkeypatch.setattr(place, fail)
    out = copy / "x.pt2"
    done = ltcli("export", copy / "pretrain.safetensors", "--to", "torch", "--out", out)
    assert done.code == 6
    assert done.lines == [
        "error: export: out of memory",
        "hint: use a machine with more memory, or a smaller model",
    ]
    assert not out.exists()


def test_a_missing_package_is_named_before_work(ltcli, copy, monkeypatch):
    monkeypatch.setattr("ltcli.stages.exporting.find_spec", lambda name: None)
    out = copy / "x.onnx"
    done = ltcli("export", copy / "pretrain.safetensors", "--to", "onnx", "--out", out)
    assert done.code == 6
    assert done.lines == [
        "error: export: onnx needs onnx, which is not installed",
        "hint: pip install 'ltcli[export]'",
    ]
    assert not out.exists()


def test_a_file_that_would_predict_something_else_is_not_written(ltcli, copy, monkeypatch):
    # As if float32 had rounded far worse.
    monkeypatch.setattr("ltcli.stages.exporting.TOLERANCE", -1.0)
    out = copy / "x.pt2"
    done = ltcli("export", copy / "pretrain.safetensors", "--to", "torch", "--out", out)
    assert done.code == 4
    assert done.lines[0].startswith("error: export: logits must differ by at most -")
    assert done.lines[1] == "hint: nothing was written; report this as a bug"
    assert not out.exists()
