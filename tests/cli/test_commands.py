"""commands: parameter files, completion, and the log on standard error."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ltcli.cli.commands import log_to_stderr


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The package's logger, put back afterwards."""
    logger = logging.getLogger("ltcli")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (-2, ["warning 5"]),
        (-1, ["warning 5"]),
        (0, ["info 5", "warning 5"]),
        (1, ["debug 5", "info 5", "warning 5"]),
        (2, ["debug 5", "info 5", "warning 5"]),
    ],
)
def test_verbosity_chooses_what_goes_to_stderr(capsys, verbosity, shown):
    log_to_stderr(verbosity)
    logger = logging.getLogger("ltcli.somewhere")
    logger.debug("debug %d", 5)
    logger.info("info %d", 5)
    logger.warning("warning %d", 5)
    captured = capsys.readouterr()
    assert (captured.out, captured.err.splitlines()) == ("", shown)


@pytest.mark.parametrize(
    ("verbosity", "shown"), [(-1, ["warning"]), (0, ["warning"]), (1, ["debug", "info", "warning"])]
)
def test_of_several_processes_the_others_say_less_unless_more_is_asked_for(
    capsys, verbosity, shown
):
    log_to_stderr(verbosity, first=False)
    logger = logging.getLogger("ltcli.somewhere")
    for level in ("debug", "info", "warning"):
        getattr(logger, level)(level)
    assert capsys.readouterr().err.splitlines() == shown


def test_a_second_setup_does_not_say_everything_twice(capsys, logger):
    log_to_stderr(0)
    log_to_stderr(0)
    logging.getLogger("ltcli").info("once")
    assert capsys.readouterr().err == "once\n"
    assert len(logger.handlers) == 1


def test_nothing_reaches_the_loggers_of_others(logger):
    log_to_stderr(0)
    assert not logger.propagate
    assert logging.getLogger().level == logging.WARNING


def test_a_command_without_an_artifact_takes_a_parameter_file_too(ltcli, chain, tmp_path):
    config = tmp_path / "compare.yaml"
    config.write_text("level: 0.9\nmany_above: 50\n")
    said = json.loads(ltcli("compare", "--config", config, "--json", "-d", chain).out)
    assert said["level"] == 0.9
    options = ("--level", "0.9", "--many-above", 50)
    assert said == json.loads(ltcli("compare", *options, "--json", "-d", chain).out)
    # Options win.
    found = ltcli("compare", "--config", config, "--level", 0.8, "--json", "-d", chain)
    assert json.loads(found.out)["level"] == 0.8
    config.write_text("lewel: 0.9\n")
    done = ltcli("compare", "--config", config, "-d", chain)
    lines = [f"error: {config}:1: no parameter 'lewel'", "hint: did you mean 'level'?"]
    assert (done.code, done.lines) == (2, lines)


def test_a_file_may_leave_out_a_parameter_that_must_be_given(ltcli, tmp_path):
    config = tmp_path / "split.yaml"
    config.write_text("imbalance_factor: ten\n")
    done = ltcli("split", "digits", "--config", config, "-d", tmp_path)
    line = f"error: {config}:1: imbalance_factor must be a number, got ten"
    assert (done.code, done.lines) == (2, [line])
    config.write_text("imbalance_factor: 10\n")
    assert ltcli("split", "digits", "--config", config, "--dry-run", "-d", tmp_path).code == 0


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ltcli fi", ["finetune"]),
        ("ltcli finetune --method tau-norm --ta", ["--tau"]),
        ("ltcli finetune --method crt --ta", []),
        ("ltcli finetune --optimizer ", ["auto", "sgd", "adam", "lbfgs"]),
        ("ltcli compare --wi", ["--wide"]),
    ],
)
def test_the_shell_completes_commands_options_of_the_method_and_choices(line, found):
    variables = {
        "_LTCLI_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-m", "ltcli"],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == found
