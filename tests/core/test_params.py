import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from ltcli.core.errors import ParamError
from ltcli.core.params import NoOptions, as_dict, build, checked, coerce, nested, param, specs
from ltcli.core.yaml_file import read_mapping


@dataclass(frozen=True)
class Params:
    """One parameter of each form."""

    source: Literal["cifar10", "cifar100", "digits"] = param(help="the data set", positional=True)
    root: str | None = param(None, "folder", identity=False)
    name: str = param("run", "text")
    epochs: int = param(10, "how many", ge=1, le=1000)
    seed: int = param(0, "any", ge=0, lt=2**32)
    limit: int | None = param(None, "none is no limit", ge=1)
    lr: float = param(0.1, "rate", gt=0)
    momentum: float = param(0.9, "of SGD", ge=0, lt=1)
    milestones: tuple[int, ...] = param((5, 8), "epochs", ge=1)
    factors: tuple[float, ...] | None = param(None, "multiples", gt=0)
    words: tuple[str, ...] = param((), "some")
    flip: bool = param(True, "at random")
    pad_mode: Literal["constant", "reflect"] | None = param(None, "border")
    tau: Literal["auto"] | float | None = param(None, "a word or a number", ge=0)
    prior: Literal["uniform"] | str | None = param(None, "a word or a path", identity=False)


SPECS = {spec.name: spec for spec in specs(Params)}


def test_a_declaration_is_read_in_order():
    assert list(SPECS) == [field.name for field in dataclasses.fields(Params)]
    source, root, milestones = SPECS["source"], SPECS["root"], SPECS["milestones"]
    assert (source.base, source.choices) == (str, ("cifar10", "cifar100", "digits"))
    assert (source.required, source.positional, source.optional) == (True, True, False)
    assert (root.required, root.positional, root.optional) == (False, False, True)
    assert (milestones.base, milestones.item, milestones.bounds) == (tuple, int, {"ge": 1})
    assert SPECS["factors"].optional
    assert SPECS["epochs"].bounds == {"ge": 1, "le": 1000}
    assert SPECS["seed"].bounds == {"ge": 0, "lt": 2**32}
    assert SPECS["pad_mode"].choices == ("constant", "reflect")
    assert (SPECS["tau"].base, SPECS["tau"].words, SPECS["tau"].choices) == (float, ("auto",), ())
    assert SPECS["tau"].optional
    assert SPECS["pad_mode"].flag == "--pad-mode"
    assert SPECS["pad_mode"].help == "border"


@pytest.mark.parametrize(
    ("name", "metavar"),
    [
        ("source", "NAME"),
        ("name", "TEXT"),
        ("epochs", "N"),
        ("lr", "X"),
        ("milestones", "A,B"),
        ("flip", ""),
        ("tau", "auto|X"),
        ("prior", "uniform|TEXT"),
    ],
)
def test_help_shows_the_type(name, metavar):
    assert SPECS[name].metavar == metavar


def test_defaults_fill_in_what_is_not_given():
    record = build(Params, {"source": "digits"}, "here")
    assert record == Params("digits")
    assert (record.epochs, record.milestones, record.root) == (10, (5, 8), None)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "1", 1),
        ("epochs", "1000", 1000),
        ("epochs", "+5", 5),
        ("epochs", "5.0", 5),
        ("epochs", "1e2", 100),
        ("seed", "4294967295", 2**32 - 1),
        ("limit", "9007199254740993", 2**53 + 1),
        ("limit", "none", None),
        ("limit", "7", 7),
        ("lr", "1e-3", 0.001),
        ("lr", "1", 1.0),
        ("lr", ".5", 0.5),
        ("momentum", "0", 0.0),
        ("momentum", "-0", 0.0),
        ("milestones", "160,180", (160, 180)),
        ("milestones", " 160 , 180 ", (160, 180)),
        ("milestones", "7", (7,)),
        ("milestones", "", ()),
        ("milestones", "1e2,2e2", (100, 200)),
        ("factors", "none", None),
        ("factors", "0.1,1e-2,1", (0.1, 0.01, 1.0)),
        ("words", "a,b", ("a", "b")),
        ("words", "a", ("a",)),
        ("flip", "true", True),
        ("flip", "false", False),
        ("name", "none", "none"),
        ("name", "true story", "true story"),
        ("name", "5", "5"),
        ("name", "", ""),
        ("root", "none", None),
        ("root", "data", "data"),
        ("pad_mode", "reflect", "reflect"),
        ("pad_mode", "none", None),
        ("source", "digits", "digits"),
        ("tau", "auto", "auto"),
        ("tau", "1", 1.0),
        ("tau", "none", None),
        ("prior", "uniform", "uniform"),
        ("prior", "p.csv", "p.csv"),
    ],
)
def test_a_text_is_read_as_the_declared_type(name, text, value):
    found = coerce(SPECS[name], text, "here")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": "1e2", "lr": "1e-3"}, "epochs: 1e2\nlr: 1e-3"),
        ({"epochs": "100", "lr": "1"}, "epochs: 100.0\nlr: 1"),
        ({"epochs": "7", "lr": "0.5"}, "epochs: '7'\nlr: '.5'"),
        ({"limit": "none", "pad_mode": "none"}, "limit: null\npad_mode: ~"),
        ({"limit": "none", "factors": "none"}, "limit: none\nfactors:"),
        ({"limit": "9007199254740993"}, "limit: 9007199254740993"),
        ({"milestones": "160,180", "factors": "1,0.1"}, "milestones: [160, 180]\nfactors: [1, .1]"),
        ({"milestones": "160", "factors": "0.1"}, "milestones: 160\nfactors: 1e-1"),
        ({"milestones": "160,180"}, "milestones: 160,180"),
        ({"milestones": ""}, "milestones: []"),
        ({"words": "a,b"}, "words: [a, b]"),
        ({"flip": "false", "name": "5"}, "flip: false\nname: 5"),
        ({"flip": "true", "name": "no"}, "flip: 'true'\nname: no"),
        ({"source": "cifar10", "root": "2024"}, "source: cifar10\nroot: 2024"),
    ],
)
def test_options_and_a_file_give_equal_records(tmp_path, options, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    given, from_file = {"source": "digits"} | options, {"source": "digits"} | read_mapping(path)
    first, second = build(Params, given, "here"), build(Params, from_file, "here")
    assert first == second
    assert json.dumps(as_dict(first)) == json.dumps(as_dict(second))


@pytest.mark.parametrize("record", [{}, {"seed": 4, "lr": 3, "factors": (1, 2), "limit": None}])
def test_a_record_written_out_and_read_back_is_the_same(record):
    first = build(Params, {"source": "digits", **record}, "here")
    assert build(Params, json.loads(json.dumps(as_dict(first))), "here") == first


KNOWN = "known: cifar10, cifar100, digits"


@pytest.mark.parametrize(
    ("name", "value", "message", "hint"),
    [
        # Numbers.
        ("epochs", "ten", "epochs must be a whole number, got ten", None),
        ("epochs", "", "epochs must be a whole number, got ", None),
        ("epochs", "1.5", "epochs must be a whole number, got 1.5", None),
        ("epochs", 1.5, "epochs must be a whole number, got 1.5", None),
        ("epochs", "nan", "epochs must be a whole number, got nan", None),
        ("epochs", float("inf"), "epochs must be a whole number, got inf", None),
        ("epochs", "1e999", "epochs must be a whole number, got 1e999", None),
        ("epochs", 10**400, f"epochs must be a whole number, got {10**400}", None),
        ("epochs", "0x10", "epochs must be a whole number, got 0x10", None),
        ("epochs", True, "epochs must be a whole number, got True", None),
        ("epochs", [5], "epochs must be a whole number, got [5]", None),
        ("epochs", {}, "epochs must be a whole number, got {}", None),
        ("epochs", None, "epochs must be a whole number, got nothing", None),
        ("epochs", "none", "epochs must be a whole number, got none", None),
        ("limit", False, "limit must be a whole number, got False", None),
        ("lr", "fast", "lr must be a number, got fast", None),
        ("lr", True, "lr must be a number, got True", None),
        ("lr", None, "lr must be a number, got nothing", None),
        ("lr", [0.1], "lr must be a number, got [0.1]", None),
        ("lr", "nan", "lr must be finite, got nan", None),
        ("lr", "inf", "lr must be finite, got inf", None),
        ("lr", "-Infinity", "lr must be finite, got -Infinity", None),
        ("lr", float("nan"), "lr must be finite, got nan", None),
        # Bounds.
        ("epochs", "0", "epochs must be at least 1, got 0", None),
        ("epochs", 1001, "epochs must be at most 1000, got 1001", None),
        ("seed", "-1", "seed must be at least 0, got -1", None),
        ("seed", 2**32, "seed must be less than 4294967296, got 4294967296", None),
        ("lr", "0", "lr must be greater than 0, got 0", None),
        ("lr", -1e-9, "lr must be greater than 0, got -1e-09", None),
        ("momentum", 1.0, "momentum must be less than 1, got 1", None),
        ("momentum", "1.0000001", "momentum must be less than 1, got 1.0000001", None),
        # Lists.
        ("milestones", "5,x", "milestones must be a whole number, got x", None),
        ("milestones", "5,", "milestones must be a whole number, got ", None),
        ("milestones", [5, 0], "milestones must be at least 1, got 0", None),
        ("milestones", [[5]], "milestones must be a whole number, got [5]", None),
        ("milestones", {"a": 5}, "milestones must be a whole number, got {'a': 5}", None),
        ("milestones", True, "milestones must be a whole number, got True", None),
        ("milestones", None, "milestones must be a list, got nothing", None),
        ("factors", "1,nan", "factors must be finite, got nan", None),
        ("factors", [None], "factors must be a number, got None", None),
        ("words", [True], "words must be text, got True", None),
        # Text, choices and switches.
        ("name", True, "name must be text, got True", None),
        ("name", ["a"], "name must be text, got ['a']", None),
        ("name", {"a": 1}, "name must be text, got {'a': 1}", None),
        ("name", 1.1, "name must be text, got 1.1", "quote it"),
        ("name", None, "name must be text, got nothing", None),
        ("flip", 1, "flip must be true or false, got 1", None),
        ("flip", "yes", "flip must be true or false, got yes", None),
        ("flip", "True", "flip must be true or false, got True", None),
        ("flip", [], "flip must be true or false, got []", None),
        ("flip", None, "flip must be true or false, got nothing", None),
        (
            "source",
            "cifar",
            "source must be one of cifar10, cifar100, digits, got cifar",
            "did you mean 'cifar10'?",
        ),
        ("source", "mnist", "source must be one of cifar10, cifar100, digits, got mnist", KNOWN),
        ("source", 5, "source must be one of cifar10, cifar100, digits, got 5", KNOWN),
        ("source", None, "source must be text, got nothing", None),
        (
            "pad_mode",
            "reflekt",
            "pad_mode must be one of constant, reflect, got reflekt",
            "did you mean 'reflect'?",
        ),
        ("tau", "atuo", "tau must be auto or a number, got atuo", None),
        ("tau", "-1", "tau must be at least 0, got -1", None),
        ("prior", True, "prior must be text, got True", None),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(name, value, message, hint):
    values: dict[str, Any] = {"source": "digits", name: value}
    with pytest.raises(ParamError) as caught:
        build(Params, values, "p.yaml")
    assert str(caught.value) == f"p.yaml: {message}"
    assert (caught.value.hint, caught.value.exit_code) == (hint, 2)


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"source": "digits", "epoch": 5}, "no parameter 'epoch'", "did you mean 'epochs'?"),
        (
            {"source": "digits", "zzzz": 5},
            "no parameter 'zzzz'",
            "known: " + ", ".join(sorted(SPECS)),
        ),
        ({}, "source must be given", None),
        ({"lr": 1, "lrs": 1}, "no parameter 'lrs'", "did you mean 'lr'?"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_one(values, message, hint):
    with pytest.raises(ParamError) as caught:
        build(Params, values, "finetune")
    assert (str(caught.value), caught.value.hint) == (f"finetune: {message}", hint)


def test_what_is_not_identity_is_left_out_and_lists_are_plain():
    record = build(Params, {"source": "digits", "root": "/data", "factors": "1,0.5"}, "here")
    assert record.root == "/data"
    assert as_dict(record) == {
        "source": "digits",
        "name": "run",
        "epochs": 10,
        "seed": 0,
        "limit": None,
        "lr": 0.1,
        "momentum": 0.9,
        "milestones": [5, 8],
        "factors": [1.0, 0.5],
        "words": [],
        "flip": True,
        "pad_mode": None,
        "tau": None,
    }


def test_a_word_is_identity_where_a_path_beside_it_is_not():
    word, path = (
        build(Params, {"source": "digits", "prior": p}, "here") for p in ("uniform", "p.csv")
    )
    assert as_dict(word)["prior"] == "uniform"
    assert "prior" not in as_dict(path)


def test_records_cannot_be_changed():
    record = build(Params, {"source": "digits"}, "here")
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.lr = 1.0


def test_a_wrong_option_and_a_wrong_line_of_a_file_name_their_place(ltcli, tmp_path):
    done = ltcli("split", "digits", "--seed", "x", "-d", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: split: seed must be a whole number, got x\n"
    config = tmp_path / "p.yaml"
    config.write_text("seeds: 5\n")
    done = ltcli("split", "digits", "--config", config, "-d", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        f"error: {config}:1: no parameter 'seeds'",
        "hint: did you mean 'seed'?",
    ]


@dataclass(frozen=True)
class Own:
    """Options of a method."""

    tau: float = param(1.0, "strength", ge=0)
    start: Literal["fresh", "trained"] = param("fresh", "first weights")
    table: str | None = param(None, "a file", identity=False)


@dataclass(frozen=True)
class WithMethod:
    """Parameters of a stage that has methods."""

    method: str = param(help="which")
    lr: float = param(0.1, "rate", gt=0)
    options: object = nested()


def test_flat_values_are_split_between_a_stage_and_the_options_of_its_method():
    values = {"method": "m", "tau": "2", "lr": 1}
    record = build(WithMethod, values, "here", options=Own)
    assert record == WithMethod("m", 1.0, Own(2.0))
    assert build(WithMethod, {"method": "m"}, "here") == WithMethod("m", 0.1, NoOptions())


def test_a_methods_own_defaults_replace_the_declared_ones_and_yield_to_what_is_given():
    defaults = {"lr": 0.5, "start": "trained"}
    record = build(WithMethod, {"method": "m"}, "here", options=Own, defaults=defaults)
    assert record == WithMethod("m", 0.5, Own(1.0, "trained"))
    values = {"method": "m", "lr": "0.1", "start": "fresh"}
    given = build(WithMethod, values, "here", options=Own, defaults=defaults)
    assert given == WithMethod("m", 0.1, Own())


def test_options_stand_flat_beside_the_stages_parameters_in_a_header():
    record = build(WithMethod, {"method": "m", "table": "t.csv"}, "here", options=Own)
    assert as_dict(record) == {"method": "m", "lr": 0.1, "tau": 1.0, "start": "fresh"}
    assert build(WithMethod, as_dict(record), "here", options=Own) == WithMethod("m", 0.1, Own())


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"method": "m", "tua": 1}, "no parameter 'tua'", "did you mean 'tau'?"),
        ({"method": "m", "ltr": 1}, "no parameter 'ltr'", "did you mean 'lr'?"),
        ({"method": "m", "options": 1}, "no parameter 'options'", "known: "),
        ({"method": "m", "tau": -1}, "tau must be at least 0, got -1", None),
        ({"tau": 1}, "method must be given", None),
    ],
)
def test_a_wrong_name_or_value_of_either_is_named(values, message, hint):
    with pytest.raises(ParamError) as caught:
        build(WithMethod, values, "finetune", options=Own)
    assert str(caught.value) == f"finetune: {message}"
    assert str(caught.value.hint).startswith(str(hint))


def test_values_of_a_file_are_checked_without_those_that_must_be_given():
    values = {"tau": "2", "lr": "1"}
    assert checked(WithMethod, values, "p.yaml", Own) == {"tau": 2.0, "lr": 1.0}
    assert checked(WithMethod, {}, "p.yaml") == {}
    with pytest.raises(ParamError, match=r"p\.yaml: no parameter 'tau'"):
        checked(WithMethod, {"tau": 1}, "p.yaml")


def test_each_declaration_is_read_once():
    assert specs(Params) is specs(Params)
    assert [spec.name for spec in specs(WithMethod)] == ["method", "lr"]


@dataclass(frozen=True)
class Files:
    """Parameters of a command."""

    files: tuple[Path, ...] = param((), "some files", positional=True)
    folder: Path = param(Path("artifacts"), "a folder", short="d", group="Files")
    kind: Literal["a-rather-long-name", "another-long-name"] = param("another-long-name", "kind")


def test_paths_groups_and_short_options():
    files, folder, kind = specs(Files)
    assert (files.base, files.item, folder.base) == (tuple, Path, Path)
    assert (folder.group, folder.short, folder.metavar) == ("Files", "d", "PATH")
    assert kind.metavar == "NAME"
    record = build(Files, {"files": ["a", Path("b,c")], "folder": "x"}, "here")
    assert record == Files((Path("a"), Path("b,c")), Path("x"))
    with pytest.raises(ParamError, match="here: folder must be a path, got True"):
        build(Files, {"folder": True}, "here")


@pytest.mark.parametrize("text", ["1_0", "1_000", "\uff11\uff10", "1e1_0"])
def test_numbers_that_only_python_reads_are_no_numbers(ltcli, tmp_path, text):
    done = ltcli("split", "digits", "--seed", text, "-d", tmp_path)
    assert (done.code, done.err) == (2, f"error: split: seed must be a whole number, got {text}\n")
    config = tmp_path / "p.yaml"
    config.write_text(f"# a comment\nseed: {text}\n")
    done = ltcli("split", "digits", "--config", config, "-d", tmp_path)
    line = f"error: {config}:2: seed must be a whole number, got {text}"
    assert (done.code, done.lines) == (2, [line])
