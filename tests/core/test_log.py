import logging
from collections.abc import Iterator

import pytest

from ltcli.core.log import plural, printable, setup


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
    setup(verbosity)
    logger = logging.getLogger("ltcli.somewhere")
    logger.debug("debug %d", 5)
    logger.info("info %d", 5)
    logger.warning("warning %d", 5)
    captured = capsys.readouterr()
    assert (captured.out, captured.err.splitlines()) == ("", shown)


def test_a_second_setup_does_not_say_everything_twice(capsys, logger):
    setup(0)
    setup(0)
    logging.getLogger("ltcli").info("once")
    assert capsys.readouterr().err == "once\n"
    assert len(logger.handlers) == 1


def test_nothing_reaches_the_loggers_of_others(logger):
    setup(0)
    assert not logger.propagate
    assert logging.getLogger().level == logging.WARNING


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (12406, "image", "12,406 images"),
    ],
)
def test_a_count_goes_with_its_noun(count, noun, text):
    assert plural(count, noun) == text


def test_what_a_terminal_would_obey_is_escaped_and_the_rest_left_alone():
    assert printable("a\x1b[2Jb\x9b1m\u202ec\n") == "a\\u001b[2Jb\\u009b1m\\u202ec\\n"
    assert printable("größe 3 \U0001f600") == "größe 3 \U0001f600"
