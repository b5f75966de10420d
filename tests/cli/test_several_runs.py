"""Lists of methods and seeds: several runs of one command, each as if it were alone."""

import json
import shutil

import pytest


@pytest.fixture
def folder(chain, tmp_path):
    for name in ("pretrain", "dump-features"):
        shutil.copy(chain / f"{name}.safetensors", tmp_path)
    return tmp_path


def digests(folder):
    from ltcli.artifacts.header import verify

    return {path.name: verify(path).digest for path in folder.glob("finetune-*.safetensors")}


def test_a_list_makes_the_files_of_single_runs(folder, ltcli):
    ltcli("finetune", "--method", "crt", "--epochs", "2", "-d", folder)
    ltcli("finetune", "--method", "tau-norm", "-d", folder)
    ltcli("finetune", "--method", "logit-adjustment", "--tau", "0.5", "-d", folder)
    alone = digests(folder)
    for name in alone:
        (folder / name).unlink()
    methods = "crt,tau-norm,logit-adjustment"
    done = ltcli("finetune", "--method", methods, "--epochs", "2", "--tau", "0.5", "-d", folder)
    assert done.code == 0, done.err
    # tau-norm has a tau of its own, and reads it.
    names = {"finetune-crt.safetensors", "finetune-logit-adjustment.safetensors"}
    made = digests(folder)
    assert made.keys() == alone.keys()
    assert {name: made[name] for name in names} == {name: alone[name] for name in names}
    again = ltcli("finetune", "--method", methods, "--epochs", "2", "--tau", "0.5", "-d", folder)
    assert again.err.count("finetune: up to date") == 3


def test_seeds_are_a_run_each_and_the_method_counts_too(folder, ltcli):
    ltcli("finetune", "--method", "crt", "--epochs", "1", "--seed", "1", "-d", folder)
    alone = digests(folder)["finetune-crt.safetensors"]
    words = ("finetune", "--method", "crt,lws", "--epochs", "1", "--seed", "0,1,1", "-d", folder)
    done = ltcli(*words, "--json")
    document = json.loads(done.out)
    names = [f"finetune-{m}-seed{s}.safetensors" for m in ("crt", "lws") for s in (0, 1)]
    assert [found["out"] for found in document] == [str(folder / name) for name in names]
    assert digests(folder)["finetune-crt-seed1.safetensors"] == alone


def test_a_file_of_parameters_may_hold_lists(folder, ltcli):
    config = folder / "many.yaml"
    config.write_text("method: [crt, ncm]\nseed: [0, 1]\nepochs: 1\n")
    done = ltcli("finetune", "--config", config, "-d", folder)
    assert done.code == 0, done.err
    assert len(digests(folder)) == 4


@pytest.mark.parametrize("value", ["0", "[0]", "false"])
def test_a_method_in_a_file_that_is_no_name_is_refused(folder, ltcli, value):
    config = folder / "wrong.yaml"
    config.write_text(f"method: {value}\n")
    done = ltcli("finetune", "--config", config, "-d", folder)
    name = {"[0]": "0", "false": "False"}.get(value, value)
    assert done.code == 2
    assert done.err.splitlines()[0] == f"error: finetune: no method '{name}'"


def test_an_error_in_one_is_said_and_the_others_go_on(folder, ltcli):
    words = ("finetune", "--method", "risda,crt", "--epochs", "1", "-d", folder)
    done = ltcli(*words)
    missing = f"error: {folder}/covariances.safetensors: no such artifact\n"
    assert missing in done.err
    assert "hint: run the stage that makes it first\n" in done.err
    assert (done.code, list(digests(folder))) == (3, ["finetune-crt.safetensors"])
    document = json.loads(ltcli(*words, "--json").out)
    assert [found.get("status") for found in document] == [None, "up to date"]
    assert document[0]["error"] == {
        "code": 3,
        "message": f"{folder}/covariances.safetensors: no such artifact",
        "hint": "run the stage that makes it first",
    }


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--method", "crt,lws", "--out", "x.safetensors"),
            "error: finetune: --out needs one method and one seed, as there is one output for each",
        ),
        (
            ("--method", "crt", "--seed", "0,1", "--out", "x.safetensors"),
            "error: finetune: --out needs one method and one seed, as there is one output for each",
        ),
        (
            ("--method", "tau-norm,ncm", "--epochs", "5"),
            "error: finetune: epochs must not be given for tau-norm",
        ),
        (
            ("--method", "crt", "--seed", "0,two"),
            "error: finetune: seed must be a whole number, got two",
        ),
        (("--method", "crt,nothing"), "error: finetune: no method 'nothing'"),
    ],
)
def test_what_no_run_can_use_is_refused(folder, ltcli, words, line):
    done = ltcli("finetune", *words, "-d", folder)
    assert done.code == 2
    assert done.err.splitlines()[0] == line
    assert digests(folder) == {}


def test_inputs_are_opened_once(folder, ltcli, monkeypatch):
    from ltcli.artifacts import store
    from ltcli.stages import run

    parsed, verified = [], []
    parse, check = run.parse_header, store.check_digest

    def counted(path, file):
        parsed.append(path.name)
        return parse(path, file)

    def checked(header, file, wanted):
        verified.append(header.path.name)
        return check(header, file, wanted)

    monkeypatch.setattr(run, "parse_header", counted)
    monkeypatch.setattr(store, "check_digest", checked)
    ltcli("finetune", "--method", "crt,lws,ncm", "--epochs", "1", "-d", folder)
    assert sorted(parsed) == ["dump-features.safetensors", "pretrain.safetensors"]
    assert sorted(verified) == ["dump-features.safetensors", "pretrain.safetensors"]
