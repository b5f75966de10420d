"""commands: the log on standard error."""

import logging
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
    ("verbosity", "shown"),
    [(-1, ["warning"]), (0, ["warning"]), (1, ["debug", "info", "warning"])],
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
