"""Exit codes, streams and the two lines of every error that the command line itself makes."""

import json

import pytest

from ltcli import __version__
from ltcli.methods import METHODS, names
from ltcli.stages import STAGES


def test_version(ltcli):
    assert ltcli("--version").out == f"{__version__}\n"


def test_bare_call_prints_help_on_stderr_and_exits_with_2(ltcli):
    done = ltcli()
    assert (done.code, done.out) == (2, "")
    assert "split" in done.err
    assert "Exit codes: 2 parameters" in done.err


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        (
            ["pretrane"],
            ["error: ltcli: no such command 'pretrane'", "hint: did you mean 'pretrain'?"],
        ),
        (
            ["pretrain", "--epoch", "3"],
            ["error: ltcli pretrain: no such option: --epoch", "hint: did you mean --epochs?"],
        ),
        (
            ["pretrain", "--epochs"],
            [
                "error: ltcli pretrain: option '--epochs' requires an argument",
                "hint: see ltcli pretrain --help",
            ],
        ),
        (["split"], ["error: split: source must be given"]),
        (
            ["split", "cifar1"],
            [
                "error: split: source must be one of cifar10, cifar100, fashion-mnist, digits,"
                " folder, list, csv, inat, imagenet-lt, places-lt, inat2017, inat2018, parquet,"
                " embeddings, got cifar1",
                "hint: did you mean 'cifar10'?",
            ],
        ),
        (
            ["split", "digits", "--imbalance-factor", "0.01"],
            [
                "error: split: imbalance_factor must be at least 1, got 0.01",
                "hint: did you mean 100?",
            ],
        ),
        (
            ["split", "digits", "--imbalance-factor", "nan"],
            ["error: split: imbalance_factor must be finite, got nan"],
        ),
        (
            ["split", "digits", "--val-per-class", "1.5"],
            ["error: split: val_per_class must be a whole number, got 1.5"],
        ),
        (["pretrain", "--lr", "0"], ["error: pretrain: lr must be greater than 0, got 0"]),
        (
            ["pretrain", "--method", "crt"],
            ["error: pretrain: method crt is not one for pretrain", "hint: use finetune"],
        ),
        (
            ["finetune", "--method", "taunorm"],
            ["error: finetune: no method 'taunorm'", "hint: did you mean 'tau-norm'?"],
        ),
        (
            ["finetune"],
            [
                "error: finetune: method must be given",
                "hint: --method is one of " + ", ".join(names("finetune")),
            ],
        ),
        (
            ["split", "cifar10"],
            [
                "error: split: source 'cifar10' needs --root",
                "hint: name the folder that holds the data set",
            ],
        ),
        (
            ["finetune", "--method", "crt", "--tau", "1"],
            [
                "error: ltcli finetune: no such option: --tau",
                "hint: did you mean --beta, --data, --train?",
            ],
        ),
        (
            ["finetune", "--method", "crt", "--split", "x"],
            ["error: finetune: split is not read with these parameters"],
        ),
        (
            ["pretrain", "--out", "model.pt"],
            ["error: pretrain: out must end in .safetensors, got model.pt"],
        ),
        (
            ["evaluate", "--out", "x.safetensors"],
            ["error: evaluate: --out needs --model, as there is one output for each"],
        ),
        (
            ["compare", "--markdown", "--csv"],
            ["error: compare: at most one of --json, --csv and --markdown may be given"],
        ),
        (["compare", "--level", "95"], ["error: compare: level must be less than 1, got 95"]),
        (
            ["compare", "--score", "f1"],
            [
                "error: compare: score must be one of accuracy, balanced, got f1",
                "hint: known: accuracy, balanced",
            ],
        ),
        (["predict", "--model", "x"], ["error: predict: images must be given"]),
        (
            ["report", "--many-above", "-1"],
            ["error: report: many_above must be at least 0, got -1"],
        ),
        (
            ["methods", "cutmix"],
            ["error: methods: no method 'cutmix'", f"hint: known: {', '.join(sorted(METHODS))}"],
        ),
        (["methods", "remx"], ["error: methods: no method 'remx'", "hint: did you mean 'remix'?"]),
        (["pretrain", "--beta", "1"], ["error: pretrain: beta must be less than 1, got 1"]),
        (
            ["pretrain", "--sampler", "balanced"],
            [
                "error: pretrain: sampler must be one of instance-balanced, class-aware,"
                " square-root, reversed, progressive, got balanced",
                "hint: did you mean 'instance-balanced'?",
            ],
        ),
        (
            ["finetune", "--method", "crt", "--defer", "3"],
            [
                "error: ltcli finetune: no such option: --defer",
                "hint: did you mean --device, --dir, --seed?",
            ],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and len(value) < 6 else "",
)
def test_wrong_parameters_exit_with_2(ltcli, tmp_path, monkeypatch, args, lines):
    monkeypatch.chdir(tmp_path)
    done = ltcli(*args)
    assert (done.code, done.out) == (2, "")
    assert done.lines == lines
    assert list(tmp_path.iterdir()) == []


def test_train_all_needs_images(ltcli, chain):
    done = ltcli("finetune", "--method", "crt", "--train", "all", "-d", chain)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: train must be classifier, got all",
        "hint: --train all needs --data images and a method that trains the classifier",
    ]


def test_missing_input_names_the_file(ltcli, tmp_path):
    done = ltcli("pretrain", "-d", tmp_path)
    assert (done.code, done.out) == (3, "")
    assert done.lines == [
        f"error: {tmp_path}/split.safetensors: no such artifact",
        "hint: run the stage that makes it first",
    ]


def test_json_is_one_document_also_on_failure(ltcli, tmp_path):
    done = ltcli("pretrain", "--json", "-d", tmp_path)
    assert done.code == 3
    assert json.loads(done.out)["error"] == {
        "code": 3,
        "message": f"{tmp_path}/split.safetensors: no such artifact",
        "hint": "run the stage that makes it first",
    }


def test_unknown_device_is_refused_before_work(ltcli, chain, tmp_path):
    out = tmp_path / "x.safetensors"
    done = ltcli("pretrain", "--device", "tpu", "--out", out, "-d", chain)
    assert done.code == 6
    assert done.lines == ["error: --device: device must be auto, cpu, cuda, cuda:N or mps, got tpu"]
    assert not out.exists()


def test_config_file_gives_parameters_and_options_win(ltcli, tmp_path):
    config = tmp_path / "split.yaml"
    config.write_text("source: digits\nimbalance_factor: 1e1\nval_per_class: 2\n")
    out = tmp_path / "a.safetensors"
    base = ["split", "--config", config, "--out", out, "--json"]
    assert ltcli(*base, "--val-per-class", 3).code == 0
    shown = json.loads(ltcli("show", "--json", out).out)["parameters"]
    assert shown["imbalance_factor"] == 10
    assert shown["val_per_class"] == 3
    # The same values given as options make the same artifact, byte for byte.
    again = tmp_path / "b.safetensors"
    options = ["--imbalance-factor", "10", "--val-per-class", "3", "--out", again]
    assert ltcli("split", "digits", *options).code == 0
    assert out.read_bytes() == again.read_bytes()


def test_unknown_key_in_a_config_file_names_the_file_and_the_nearest_key(ltcli, tmp_path):
    config = tmp_path / "p.yaml"
    config.write_text("epoch: 3\n")
    done = ltcli("pretrain", "--config", config, "-d", tmp_path)
    assert done.code == 2
    assert done.lines == [
        f"error: {config}:1: no parameter 'epoch'",
        "hint: did you mean 'epochs'?",
    ]


def test_method_options_come_from_the_config_file_too(ltcli, chain, tmp_path):
    config = tmp_path / "f.yaml"
    config.write_text("method: logit-adjustment\ntau: 0.5\n")
    out = tmp_path / "la.safetensors"
    assert ltcli("finetune", "--config", config, "--out", out, "-d", chain).code == 0
    assert json.loads(ltcli("show", "--json", out).out)["parameters"]["tau"] == 0.5


def test_unwritable_output_is_found_before_work(ltcli, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    done = ltcli("split", "digits", "-d", file / "below")
    assert done.code == 6
    out = file / "below" / "split.safetensors"
    assert done.lines == [
        f"error: {out}: cannot be written: {file} is not a writable folder",
        "hint: choose another --out",
    ]
    assert file.read_text() == "mine"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_has_examples_that_parse(ltcli, tmp_path, monkeypatch, stage):
    monkeypatch.chdir(tmp_path)
    assert len(stage.examples) >= 2
    for line in stage.examples:
        words = line.split()
        assert words[:2] == ["ltcli", stage.name]
        # Nothing is there to work on, so only the parameters can be found right.
        done = ltcli(*words[1:], "--dry-run")
        assert done.code in (0, 3), done.err
        assert done.code == 0 or "no such artifact" in done.err or "no such folder" in done.err
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_help_shows_every_parameter_once(ltcli, stage):
    from ltcli.core.params import specs

    text = ltcli(stage.name, "--help").out
    for spec in specs(stage.params):
        name = spec.name.upper() if spec.positional else spec.flag
        assert name in text or f"--[no-]{name[2:]}" in text
        assert spec.help
