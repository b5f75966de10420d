"""Places, ticks and lines, by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltcli.cli.report.drawing import Scale, axes, count_ticks, drawing, key, line, short, ticks


def test_a_scale_maps_its_ends_and_its_middle():
    scale = Scale(0, 10, 36, 336)
    assert [scale.place(v) for v in (0, 5, 10)] == [36, 186, 336]
    assert Scale(0, 1, 200, 20).place(0.25) == 155
    assert Scale(3, 3, 0, 100).place(3) == 50


def test_a_logarithmic_scale_has_a_place_for_zero():
    scale = Scale(0, 99, 0, 2, logarithmic=True)
    assert scale.place(0) == 0
    assert scale.place(9) == pytest.approx(1)
    assert scale.place(99) == 2


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1.7, 4, [0, 0.5, 1, 1.5]),
        (0, 100, 5, [0, 50, 100]),
        (0, 0.1, 4, [0, 0.05, 0.1]),
        (70.2, 83.1, 6, [72, 74, 76, 78, 80, 82]),
        (-1, 1, 5, [-1, -0.5, 0, 0.5, 1]),
        (2, 2, 4, [2]),
    ],
)
def test_ticks_are_round(low, high, most, expected):
    assert ticks(low, high, most) == pytest.approx(expected)


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 10))
def test_ticks_are_few_and_within(low, span, most):
    high = low + span
    found = ticks(low, high, most)
    assert len(found) <= most
    slack = 1e-6 * max(span, abs(low))
    assert all(low - slack <= value <= high + slack for value in found)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (49, 4990, [50, 100, 200, 500, 1000, 2000]),
        (5, 1280, [10, 100, 1000]),
        (0, 500, [0, 1, 10, 100]),
        (7, 7, [7]),
        (0, 0, [0]),
    ],
)
def test_ticks_of_counts(low, high, expected):
    assert count_ticks(low, high) == expected


def test_labels_are_short():
    assert [short(v) for v in (0.0, 0.001, 0.30000000000000004, 100.0, 1e-9)] == [
        "0",
        "0.001",
        "0.3",
        "100",
        "1e-09",
    ]


def test_a_line_goes_through_its_points_and_one_point_is_a_dot():
    assert (
        line([(0, 1), (2.5, 3), (4, 5)], "a").text == '<path d="M0 1 2.5 3 4 5" class="a"></path>'
    )
    assert line([(1, 2)], "a").text == '<path d="M1 2h0" class="a"></path>'
    assert line([], "a").text == '<path d="" class="a"></path>'


def test_axes_write_their_ticks_where_they_lie():
    x, y = Scale(0, 10, 36, 336), Scale(0, 1, 200, 20)
    text = "".join(part.text for part in axes(x, y, [(5, "five")], [(0.5, "half")], "<x>", "y"))
    assert '<text x="186" y="215" text-anchor="middle" class="tick">five</text>' in text
    assert '<text x="31" y="113.5" text-anchor="end" class="tick">half</text>' in text
    assert '<path d="M36 110 336 110" class="grid"></path>' in text
    assert "&lt;x&gt;" in text


def test_a_drawing_says_what_it_is():
    made = drawing(math.pi, 'a "b"').text
    assert made == '<svg viewBox="0 0 340 3.14" role="img" aria-label="a &quot;b&quot;"></svg>'
    assert 'class="line3"' in key(3).text
