import pytest

from ltcli.core.text import clipped, plural, printable


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


def test_a_text_is_clipped_to_one_short_line():
    assert clipped(" a\n b\t\x07 ") == "a b \\u0007"
    assert clipped("x" * 60) == "x" * 60
    assert clipped("x" * 61) == "x" * 57 + "..."
    assert clipped("abcdef", 5) == "ab..."
