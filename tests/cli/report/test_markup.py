"""Text that enters an element stays text."""

import pytest

from ltcli.cli.report.markup import Markup, element, joined, number, table


def test_text_is_escaped_and_markup_is_not():
    hostile = "<script>alert('\"&')</script>"
    safe = "&lt;script&gt;alert(&#x27;&quot;&amp;&#x27;)&lt;/script&gt;"
    assert element("p", hostile) == Markup(f"<p>{safe}</p>")
    assert element("p", Markup("<b>x</b>"), "<b>").text == "<p><b>x</b>&lt;b&gt;</p>"
    assert element("p", title=hostile).text == f'<p title="{safe}"></p>'
    assert joined(["<", Markup("<i></i>")]).text == "&lt;<i></i>"


@pytest.mark.parametrize("mark", ["\x00", "\x1b", "\n", "\u202e", "\ud800", "\u200b"])
def test_what_cannot_be_printed_is_replaced(mark):
    assert element("p", f"a{mark}b").text == "<p>a\ufffdb</p>"


def test_attributes_take_dashes_and_numbers_and_none_is_left_out():
    made = element("rect", class_="cell", stroke_width=1.5, x=-0.001, title=None, viewBox="0 0 1 1")
    assert made.text == '<rect class="cell" stroke-width="1.5" x="0" viewBox="0 0 1 1"></rect>'
    assert element("meta", name="viewport").text == '<meta name="viewport">'


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1"), (100, "100"), (0.126, "0.13"), (-0.001, "0"), (-2, "-2")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_a_table_names_its_lines_and_columns():
    made = table(
        "scores", ["name", "%", "note"], [["<a>", "1.5", Markup("<b></b>")]], texts=[2]
    ).text
    assert made == (
        '<div class="wide" tabindex="0"><table aria-label="scores"><thead><tr>'
        '<th scope="col" class="words">name</th><th scope="col">%</th>'
        '<th scope="col" class="words">note</th></tr></thead><tbody><tr>'
        '<th scope="row" class="words">&lt;a&gt;</th><td>1.5</td>'
        '<td class="words"><b></b></td></tr></tbody></table></div>'
    )
