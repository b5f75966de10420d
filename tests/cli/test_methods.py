"""methods: the table, and what is said of one method."""

import json
import re

import pytest

from ltcli.methods import METHODS


def test_every_method_is_listed_under_its_stages(ltcli):
    lines = ltcli("methods").out.splitlines()
    assert max(map(len, lines)) <= 80
    headings = [i for i, line in enumerate(lines) if line.startswith("For ")]
    for name, method in METHODS.items():
        (at,) = [i for i, line in enumerate(lines) if line.split()[:1] == [name]]
        assert lines[at].split(maxsplit=1)[1] in method.summary
        heading = lines[max(i for i in headings if i < at)]
        assert heading == f"For {' and '.join(method.stages)}:"


def test_one_document_has_sources_and_parameters(ltcli):
    table = json.loads(ltcli("methods", "--json").out)
    assert set(table) == set(METHODS)
    for name, method in METHODS.items():
        assert table[name]["source"] == method.source
        assert table[name]["summary"] == method.summary


def test_one_method_shows_its_source_and_options(ltcli):
    lines = ltcli("methods", "tau-norm").out.splitlines()
    assert lines[0] == f"tau-norm: {METHODS['tau-norm'].summary}"
    assert f"  {METHODS['tau-norm'].source}" in lines
    assert any(line.startswith("  --tau X ") for line in lines)


def entry(text, option):
    """Return the help of one option, on one line."""
    found = re.search(rf"(?m)^  {re.escape(option)}.*(\n      .*)*", text)
    assert found, option
    return " ".join(found[0].split())


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("class-balanced", ["in pretrain: --beta 0.9999", "in finetune: --beta 0.9999"]),
        ("crt", ["in finetune: --sampler class-aware"]),
        ("ce-drw", ["in pretrain: --beta 0.9999 --defer 160"]),
        ("ce-drs", ["in pretrain: --sampler class-aware --defer 160"]),
        ("remix", ["in pretrain: --mixup 1 --mixed-labels remix"]),
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
    assert entry(shown, "--form").endswith("[sigmoid]")
    assert entry(ltcli("methods", "focal").out, "--form").endswith("[softmax]")


def test_a_default_that_differs_between_stages_is_said_for_each(ltcli):
    shown = ltcli("methods", "gcl").out
    assert entry(shown, "--scale").endswith("[30 in pretrain, 20 in finetune]")
    parameters = json.loads(ltcli("methods", "gcl", "--json").out)["gcl"]["parameters"]
    assert parameters["--scale"]["default"] == {"pretrain": 30.0, "finetune": 20.0}
    # One word where both agree, also on what a stage has of its own.
    shown = ltcli("methods", "class-balanced").out
    assert " in finetune, " not in shown
    assert " in pretrain, " not in shown


def test_defaults_are_shown_as_they_are_written_on_the_command_line(ltcli):
    for name in METHODS:
        shown = ltcli("methods", name).out
        for word in ("None", "True", "False", "()", "0.0"):
            assert f"[{word}]" not in shown


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
