import hashlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ltcli import __version__
from ltcli.artifacts import store
from ltcli.artifacts.header import read_header, verify
from ltcli.artifacts.store import open_artifact, save
from ltcli.compute import environment
from ltcli.core.errors import ArtifactError
from ltcli.engine.optimizers import SGD
from ltcli.stages import run
from ltcli.stages.confusion import STAGE as CONFUSION
from ltcli.stages.confusion import Params
from ltcli.stages.stage import Result

CRT = ("finetune", "--method", "crt", "--epochs", "2")
# 454 images in batches of 128.
STEPS_PER_EPOCH = 4
REPLACES = "--force replaces it, --out writes elsewhere"
APART = "make both from the same artifacts, or name others"


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return everything in a folder but locks and sidecars."""
    return {
        path.name: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".lock", ".jsonl")
    }


def saved_again(path: Path, out: Path, *, tensors: dict | None = None, **info: object) -> Path:
    """Save an artifact once more, with some tensors and metadata exchanged."""
    with open_artifact(path) as artifact:
        header = artifact.header
        loaded = artifact.load(*header.tensors)
    save(
        out,
        header.kind,
        loaded | (tensors or {}),
        stage=header.stage,
        parameters=header.parameters,
        inputs=header.inputs,
        info=header.info | info,
    )
    return out


def sidecar(out: Path) -> list[dict]:
    lines = out.with_suffix(".run.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# Up to date, or not.


def test_what_is_up_to_date_is_said_and_not_written_again(ltcli, copy):
    out = copy / "covariances.safetensors"
    before, content, entries = out.stat(), out.read_bytes(), sidecar(out)
    done = ltcli("covariances", "-d", copy)
    assert (done.code, done.err) == (0, "covariances: up to date\n")
    assert done.out.splitlines()[0] == str(out)
    after = out.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert out.read_bytes() == content
    assert sidecar(out) == entries


def test_what_is_up_to_date_need_not_be_writable(ltcli, copy, monkeypatch):
    monkeypatch.setattr("os.access", lambda _path, mode: not mode & os.W_OK)
    done = ltcli("covariances", "-d", copy)
    assert (done.code, done.err) == (0, "covariances: up to date\n")
    done = ltcli("covariances", "--force", "-d", copy)
    rule = f"cannot be written: {copy} is not a writable folder"
    assert_wrong(done, 6, f"{copy}/covariances.safetensors: {rule}", "choose another --out")


def test_force_makes_the_same_bytes_in_a_new_file(ltcli, copy):
    for args in (("covariances",), CRT):
        stem = args[0] if args[0] == "covariances" else "finetune-crt"
        out = copy / f"{stem}.safetensors"
        before, content = out.stat(), out.read_bytes()
        done = ltcli(*args, "--force", "-d", copy)
        assert done.code == 0
        assert done.err.splitlines()[0] == f"{args[0]}: starting (--force)"
        assert out.stat().st_ino != before.st_ino
        assert out.read_bytes() == content


def test_the_name_of_the_output_is_not_in_it(ltcli, copy):
    assert ltcli("covariances", "-d", copy, "--out", copy / "sub" / "other.safetensors").code == 0
    other = (copy / "sub" / "other.safetensors").read_bytes()
    assert other == (copy / "covariances.safetensors").read_bytes()


def test_a_changed_parameter_is_a_reason_to_run(ltcli, copy):
    done = ltcli("covariances", "--divisor", "n", "-d", copy)
    assert done.code == 0
    assert done.err.splitlines()[0] == "covariances: starting (divisor changed from n-1 to n)"
    assert read_header(copy / "covariances.safetensors").parameters["divisor"] == "n"


def test_a_reason_from_a_stranger_s_file_holds_nothing_that_a_terminal_would_obey(ltcli, copy):
    out = copy / "covariances.safetensors"
    with open_artifact(out) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    parameters = header.parameters | {"\x9b2J": 1}
    facts = {"parameters": parameters, "inputs": header.inputs, "info": header.info}
    save(out, header.kind, tensors, stage=header.stage, **facts)
    done = ltcli("covariances", "--dry-run", "-d", copy)
    reason = "\\u009b2J changed from 1 to None"
    assert done.out.splitlines()[0] == f"covariances: would run: {reason}"


def test_a_changed_input_is_a_reason_to_run_and_the_same_again_is_not(ltcli, copy):
    assert ltcli("dump-features", "-d", copy).code == 0
    done = ltcli("covariances", "-d", copy)
    assert (done.code, done.err.splitlines()[0]) == (0, "covariances: starting (features changed)")
    assert ltcli("dump-features", "--maps", "--views", "2", "-d", copy).code == 0
    assert ltcli("covariances", "-d", copy).code == 0
    done = ltcli("covariances", "-d", copy)
    assert done.err == "covariances: up to date\n"


def test_no_output_is_a_reason_to_run(ltcli, copy):
    (copy / "covariances.safetensors").unlink()
    done = ltcli("covariances", "-d", copy)
    assert (done.code, done.err.splitlines()[0]) == (0, "covariances: starting (no output yet)")


def test_a_config_file_and_options_are_the_same_run(ltcli, copy):
    (copy / "p.yaml").write_text("rank_by: scores\n")
    done = ltcli("confusion", "--config", copy / "p.yaml", "-d", copy)
    assert done.err == "confusion: up to date\n"


def test_a_dry_run_writes_nothing(ltcli, copy, tmp_path):
    before = sorted(copy.rglob("*")), bytes_of(copy)
    done = ltcli("covariances", "--dry-run", "-d", copy)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == "covariances: up to date"
    done = ltcli("covariances", "--dry-run", "--form", "factor", "-d", copy)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "covariances: would run: form changed from auto to factor",
        str(copy / "covariances.safetensors"),
        '  form: "factor"',
        '  memory: "4GB"',
        "  rank: null",
        '  divisor: "n-1"',
        "  full      0.2 MB  exact",
        "  factor    0.1 MB  exact    chosen",
        "  low-rank  0.1 MB  rank 64",
        "  diagonal  0.0 MB",
    ]
    out = tmp_path / "new" / "o.safetensors"
    assert ltcli("covariances", "--dry-run", "-d", copy, "--out", out).code == 0
    assert (sorted(copy.rglob("*")), bytes_of(copy)) == before
    assert not out.parent.exists()


def test_json_is_one_document_when_it_works(ltcli, copy):
    out = str(copy / "covariances.safetensors")
    digest = read_header(Path(out)).digest
    facts = {"stage": "covariances", "out": out, "digest": digest}
    done = ltcli("covariances", "--json", "-d", copy)
    assert json.loads(done.out) == facts | {"status": "up to date"}
    done = ltcli("covariances", "--json", "--force", "-q", "-d", copy)
    assert json.loads(done.out) == facts | {"status": "made"}
    assert done.err == ""
    done = ltcli("covariances", "--json", "--dry-run", "-d", copy)
    assert json.loads(done.out)["status"] == "up to date"
    done = ltcli("evaluate", "--json", "-d", copy)
    assert [result["status"] for result in json.loads(done.out)] == ["up to date"] * 2


def test_json_is_one_document_when_it_fails(ltcli, copy):
    path = copy / "no.safetensors"
    done = ltcli("covariances", "--json", "--features", path, "-d", copy)
    hint = "run the stage that makes it first"
    assert done.code == 3
    assert json.loads(done.out) == {
        "error": {"code": 3, "message": f"{path}: no such artifact", "hint": hint}
    }
    assert done.err.splitlines() == [f"error: {path}: no such artifact", f"hint: {hint}"]


@pytest.mark.parametrize("waited", [True, False])
def test_what_another_process_made_meanwhile_is_not_made_again(ltcli, copy, monkeypatch, waited):
    out, made = copy / "covariances.safetensors", copy / "made"
    out.rename(made)
    real = store.locked

    @contextmanager
    def held(path: Path, *also: Path) -> Iterator[bool]:
        with real(path, *also):
            shutil.copy(made, out)
            yield waited

    monkeypatch.setattr(store, "locked", held)
    done = ltcli("covariances", "--json", "-d", copy)
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert (facts["status"], facts["digest"]) == ("up to date", read_header(made).digest)


def test_another_recipe_that_was_made_meanwhile_is_made_again(ltcli, copy, monkeypatch):
    out, made = copy / "covariances.safetensors", copy / "made"
    out.rename(made)
    real = store.locked

    @contextmanager
    def held(path: Path, *also: Path) -> Iterator[bool]:
        with real(path, *also) as waited:
            shutil.copy(made, out)
            yield waited

    monkeypatch.setattr(store, "locked", held)
    done = ltcli("covariances", "--divisor", "n", "-d", copy)
    assert done.err.splitlines()[0] == "covariances: starting (divisor changed from n-1 to n)"


def test_an_input_that_is_replaced_during_the_run_is_read_as_it_was_checked(
    ltcli, copy, monkeypatch
):
    bank, out = copy / "dump-features.safetensors", copy / "covariances.safetensors"
    before, content = read_header(bank).digest, out.read_bytes()
    other = copy / "other.safetensors"
    assert ltcli("dump-features", "--precision", "bf16", "-d", copy, "--out", other).code == 0
    describe = environment.describe

    def replace(device: str) -> dict:
        # The inputs are checked and open when the log of the run begins.
        other.replace(bank)
        return describe(device)

    monkeypatch.setattr(environment, "describe", replace)
    assert ltcli("covariances", "-q", "--force", "-d", copy).code == 0
    assert read_header(bank).digest != before
    assert out.read_bytes() == content
    assert read_header(out).inputs["features"] == before


# What does not fit.


def assert_wrong(done, code: int, message: str, hint: str | None) -> None:
    lines = [f"error: {message}"] + ([f"hint: {hint}"] if hint else [])
    assert (done.code, done.out, done.err.splitlines()) == (code, "", lines)


def test_a_missing_input_is_named(ltcli, copy):
    (copy / "dump-features.safetensors").unlink()
    message = f"{copy}/dump-features.safetensors: no such artifact"
    done = ltcli("confusion", "-d", copy)
    assert_wrong(done, 3, message, "run the stage that makes it first")


def test_an_input_of_the_wrong_kind_is_named(ltcli, copy):
    path = copy / "split.safetensors"
    done = ltcli("confusion", "--features", path, "-d", copy)
    message = f"{path}: features must be of kind features, got split"
    assert_wrong(done, 3, message, "name another file with --features")


def test_a_damaged_input_stops_the_run_before_it_starts(ltcli, copy):
    path, out = copy / "dump-features.safetensors", copy / "o.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = ltcli("covariances", "-q", "-d", copy, "--out", out)
    message = f"{path}: content does not match its digest"
    assert_wrong(done, 3, message, "make it again with --force")
    assert not out.exists()


@pytest.mark.parametrize("failure", [None, KeyError("backbone")])
def test_a_damaged_input_that_a_stage_has_not_loaded_is_named_before_a_result(copy, failure):
    def loads_nothing(_params, inputs, _context):
        assert inputs["features"].header.kind == "features"
        if failure:
            raise failure
        with open_artifact(copy / "confusion.safetensors") as made:
            return Result(made.load("*"), made.header.info)

    path, out = copy / "dump-features.safetensors", copy / "o.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    job = run.Job(replace(CONFUSION, run=loads_nothing), Params(), {"features": path}, out)
    with ExitStack() as stack, pytest.raises(ArtifactError) as caught:
        run.run(job, run.Opened(stack))
    assert str(caught.value) == f"{path}: content does not match its digest"
    assert not out.exists()


def test_artifacts_of_two_splits_are_not_mixed(ltcli, copy):
    other = saved_again(copy / "split.safetensors", copy / "other.safetensors", seed=1)
    done = ltcli("dump-features", "--split", other, "-d", copy)
    message = f"dump-features: {copy}/pretrain.safetensors belongs to another split than {other}"
    assert_wrong(done, 3, message, APART)


def test_features_of_another_model_are_refused(ltcli, copy):
    model, features = copy / "finetune-crt.safetensors", copy / "dump-features.safetensors"
    done = ltcli(*CRT, "--model", model, "-d", copy, "--out", copy / "o.safetensors")
    message = f"finetune: {features} belongs to another model than {model}"
    assert_wrong(done, 3, message, APART)


def test_another_order_of_classes_is_refused(ltcli, copy):
    model, features = copy / "pretrain.safetensors", copy / "dump-features.safetensors"
    names = list(reversed(read_header(features).info["class_names"]))
    other = saved_again(features, copy / "turned.safetensors", class_names=names)
    done = ltcli(*CRT, "--features", other, "-d", copy, "--force")
    message = f"finetune: {other} belongs to another list of classes than {model}"
    assert_wrong(done, 3, message, APART)


def test_an_output_that_is_a_folder_is_refused(ltcli, copy):
    out = copy / "folder.safetensors"
    out.mkdir()
    done = ltcli("covariances", "-d", copy, "--out", out, "--force")
    assert_wrong(done, 6, f"{out}: must be a file, got a folder", "choose another --out")


def test_an_output_that_is_one_of_the_inputs_is_refused(ltcli, copy):
    path = copy / "dump-features.safetensors"
    before = path.read_bytes()
    (copy / "link.safetensors").symlink_to(path.name)
    for out in (path, copy / ".." / copy.name / path.name, copy / "link.safetensors"):
        done = ltcli("covariances", "-d", copy, "--out", out, "--force")
        message = f"{out}: the output must not be one of the inputs"
        assert_wrong(done, 6, message, "choose another --out")
    assert path.read_bytes() == before


def test_an_output_that_is_not_ours_is_left_alone(ltcli, copy):
    from safetensors.torch import save_file

    out = copy / "theirs.safetensors"
    save_file({"weight": torch.zeros(3)}, out)
    before = out.read_bytes()
    message = f"{out}: not written by ltcli: it has no ltcli metadata"
    done = ltcli("covariances", "-d", copy, "--out", out)
    assert_wrong(done, 3, message, REPLACES)
    assert out.read_bytes() == before
    assert ltcli("covariances", "-d", copy, "--out", out, "--force").code == 0
    assert out.read_bytes() == (copy / "covariances.safetensors").read_bytes()


def test_an_output_of_another_stage_is_left_alone(ltcli, copy):
    out = copy / "confusion.safetensors"
    before = out.read_bytes()
    done = ltcli("covariances", "-d", copy, "--out", out)
    assert_wrong(done, 3, f"{out}: was made by confusion, not by covariances", REPLACES)
    assert out.read_bytes() == before


def test_a_damaged_output_is_left_alone(ltcli, copy):
    out = copy / "covariances.safetensors"
    out.write_bytes(out.read_bytes()[:-1])
    done = ltcli("covariances", "-d", copy)
    held = 4 * 10 * 64 * 65 + 8 * 10
    rule = f"not a sound artifact: it holds {held - 1} bytes of tensors instead of {held}"
    assert_wrong(done, 3, f"{out}: {rule}", REPLACES)
    assert ltcli("covariances", "-d", copy, "--force").code == 0
    verify(out)


def test_an_output_without_the_suffix_is_refused(ltcli, copy):
    out = copy / "covariances.pt"
    done = ltcli("covariances", "-d", copy, "--out", out)
    message = f"covariances: out must end in .safetensors, got {out}"
    assert_wrong(done, 2, message, None)


def test_a_place_that_cannot_be_written_is_named_before_any_work(ltcli, copy):
    (copy / "file").touch()
    (copy / "loop.safetensors").symlink_to("loop.safetensors")
    long = "x" * 189 + ".safetensors"
    for out, rule in (
        (
            copy / "file" / "o.safetensors",
            f"cannot be written: {copy}/file is not a writable folder",
        ),
        (
            copy / "file" / "a" / "o.safetensors",
            f"cannot be written: {copy}/file is not a writable folder",
        ),
        (copy / long, "file name must be at most 200 bytes, got 201"),
        (copy / ("y" * 300) / "o.safetensors", "cannot be written: file name too long"),
    ):
        done = ltcli("covariances", "-d", copy, "--out", out)
        assert_wrong(done, 6, f"{out}: {rule}", "choose another --out")
    assert ltcli("covariances", "-q", "-d", copy, "--out", copy / long[1:]).code == 0
    assert ltcli("covariances", "-q", "-d", copy, "--out", copy / "loop.safetensors").code == 0


@pytest.mark.skipif(not Path("/proc/self").exists() or os.geteuid() != 0, reason="other words here")
def test_a_folder_that_takes_no_file_is_named_at_once(ltcli, copy):
    done = ltcli("covariances", "-d", copy, "--out", "/proc/o.safetensors")
    message = "/proc/o.safetensors: cannot be written: no such file or directory"
    assert_wrong(done, 6, message, "choose another --out")


def test_features_that_are_not_finite_are_named(ltcli, copy):
    model = copy / "pretrain.safetensors"
    with open_artifact(model) as artifact:
        name = next(n for n in artifact.header.tensors if n.endswith(".weight") and "conv" in n)
        weight = artifact.tensor(name)
    huge = {name: torch.full_like(weight, 3e38)}
    saved_again(model, model, tensors=huge)
    done = ltcli("dump-features", "-q", "-d", copy, "--precision", "fp32")
    message = "dump-features: train features must be finite, got NaN or infinity for image 0"
    assert_wrong(done, 4, message, "the model has diverged: train it again")


def forge_nan(path: Path, name: str) -> None:
    """Put a NaN into a tensor and the right digest into the header."""
    header = verify(path)
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    start = end + json.loads(data[8:end])[name]["data_offsets"][0]
    blank = data[:start] + b"\0\0\xc0\x7f" + data[start + 4 :]
    blank = blank.replace(header.digest.encode(), b"0" * 64, 1)
    digest = hashlib.sha256(blank).hexdigest().encode()
    path.write_bytes(blank.replace(b"0" * 64, digest, 1))
    verify(path)


def test_not_a_number_in_a_feature_bank_is_named(ltcli, copy):
    bank = copy / "dump-features.safetensors"
    forge_nan(bank, "train.features")
    done = ltcli("covariances", "-q", "-d", copy)
    message = f"{bank}: train.features must be finite, got NaN or infinity"
    assert_wrong(done, 3, message, None)


# What is written beside the result, and what is not in it.


def test_the_sidecar_has_what_the_result_has_not(ltcli, copy):
    out = copy / "finetune-crt.safetensors"
    entries = sidecar(out)
    assert [entry["event"] for entry in entries] == ["start", "training", "epoch", "epoch", "end"]
    start, end = entries[0], entries[-1]
    assert start["host"] == platform.node()
    assert start["device"] == "auto"
    assert {"torch", "torchvision", "timm", "safetensors"} == set(start["versions"])
    assert end["digest"] == read_header(out).digest
    assert end["peak_memory_mb"] > 1
    out.with_suffix(".run.jsonl").write_text("nonsense")
    assert ltcli(*CRT, "-d", copy).err == "finetune: up to date\n"
    assert ltcli(*CRT, "-q", "-d", copy, "--force").code == 0
    assert [entry["event"] for entry in sidecar(out)] == [entry["event"] for entry in entries]


def test_a_run_that_fails_leaves_the_sidecar_of_what_is_there(ltcli, copy):
    out = copy / "finetune-crt.safetensors"
    before = sidecar(out)
    done = ltcli(*CRT, "--lr", 1e30, "-d", copy)
    assert done.code == 4, done.err
    assert sidecar(out) == before
    log = (copy / "finetune-crt.resume.jsonl").read_text().splitlines()
    assert json.loads(log[0])["event"] == "start"
    assert ltcli(*CRT, "-q", "-d", copy, "--force").code == 0
    assert [entry["event"] for entry in sidecar(out)] == [entry["event"] for entry in before]
    assert not (copy / "finetune-crt.resume.jsonl").exists()


def test_no_path_no_host_and_no_time_is_in_any_artifact(chain):
    found = sorted(chain.glob("*.safetensors"))
    assert len(found) == 9
    for path in found:
        data = path.read_bytes()
        header = data[8 : 8 + int.from_bytes(data[:8], "little")]
        facts = json.loads(json.loads(header)["__metadata__"]["ltcli"])
        for word in (str(chain), chain.name, str(chain.parent), os.getcwd(), platform.node()):
            assert word.encode() not in header, path.name
        started = sidecar(path)[0]["time"]
        assert str(int(started))[:6].encode() not in header
        assert set(facts) == {
            *("digest", "info", "inputs", "kind", "kind_version", "ltcli", "parameters", "stage")
        }
        assert facts["ltcli"] == __version__


# Interruption.


@pytest.fixture
def saves_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltcli.engine.fit.CHECKPOINT_SECONDS", 0)


@pytest.fixture
def signal_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Send this process a signal in a given optimisation step, counted from 1, once."""
    step = SGD.step

    def arm(number: int, at: int) -> None:
        count = 0

        def counted(self: SGD, *args: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), number)
            return step(self, *args, **named)

        monkeypatch.setattr(SGD, "step", counted)

    return arm


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
@pytest.mark.parametrize("at", range(1, 2 * STEPS_PER_EPOCH + 1))
def test_a_signal_in_any_step_saves_and_the_next_run_ends_the_same(
    ltcli, copy, signal_in_step, number, code, at
):
    out, resume = copy / "again.safetensors", copy / "again.resume.safetensors"
    command = (*CRT, "-d", copy, "--out", out)
    signal_in_step(number, at)
    done = ltcli(*command)
    assert (done.code, done.out) == (code, "")
    assert done.lines == [
        "error: finetune: interrupted",
        "hint: run the same command again to go on",
    ]
    assert not out.exists()
    assert read_header(resume).kind == "checkpoint"
    done = ltcli(*command)
    assert done.code == 0
    assert [entry["event"] for entry in sidecar(out) if entry["event"] != "epoch"] == [
        *("start", "training", "resume", "training", "end")
    ]
    assert not resume.exists()
    assert out.read_bytes() == (copy / "finetune-crt.safetensors").read_bytes()


def test_a_run_that_goes_on_reads_its_checkpoint_once(ltcli, copy, signal_in_step, monkeypatch):
    resume, verified = copy / "again.resume.safetensors", []
    command = (*CRT, "-d", copy, "--out", copy / "again.safetensors")
    signal_in_step(signal.SIGINT, 3)
    assert ltcli(*command).code == 130
    check = store.check_digest

    def counted(header, file, wanted):
        verified.append(header.path)
        check(header, file, wanted)

    monkeypatch.setattr(store, "check_digest", counted)
    monkeypatch.setattr("ltcli.artifacts.header.check_digest", counted)
    assert ltcli(*command).code == 0
    assert verified.count(resume) == 1


def test_a_whole_network_interrupted_twice_ends_the_same(ltcli, copy, signal_in_step):
    out, config = copy / "again.safetensors", copy / "pretrain.yaml"
    config.write_text(json.dumps(read_header(copy / "pretrain.safetensors").parameters))
    command = ("pretrain", "--config", config, "-d", copy, "--out", out)
    for at in (3, 4):
        signal_in_step(signal.SIGINT, at)
        assert ltcli(*command).code == 130
    assert ltcli(*command).code == 0
    assert out.read_bytes() == (copy / "pretrain.safetensors").read_bytes()
    assert not (copy / "again.resume.safetensors").exists()


def test_snapshots_survive_an_interruption(ltcli, copy, signal_in_step):
    command = (*CRT, "--snapshots", "2", "--epochs", "3", "-d", copy, "--out")
    whole, broken = copy / "whole.safetensors", copy / "broken.safetensors"
    assert ltcli(*command, whole).code == 0
    for at in (STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1):
        signal_in_step(signal.SIGTERM, at)
        assert ltcli(*command, broken).code == 143
    assert ltcli(*command, broken).code == 0
    assert broken.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("what", ["damaged", "cut", "folder"])
def test_a_damaged_checkpoint_is_left_with_a_warning(ltcli, copy, signal_in_step, what):
    out, resume = copy / "again.safetensors", copy / "again.resume.safetensors"
    command = (*CRT, "-d", copy, "--out", out)
    signal_in_step(signal.SIGINT, 3)
    assert ltcli(*command).code == 130
    data = resume.read_bytes()
    if what == "damaged":
        resume.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif what == "cut":
        resume.write_bytes(data[:100])
    else:
        resume.unlink()
        resume.mkdir()
        done = ltcli(*command)
        assert done.code == 6
        assert done.lines == [f"error: {resume}: cannot be removed: is a directory"]
        return
    done = ltcli(*command)
    assert done.code == 0
    assert f"{resume}: damaged, starting afresh" in done.err.splitlines()
    assert_made_afresh(copy, out)


def assert_made_afresh(copy, out):
    """The output is that of a run without a checkpoint, and nothing is left of the other one."""
    assert sidecar(out)[0]["event"] == "start"
    assert "resume" not in [entry["event"] for entry in sidecar(out)]
    assert out.read_bytes() == (copy / "finetune-crt.safetensors").read_bytes()
    assert not out.with_suffix(".resume.safetensors").exists()


@pytest.mark.parametrize("what", ["parameters", "input", "version", "stage"])
def test_a_checkpoint_of_another_run_is_not_lost(ltcli, copy, signal_in_step, what):
    out, resume = copy / "again.safetensors", copy / "again.resume.safetensors"
    command = (*CRT, "-d", copy, "--out", out)
    signal_in_step(signal.SIGINT, 3)
    lr = ("--lr", "0.2") if what == "parameters" else ()
    assert ltcli(*command, *lr).code == 130
    data, difference = resume.read_bytes(), "lr changed from 0.2 to 0.1"
    if what == "input":
        bank = copy / "dump-features.safetensors"
        saved_again(bank, bank, note=1)
        (copy / "finetune-crt.safetensors").unlink()
        assert ltcli(*CRT, "-q", "-d", copy).code == 0
        difference = "features changed"
    elif what == "version":
        data = data.replace(rb"\"ltcli\":\"" + __version__.encode(), rb"\"ltcli\":\"9.9.9", 1)
        difference = f"ltcli changed from 9.9.9 to {__version__}"
    elif what == "stage":
        data = data.replace(rb"\"stage\":\"finetune", rb"\"stage\":\"pretrain", 1)
        difference = "it is the checkpoint of pretrain"
    resume.write_bytes(data := resealed(data))
    log = (copy / "again.resume.jsonl").read_bytes()
    rule = f"is of an unfinished run, and this is another: {difference}"
    for words in (command, (*command, "--dry-run")):
        done = ltcli(*words)
        assert (done.code, done.lines) == (
            3,
            [f"error: {resume}: {rule}", "hint: --force deletes it, --out writes elsewhere"],
        )
    assert resume.read_bytes() == data
    assert (copy / "again.resume.jsonl").read_bytes() == log
    if what == "parameters":
        # The first command again goes on where it was.
        assert ltcli(*command, *lr).code == 0
        assert "resume" in [entry["event"] for entry in sidecar(out)]
        return
    done = ltcli(*command, "--force")
    assert done.code == 0
    assert f"{resume}: of another run, starting afresh" in done.err.splitlines()
    assert_made_afresh(copy, out)


def test_a_minute_of_training_is_not_replaced_by_another_recipe(ltcli, copy):
    out, log = copy / "finetune-crt.safetensors", copy / "finetune-crt.run.jsonl"
    before, lines = out.read_bytes(), log.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    epochs = [record for record in records if record["event"] == "epoch"]
    assert len(epochs) == 2
    for seconds, code in ((29.5, 0), (30.5, 3)):
        for record in epochs:
            record["seconds"] = seconds
        out.write_bytes(before)
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
        done = ltcli(*CRT, "--lr", "0.2", "-d", copy)
        assert done.code == code
    rule = "has 61 s of training by another recipe: lr changed from 0.1 to 0.2"
    hint = "--force replaces it, --out writes elsewhere"
    assert done.lines == [f"error: {out}: {rule}", f"hint: {hint}"]
    assert out.read_bytes() == before
    # What was made from other inputs is out of date, whatever it took.
    saved_again(copy / "dump-features.safetensors", copy / "dump-features.safetensors", note=1)
    done = ltcli(*CRT, "-d", copy)
    assert (done.code, done.err.splitlines()[0]) == (0, "finetune: starting (features changed)")
    assert ltcli(*CRT, "--lr", "0.2", "--force", "-d", copy).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
@pytest.mark.parametrize("when", ["before the rename", "after it"])
def test_a_signal_during_the_save_comes_too_late(ltcli, copy, monkeypatch, number, when):
    out, real = copy / "again.safetensors", os.replace

    def replace(source, target):
        if when == "after it":
            real(source, target)
        if os.fspath(target) == os.fspath(out):
            os.kill(os.getpid(), number)
        if when == "before the rename":
            real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    done = ltcli(*CRT, "-d", copy, "--out", out)
    assert done.code == 128 + number
    assert done.lines == ["error: finetune: interrupted", f"hint: {out} is complete"]
    monkeypatch.undo()
    assert sorted(path.name for path in copy.glob("again.*")) == [
        "again.run.jsonl",
        "again.safetensors",
    ]
    assert sidecar(out)[-1]["digest"] == read_header(out).digest
    assert ltcli(*CRT, "-d", copy, "--out", out).err == "finetune: up to date\n"


def killed_at(copy, target, command):
    """Run a command that is killed right after something took the place of a file."""
    code = f"""
import os, signal, sys
from ltcli.cli.main import run
real = os.replace
def replace(a, b):
    real(a, b)
    if os.fspath(b) == {str(target)!r}:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
run(sys.argv[1:])
"""
    call = [sys.executable, "-c", code, *map(str, command)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_the_end_of_a_killed_run_is_made_up_for(ltcli, copy):
    out = copy / "again.safetensors"
    command = (*CRT, "-d", copy, "--out", out)
    killed_at(copy, out, command)
    left = copy / f".{out.name}.1.0123abcd.tmp"
    left.write_bytes(b"half")
    assert not out.with_suffix(".run.jsonl").exists()
    done = ltcli(*command)
    assert (done.code, done.err) == (0, "finetune: up to date\n")
    assert sorted(path.name for path in copy.glob("*again.*")) == [
        f".{out.name}.lock",
        "again.run.jsonl",
        "again.safetensors",
    ]
    assert sidecar(out)[-1]["digest"] == read_header(out).digest
    assert out.read_bytes() == (copy / "finetune-crt.safetensors").read_bytes()


def test_what_a_killed_run_left_stays_while_another_process_is_at_work(ltcli, copy):
    out, log = copy / "finetune-crt.safetensors", copy / "finetune-crt.resume.jsonl"
    log.write_text("")
    with store.locked(out):
        assert ltcli(*CRT, "-d", copy).err == "finetune: up to date\n"
        assert log.exists()
    assert ltcli(*CRT, "-d", copy).err == "finetune: up to date\n"
    assert not log.exists()


def test_a_dry_run_compares_every_byte_of_the_inputs(ltcli, copy):
    bank = copy / "dump-features.safetensors"
    data = bytearray(bank.read_bytes())
    data[-1000] ^= 1
    bank.write_bytes(data)
    done = ltcli(*CRT, "--lr", "0.2", "--dry-run", "-d", copy)
    hint = "hint: make it again with --force"
    assert (done.code, done.lines) == (
        3,
        [f"error: {bank}: content does not match its digest", hint],
    )


def resealed(data: bytes) -> bytes:
    blank = re.sub(rb'(\\"digest\\":\\")[0-9a-f]{64}', rb"\g<1>" + b"0" * 64, data, count=1)
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank.replace(b"0" * 64, digest, 1)


def test_a_checkpoint_left_by_a_run_that_died_at_its_very_end_is_removed(
    ltcli, copy, signal_in_step
):
    out, resume = copy / "again.safetensors", copy / "again.resume.safetensors"
    command = (*CRT, "-d", copy, "--out", out)
    signal_in_step(signal.SIGINT, 3)
    assert ltcli(*command).code == 130
    shutil.copy(copy / "finetune-crt.safetensors", out)
    done = ltcli(*command)
    assert (done.code, done.err) == (0, "finetune: up to date\n")
    assert not resume.exists()


def test_a_checkpoint_of_other_parameters_outlives_a_look_at_what_is_up_to_date(
    ltcli, copy, signal_in_step
):
    resume = copy / "finetune-crt.resume.safetensors"
    signal_in_step(signal.SIGINT, 3)
    assert ltcli(*CRT, "--lr", "0.2", "-d", copy).code == 130
    assert ltcli(*CRT, "-d", copy).err == "finetune: up to date\n"
    assert resume.exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_a_stage_that_cannot_go_on_stops_at_once(ltcli, copy, monkeypatch, number, code):
    out = copy / "o.safetensors"
    reached = []

    def kill_and_go_on(*_args: object) -> None:
        os.kill(os.getpid(), number)
        reached.append(True)

    monkeypatch.setattr("ltcli.stats.moments.class_counts", kill_and_go_on)
    done = ltcli("covariances", "-d", copy, "--out", out)
    assert (done.code, done.out) == (code, "")
    assert done.lines == [
        "error: covariances: interrupted",
        "hint: run the same command again to go on",
    ]
    assert reached == []
    assert [path.name for path in copy.glob("o.*")] == ["o.resume.jsonl"]
    monkeypatch.undo()
    assert ltcli("covariances", "-q", "-d", copy, "--out", out).code == 0
    assert out.read_bytes() == (copy / "covariances.safetensors").read_bytes()


def test_memory_that_runs_out_is_an_error_with_a_remedy(ltcli, copy, monkeypatch):
    failures = [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ]
    for failure in failures:

        def fail(*_args: object, failure: Exception = failure, **_named: object) -> None:
            raise failure

        monkeypatch.setattr("ltcli.stats.moments.class_counts", fail)
        done = ltcli("covariances", "-q", "--force", "-d", copy)
        assert_wrong(done, 6, "covariances: out of memory", "use fewer images")
        monkeypatch.setattr("ltcli.engine.fit.fit", fail)
        done = ltcli(*CRT, "-q", "--force", "-d", copy)
        hint = "use a smaller --batch-size, or fewer images"
        assert_wrong(done, 6, "finetune: out of memory", hint)


# One interpreter that has loaded all that is slow to load (Typer needs pydantic) forks every
# process below: on a busy machine those that load it themselves die before their first epoch.
KILLER = """
import hashlib, json, os, random, signal, sys, time
from pathlib import Path
import pydantic
import torch
import torchvision
import ltcli.artifacts.store
import ltcli.engine.fit as fit
from ltcli.cli.main import run

fit.CHECKPOINT_SECONDS = 0
torch.set_num_threads(1)
seed, kills, longest, out, *argv = sys.argv[1:]
draw, out, longest = random.Random(int(seed)), Path(out), float(longest)


def fork():
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = run([*argv, "-q", "--out", str(out)])
        finally:
            os._exit(code)
    return child


died, resumed, results = 0, 0, set()
while died < int(kills):
    resumed += out.with_suffix(".resume.safetensors").exists()
    child = fork()
    time.sleep(draw.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    died += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if out.exists():
        # It was done before its time was up: begin again.
        results.add(hashlib.sha256(out.read_bytes()).hexdigest())
        out.unlink()
code = os.waitstatus_to_exitcode(os.waitpid(fork(), 0)[1])
results.add(hashlib.sha256(out.read_bytes()).hexdigest())
print(json.dumps({"died": died, "code": code, "resumed": resumed, "results": sorted(results)}))
"""


def killed(folder: Path, out: Path, seed: int, kills: int, longest: float, *argv: str) -> dict:
    """Run a command in a process that is killed again and again, then once more to its end."""
    numbers = map(str, (seed, kills, longest, out))
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *numbers, *argv, "-d", str(folder)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    # A short run is hardly trained, and says so.
    others = [line for line in done.stderr.splitlines() if "the loss ended at" not in line]
    assert (done.returncode, others) == (0, [])
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("longest", "argv"),
    [
        (1.0, ("pretrain", "--backbone", "resnet20", "--epochs", "6", "--snapshots", "2")),
        (0.4, ("finetune", "--method", "crt", "--data", "features", "--epochs", "60")),
    ],
    ids=["pretrain", "finetune"],
)
def test_a_run_killed_ten_times_ends_in_the_same_bytes(ltcli, copy, longest, argv):
    whole, out = copy / "whole.safetensors", copy / "killed" / "out.safetensors"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert ltcli(*argv, "-q", "-d", copy, "--out", whole).code == 0
    finally:
        torch.set_num_threads(threads)
    seed = random.Random(len(argv)).randrange(1000)
    found = killed(copy, out, seed, 10, longest, *argv)
    expected = hashlib.sha256(whole.read_bytes()).hexdigest()
    assert (found["died"], found["code"], found["results"]) == (10, 0, [expected])
    assert found["resumed"] > 0
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == [
        *(".out.safetensors.lock", "out.run.jsonl", "out.safetensors")
    ]
    assert sidecar(out)[-1]["event"] == "end"


TWO = """
import json, os, sys
import torch
from ltcli.cli.main import run

torch.set_num_threads(1)
children = []
for _ in range(3):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os._exit(run([*sys.argv[1:], "--json", "-q"]) or sys.stdout.flush() or 0)
    os.close(writing)
    children.append((child, reading))
results = []
for child, reading in children:
    with os.fdopen(reading) as file:
        text = file.read()
    assert os.waitpid(child, 0)[1] == 0
    results.append(json.loads(text)["status"])
print(json.dumps(results))
"""


@pytest.mark.slow
def test_of_three_runs_at_once_one_does_the_work(copy):
    out = copy / "o.safetensors"
    command = [*CRT, "--epochs", "20", "-d", str(copy), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", TWO, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(json.loads(done.stdout)) == ["made", "up to date", "up to date"]
    assert [entry["event"] for entry in sidecar(out)].count("start") == 1
