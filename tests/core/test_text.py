import pytest

from ltcli.core.errors import ParamError
from ltcli.core.text import (
    clipped,
    first_few,
    lacking,
    nfc,
    plain_names,
    plain_value,
    plural,
    printable,
    refuse_control,
)


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


def test_a_path_is_shown_on_one_line_of_printable_text():
    assert printable("caf\u00e9/\U0001f408 1.png") == "caf\u00e9/\U0001f408 1.png"
    assert printable("a\nb\x1b[31m\udcff\u202e") == "a\\nb\\u001b[31m\\udcff\\u202e"


def test_two_spellings_of_one_name_in_unicode_become_equal():
    assert nfc("cafe\u0301") == nfc("caf\u00e9") == "caf\u00e9"
    assert nfc("\ufb01sh") == "\ufb01sh"


def test_whole_numbers_written_as_floats_lose_their_point_if_all_are_whole():
    given = ["10.0", "2.00", "-1.", "7"]
    assert list(map(plain_names(given).get, given)) == ["10", "2", "-1", "7"]
    for other in ("1.5", "cat", "1e3", "nan", ".0", "\u0662.0", "1" * 19 + ".0"):
        assert plain_names(["2.0", other]) == {"2.0": "2.0", other: other}
    assert plain_names(["e\u0301", "2.0"]) == {"e\u0301": "\u00e9", "2.0": "2.0"}


def test_a_long_list_is_cut_and_the_rest_counted():
    assert first_few(list("abcde")) == "a, b, c, d, e"
    assert first_few(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_classes_without_images_are_counted_and_five_named():
    assert lacking(["a", "b"], [1, 2], "test images") is None
    assert lacking(["a", "b\x07"], [1, 0], "x") == "1 of 2 classes have no x: 'b\\u0007'"
    shown = "'a', 'b', 'c', 'd', 'e' and 1 more"
    assert lacking(list("abcdef"), [0] * 6, "x") == f"6 of 6 classes have no x: {shown}"


def test_a_text_is_clipped_to_one_short_line():
    assert clipped(" a\n b\t\x07 ") == "a b \\u0007"
    assert clipped("x" * 60) == "x" * 60
    assert clipped("x" * 61) == "x" * 57 + "..."
    assert clipped("abcdef", 5) == "ab..."


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), (".5", 0.5), ("-0", 0), ("no", "no"), ("true", True), ("~", None)],
)
def test_a_plain_text_stands_for_what_it_looks_like(text, value):
    found = plain_value(text, "f:1")
    assert (found, type(found)) == (value, type(value))


def test_a_number_that_could_be_another_one_is_refused():
    for text, rule in (
        ("010", "integer must have no leading zero"),
        ("-9223372036854775809", "integer must fit in 64 bits"),
        ("-.inf", "number must be finite"),
    ):
        with pytest.raises(ParamError) as caught:
            plain_value(text, "f:1")
        assert str(caught.value) == f"f:1: {rule}, got {text}"
        assert caught.value.hint == "quote it for text"


def test_a_control_character_is_named_with_its_line():
    refuse_control("a\tb\nc \u00e9 \U0001f408", "f")
    for text, line, code in (("a\n\x1b", 2, "001B"), ("\r", 1, "000D"), ("\ud800", 1, "D800")):
        with pytest.raises(ParamError) as caught:
            refuse_control(text, "f")
        assert str(caught.value) == f"f:{line}: must have no control character, got U+{code}"
    with pytest.raises(ParamError, match=r"^f:8: "):
        refuse_control("a\n\x00", "f", line=7)
