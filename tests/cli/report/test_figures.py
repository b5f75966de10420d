"""Points land where they should, and small and large numbers of classes can be drawn."""

import re

import pytest

from ltcli.cli.report import figures
from ltcli.cli.report.drawing import Scale
from ltcli.cli.report.models import Bin
from ltcli.stats.comparison import Row


def circles(text):
    """Centre and title of each circle."""
    pattern = r'<circle cx="([^"]*)" cy="([^"]*)"[^>]*><title>([^<]*)</title>'
    return [(float(x), float(y), title) for x, y, title in re.findall(pattern, text)]


def paths(text, name):
    return re.findall(rf'<path d="([^"]*)" class="{name}">', text)


def row(name, accuracy, low, high):
    groups = {"many": None, "medium": None, "few": None}
    return Row(
        name, 1, "accuracy", accuracy, (low, high), groups, 0, 0, 0, None, None, None, None, None
    )


def test_intervals_lie_on_one_scale():
    text = figures.intervals([row("a", 0.5, 0.4, 0.6), row("<b>", 0.7, 0.65, 0.9)]).text
    # From 40 - 2 to 90 + 2 on 8 .. 332.
    scale = Scale(38, 92, 8, 332)
    (xa, ya, title), (xb, yb, other) = circles(text)
    assert (xa, xb) == pytest.approx((scale.place(50), scale.place(70)), abs=0.01)
    assert yb - ya == 34
    assert title == "a: 50.00 % (40.00 .. 60.00)"
    assert other.startswith("&lt;b&gt;: ")
    first, second = paths(text, "whisker")
    assert [float(v) for v in first[1:].split()] == pytest.approx(
        [scale.place(40), ya, scale.place(60), ya], abs=0.01
    )
    assert second != first
    (reference,) = paths(text, "reference")
    assert float(reference[1:].split()[0]) == pytest.approx(xa)


def test_intervals_of_one_perfect_row_can_be_drawn():
    ((x, _, _),) = circles(figures.intervals([row("a", 1, 1, 1)]).text)
    assert x == 170


def test_classes_lie_by_their_counts_and_accuracies():
    text = figures.by_class_size(
        [1.0, 0.0, None],
        [99, 0, 9],
        [(0, 0.5), (9, 0.5), (99, 0.5)],
        "abc",
        (19.5, 100.5),
        "x",
    ).text
    # log(1 + n): 0 and 99 at the ends of 36 .. 328; 0..1 on 196 .. 22.
    assert circles(text) == [
        (328, 22, "a: 99 training images, 100.0 %"),
        (36, 196, "b: 0 training images, 0.0 %"),
    ]
    assert paths(text, "line0") == ["M36 196 328 22"]
    assert paths(text, "reference") == ["M36 109 182 109 328 109"]
    # Of the bounds one lies within: log(20.5) / log(100) of the way.
    (bound,) = paths(text, "bound")
    assert float(bound[1:].split()[0]) == pytest.approx(36 + 292 * 0.6559, abs=0.01)


def test_the_axis_reaches_the_first_row_where_that_has_other_counts():
    reference = [(1, 0.0), (999, 1.0)]
    text = figures.by_class_size([1.0, 0.0], [99, 9], reference, "ab", (0, 0), "x").text
    assert paths(text, "reference") == ["M36 196 328 22"]
    assert circles(text)[0][2] == "a: 99 training images, 100.0 %"
    assert all(36 < x < 328 for x, _, _ in circles(text))


def test_classes_of_one_size_share_a_place_of_the_line():
    assert figures.means([0.2, 0.4, 1.0, None], [5, 5, 50, 7]) == [
        (5, pytest.approx(0.3)),
        (50, 1.0),
    ]


def test_classes_of_many_sizes_are_averaged_in_groups():
    counts = list(range(1, 1001))
    found = figures.means([n / 1000 for n in counts], counts)
    assert len(found) <= figures.GROUPS
    assert all(share == pytest.approx(n / 1000) for n, share in found)
    assert [n for n, _ in found] == sorted(n for n, _ in found)
    assert found[-1][0] < 1000


def test_a_thousand_classes_are_a_cloud_without_names():
    counts = [1 + c for c in range(1000)]
    text = figures.by_class_size([0.5] * 1000, counts, [(1, 0.5)], ["c"] * 1000, (0, 0), "x").text
    assert circles(text) == []
    (cloud,) = paths(text, "cloud")
    assert cloud.count("h0") == 1000
    assert len(text) < 25_000


def test_reliability_points_and_bars():
    text = figures.reliability([Bin(30, 0.5, 0.25), Bin(10, 1.0, 1.0)], "x").text
    # Both axes 0..1, on 36 .. 328 and 236 .. 22.
    assert [(x, y) for x, y, _ in circles(text)] == [(182, 182.5), (328, 22)]
    assert circles(text)[0][2] == "confidence 50.0 %, accuracy 25.0 %, 30 images"
    heights = [float(h) for h in re.findall(r'height="([^"]*)" class="bar"', text)]
    # Three quarters and one quarter of the images, of a quarter of 214.
    assert heights == pytest.approx([0.75 * 53.5, 0.25 * 53.5], abs=0.01)
    assert paths(text, "reference") == ["M36 236 328 22"]


def test_confusion_cells_lie_by_row_and_column():
    text = figures.confusion([[0.96, 0.04], [0.7, 0.3]], ["ship", "a<b"], "x").text
    cells = re.findall(r'<rect x="(\S+)" y="(\S+)" .*?fill-opacity="(\S+)".*?<title>(.*?)<', text)
    assert cells == [
        ("92", "4", "0.96", "ship taken for ship: 96.0 %"),
        ("215", "4", "0.04", "ship taken for a&lt;b: 4.0 %"),
        ("92", "127", "0.7", "a&lt;b taken for ship: 70.0 %"),
        ("215", "127", "0.3", "a&lt;b taken for a&lt;b: 30.0 %"),
    ]
    found = re.findall(r'class="value (\w+)">(\d+)<', text)
    assert found == [("high", "96"), ("low", "4"), ("middle", "70"), ("low", "30")]


def test_confusion_leaves_nothing_where_nothing_is_and_numbers_where_they_fit():
    assert "value" not in figures.confusion([[0.0, 0.004], [0.0, 0.0]], "ab", "x").text
    eye = [[float(i == j) for j in range(13)] for i in range(13)]
    text = figures.confusion(eye, [f"a very long name {i}" for i in range(13)], "x").text
    assert "value" not in text
    assert text.count('class="cell"') == 13
    assert ">a very long\u2026<" in text


def test_curves_stand_below_each_other_with_the_loss_first():
    run = {"learning_rate": {0: 0.1, 1: 0.0}, "a": {1: 5.0}, "loss": {0: 2.0, 1: 1.0}}
    text = figures.curves([("first", run), ("second", {"loss": {0: 4.0}})], "x").text
    labels = re.findall(r'class="label">([^<]*)<', text)
    assert labels == ["loss", "a", "epoch", "learning rate"]
    loss, a, rate = re.findall(r'<path d="([^"]*)" class="line0"><title>first<', text)
    # Epochs 1 and 2 on 44 .. 330; the loss 0..4 on 132 .. 22.
    assert loss == "M44 77 330 104.5"
    assert a == "M330 162h0"
    assert rate == "M44 248 330 304"
    (second,) = re.findall(r'<path d="([^"]*)" class="line1"><title>second<', text)
    assert second == "M44 22h0"


def test_curves_below_zero_and_without_change_can_be_drawn():
    text = figures.curves([("x", {"loss": {0: -1.0, 1: 0.0}, "b": {0: 0.0, 1: 0.0}})], "x").text
    assert paths(text, "line0") == ["M44 132 330 22", "M44 190 330 190"]


def test_names_are_clipped():
    assert figures.clipped("abcd", 4) == "abcd"
    assert figures.clipped("abcde", 4) == "abc\u2026"
