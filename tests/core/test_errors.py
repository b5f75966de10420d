import pytest

from ltcli.core.errors import (
    ArtifactError,
    DataError,
    LtcliError,
    NumericalError,
    ParamError,
    ResourceError,
    StopError,
    cause,
    nearest,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [(ParamError, 2), (ArtifactError, 3), (NumericalError, 4), (DataError, 5), (ResourceError, 6)],
)
def test_each_error_has_its_exit_code_and_says_where(error, code):
    found = error("split", "seed must be at least 0, got -1", "use 0")
    assert isinstance(found, LtcliError)
    assert found.exit_code == code
    assert str(found) == "split: seed must be at least 0, got -1"
    assert (found.where, found.message) == ("split", "seed must be at least 0, got -1")
    assert found.hint == "use 0"
    assert error("split", "wrong").hint is None


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_stop_has_the_exit_code_of_its_signal(number, code):
    found = StopError("pretrain", number, "run again")
    assert (str(found), found.exit_code, found.hint) == (
        *("pretrain: interrupted", code, "run again"),
    )


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("epoch", ["epochs", "lr"], "did you mean 'epochs'?"),
        ("batchsize", ["epochs", "batch_size"], "did you mean 'batch_size'?"),
        ("zzz", ["lr", "epochs"], "known: epochs, lr"),
        ("zzz", ("one",), "known: one"),
        ("zzz", [], None),
        ("", ["lr"], "known: lr"),
    ],
)
def test_the_nearest_word_is_named_or_all_of_them(name, known, hint):
    assert nearest(name, known) == hint


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "x"), "no such file or directory"),
        (OSError("Bad shard"), "bad shard"),
        (ValueError("embedded null byte"), "embedded null byte"),
    ],
)
def test_a_cause_is_what_the_system_says_or_else_the_text(error, said):
    assert cause(error) == said
