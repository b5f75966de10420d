"""Help: one screen, in groups, with the defaults of the method that is named."""

import re

import pytest

from ltcli.cli.main import GROUPS
from ltcli.core.params import specs
from ltcli.methods import METHODS
from ltcli.stages import STAGES
from ltcli.stages.stage import Stage

COMMANDS = [one for group in GROUPS.values() for one in group]
NAMES = [one.name for one in COMMANDS]


def lines_of(ltcli, *words):
    done = ltcli(*words)
    assert (done.code, done.err) == (0, "")
    return done.out.splitlines()


def entry(text, option):
    """Return the help of one option, on one line."""
    found = re.search(rf"(?m)^  {re.escape(option)}.*(\n      .*)*", text)
    assert found, option
    return " ".join(found[0].split())


def test_every_stage_and_command_is_in_one_group():
    assert len(set(NAMES)) == len(NAMES)
    assert {stage.name for stage in STAGES} < set(NAMES)
    assert {one.name for one in COMMANDS if isinstance(one, Stage)} == {s.name for s in STAGES}


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_the_program_lists_its_commands_in_groups(ltcli, word):
    lines = lines_of(ltcli, word)
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == [f"{name}:" for name in GROUPS]
    assert [line.split()[0] for line in lines if re.match("  [a-z]", line)] == NAMES
    assert max(map(len, lines)) <= 80
    # One line for each command.
    assert len(lines) <= len(NAMES) + 20


@pytest.mark.parametrize(
    "words",
    [("finetune",), ("finetune", "--method", "crt"), ("pretrain",), ("compare",), ("report",)],
    ids=" ".join,
)
def test_help_fits_on_a_screen(ltcli, words):
    assert len(lines_of(ltcli, *words, "--help")) <= 63


@pytest.mark.parametrize("name", NAMES)
def test_help_is_at_most_80_columns_wide_and_has_two_names(ltcli, name):
    lines = lines_of(ltcli, name, "--help")
    assert max(map(len, lines)) <= 80
    assert lines == lines_of(ltcli, name, "-h")
    assert lines[0].startswith(f"Usage: ltcli {name} [OPTIONS]")


@pytest.mark.parametrize("name", METHODS)
def test_help_of_a_method_shows_its_own_options_first(ltcli, name):
    method = METHODS[name]
    for stage in method.stages:
        text = ltcli(stage, "--method", name, "--help").out
        assert f"\n{name}: " in text
        own = [spec.flag for spec in specs(method.options)]
        shown = re.findall(r"(?m)^  (?:-., )?(--[a-z][a-z-]*)", text.replace("[no-]", ""))
        assert shown[: len(own)] == own


def test_help_of_a_method_shows_its_own_defaults(ltcli):
    crt = ltcli("finetune", "--method", "crt", "--help").out
    assert entry(crt, "--sampler").endswith("[class-aware]")
    plain = ltcli("finetune", "--help").out
    assert entry(plain, "--sampler").endswith("[instance-balanced]")
    assert "--method NAME --help" in plain
    assert "ltcli methods" in plain
    sigmoid = ltcli("pretrain", "--method=class-balanced-focal", "-h").out
    assert entry(sigmoid, "--form").endswith("[sigmoid]")
    assert entry(sigmoid, "--beta").endswith("[0.9999]")


def test_help_of_a_method_in_a_parameter_file(ltcli, tmp_path):
    config = tmp_path / "p.yaml"
    config.write_text("method: tau-norm\n")
    assert "--tau" in ltcli("finetune", "--config", config, "--help").out


def test_help_of_a_method_that_a_stage_does_not_offer_is_an_error(ltcli):
    done = ltcli("pretrain", "--method", "crt", "--help")
    assert (done.code, done.out) == (2, "")
    assert done.lines == [
        "error: pretrain: method crt is not one for pretrain",
        "hint: use finetune",
    ]


def test_every_command_that_reads_a_folder_takes_it_by_one_name(ltcli):
    for name in ("compare", "report", "plot", "show", "lineage", "doctor"):
        assert "\n  -d, --dir PATH" in ltcli(name, "--help").out
    for stage in STAGES:
        assert " -d, --dir (" in " ".join(ltcli(stage.name, "--help").out.split())


def declared():
    for one in COMMANDS:
        for spec in specs(one.params):
            yield f"{one.name} {spec.flag}", spec.help
        for role in one.inputs if isinstance(one, Stage) else ():
            yield f"{one.name} --{role.name}", role.help
        yield one.name, one.summary
    for name, method in METHODS.items():
        for spec in specs(method.options):
            yield f"{name} {spec.flag}", spec.help


def test_help_starts_with_a_noun_or_a_verb():
    first = ("of", "which", "what", "by", "that", "those")
    assert [text for text in declared() if text[1].split()[0].lower() in first] == []


def test_choices_are_listed_behind_the_help_of_an_option(ltcli):
    line = entry(ltcli("finetune", "--help").out, "--optimizer NAME")
    assert line.endswith(": auto, sgd, adam, lbfgs [auto]")
