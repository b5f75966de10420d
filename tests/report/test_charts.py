"""Points land where they should, and every number of classes and every name can be drawn."""

import re
import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from ltcli.report import charts
from ltcli.report.models import Model
from ltcli.report.provenance import Sidecar
from ltcli.stats.comparison import Row

HOSTILE = "<script>alert(1)</script>\"'&<b $x_1$ #0072b2 0.12345 \x00\u202e"


def row(name, accuracy, low, high):
    groups = {"many": None, "medium": None, "few": None}
    return Row(
        name, 1, "accuracy", accuracy, (low, high), groups, 0, 0, 0, None, None, None, None, None
    )


def model(counts, accuracies):
    return Model(
        row("x", 0.5, 0.4, 0.6), counts, np.array(accuracies), np.zeros((0, 3)), None, None
    )


def run(**epochs):
    curves = {name: dict(enumerate(values)) for name, values in epochs.items()}
    return Sidecar(curves, "", None, 0, "", "", None, "")


def drawn(draw, *data):
    """The axes of a chart, all drawn."""
    figure = Figure(layout="constrained")
    draw(figure, *data)
    figure.draw_without_rendering()
    return figure.axes


def lines(axes):
    return [list(zip(*map(list, line.get_data()), strict=True)) for line in axes.lines]


def texts(axes):
    """Row, column, text and colour of the numbers in a matrix."""
    found = [(*text.get_position(), text.get_text(), text.get_color()) for text in axes.texts]
    return [(y, x, text, colour) for x, y, text, colour in found]


def test_intervals_lie_on_one_scale():
    (axes,) = drawn(charts.intervals, [row("a", 0.5, 0.4, 0.6), row("<b>", 0.7, 0.65, 0.9)])
    reference, first, dot, second, other = lines(axes)
    assert [x for x, _ in reference] == [50, 50]
    assert first == [(40, 0), (60, 0)]
    assert second == [(65, 1), (90, 1)]
    assert (dot, other) == ([(50, 0)], [(70, 1)])
    # The first row is the upper one.
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["a", "<b>"]


def test_intervals_of_one_perfect_row_can_be_drawn():
    assert "100" in charts.svg("x", charts.intervals, [row("a", 1, 1, 1)])


def test_classes_lie_by_their_counts_and_accuracies():
    first = model([0, 9, 99], [50.0, 50.0, 50.0])
    shown = model([99, 0, 9], [100.0, 0.0, np.nan])
    (axes,) = drawn(charts.class_sizes, shown, first, (19.5, 100.5))
    # Of the bounds one lies within.
    bound, reference, means, points = lines(axes)
    assert [x for x, _ in bound] == [19.5, 19.5]
    assert reference == [(0, 50), (9, 50), (99, 50)]
    assert means == [(0, 0), (99, 100)]
    assert points[:2] == [(99, 100), (0, 0)]
    # The scale is log(1 + n), in which 9 lies in the middle of 0 and 99.
    place = axes.transData.transform
    assert place((9, 0))[0] == pytest.approx((place((0, 0))[0] + place((99, 0))[0]) / 2)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "10"]


def test_the_axis_reaches_the_first_row_where_that_has_other_counts():
    (axes,) = drawn(charts.class_sizes, model([99, 9], [1, 0]), model([1, 999], [0, 1]), (0, 0))
    low, high = axes.get_xlim()
    assert low <= 1
    assert high >= 999


def test_classes_of_one_size_share_a_place_of_the_line():
    sizes, shares = charts.means([5, 5, 50, 7], np.array([20, 40, 100, np.nan]))
    assert list(sizes) == [5, 50]
    assert list(shares) == [30, 100]


def test_classes_of_many_sizes_are_averaged_in_groups():
    counts = list(range(1, 1001))
    sizes, shares = charts.means(counts, np.array(counts) / 10)
    assert len(sizes) <= charts.GROUPS
    assert list(shares) == pytest.approx(list(sizes / 10))
    assert list(sizes) == sorted(sizes)
    assert sizes[-1] < 1000


def test_no_test_images_at_all_give_no_line():
    sizes, shares = charts.means([1, 2], np.array([np.nan, np.nan]))
    assert len(sizes) == len(shares) == 0


def test_a_thousand_classes_are_a_cloud():
    shown = model([1 + c for c in range(1000)], [50.0] * 1000)
    text = charts.svg("x", charts.class_sizes, shown, shown, (0, 0))
    dots = re.search(r'd="([^"]*)"[^>]*stroke-linecap: round', text)[1]
    # Each class is a line from a point to itself.
    assert len(re.findall(r"M (\S+ \S+)\s+L \1\b", dots)) == 1000
    assert len(text) < 50_000


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
    assert charts.count_ticks(low, high) == expected


def test_reliability_points_and_bars():
    (axes,) = drawn(charts.reliability, np.array([[30, 50, 25], [10, 100, 100]]))
    diagonal, points = lines(axes)
    assert diagonal == [(0, 0), (100, 100)]
    assert points == [(50, 25), (100, 100)]
    # Three quarters and one quarter of the images, of a quarter of the height.
    assert [bar.get_height() for bar in axes.patches] == [18.75, 6.25]
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == [50, 100]


def test_confusion_cells_lie_by_row_and_column():
    percent = np.array([[96.0, 4.0], [70.0, 30.0]])
    axes, mesh = charts.confusion(Figure(), percent, ["ship", "a<b"])
    assert mesh.get_array().tolist() == percent.tolist()
    assert mesh.get_coordinates()[1, 0].tolist() == [-0.5, 0.5]
    assert axes.yaxis_inverted()
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["ship", "a<b"]
    # Opacity says how much, so that numbers need three colours to be legible.
    assert texts(axes) == [
        (0, 0, "96", charts.PAPER),
        (0, 1, "4", charts.INK),
        (1, 0, "70", "#010101"),
        (1, 1, "30", charts.INK),
    ]
    opacity = mesh.cmap(mesh.norm(percent))[..., 3]
    assert opacity == pytest.approx(percent / 100, abs=1 / 255)
    assert (mesh.cmap(mesh.norm(percent))[..., :3] == mesh.cmap(1.0)[:3]).all()


def test_confusion_leaves_nothing_where_nothing_is_and_numbers_where_they_fit():
    percent = np.array([[0.0, 0.4], [np.nan, np.nan]])
    axes, mesh = charts.confusion(Figure(), percent, ["a", "b"])
    assert texts(axes) == []
    assert mesh.get_array().mask.tolist() == [[False, False], [True, True]]
    names = [f"a very long name of class {i}" for i in range(13)]
    axes, _ = charts.confusion(Figure(), 100 * np.eye(13), names)
    assert texts(axes) == []
    assert [label.get_text() for label in axes.get_xticklabels()][3] == "a very long name of c..."


def test_many_classes_are_an_image_that_lies_as_the_cells_do():
    percent = 100 * np.eye(charts.NAMED + 1)
    axes, image = charts.confusion(Figure(), percent, [str(c) for c in range(len(percent))])
    assert tuple(image.get_extent()) == (-0.5, len(percent) - 0.5, len(percent) - 0.5, -0.5)
    assert axes.yaxis_inverted()
    assert not axes.collections


def test_a_change_has_two_colours_up_to_its_largest_entry():
    axes, mesh = charts.confusion(Figure(), np.array([[-8.0, 8.0], [0, 4]]), "ab", change=True)
    assert [text for _, _, text, _ in texts(axes)] == ["-8", "+8", "+4"]
    assert mesh.get_clim() == (-8, 8)
    low, middle, high = mesh.cmap(mesh.norm([-8.0, 0.0, 8.0]))
    assert matplotlib.colors.to_hex(low) == charts.COLOURS[1]
    assert matplotlib.colors.to_hex(high) == charts.COLOURS[0]
    assert middle[3] < 0.01


def test_curves_stand_below_each_other_with_the_loss_first():
    runs = {
        "first": run(learning_rate=[0.1, 0.0], a=[5.0, 6.0], loss=[2.0, 1.0]),
        "_second": run(loss=[4.0]),
    }
    strips = drawn(charts.curves, runs)
    titles = [axes.get_title(loc="left") for axes in strips]
    assert titles == ["loss", "a", "learning rate"]
    first, second, zero = lines(strips[0])
    assert first == [(1, 2.0), (2, 1.0)]
    # One epoch is a point.
    assert second == [(1, 4.0)]
    assert strips[0].lines[1].get_marker() == "o"
    assert [y for _, y in zero] == [0, 0]
    assert all(low <= 0 for low, _ in (axes.get_ylim() for axes in strips))
    (legend,) = strips[0].figure.legends
    assert [text.get_text().strip() for text in legend.get_texts()] == ["first", "_second"]


def test_curves_below_zero_and_without_change_can_be_drawn():
    text = charts.svg("x", charts.curves, {"x": run(loss=[-1.0, 0.0], b=[0.0, 0.0])})
    assert ">loss<" in text


def test_many_classes_are_not_all_named():
    axes = Figure().subplots()
    charts.name_axis(axes, "x", [f"c{i}" for i in range(100)], "class")
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        f"c{i}" for i in range(0, 100, 5)
    ]
    assert axes.get_xlabel() == "class; each 5th is named"


# From a chart to the page or a file.


def shown(label="x"):
    names = [HOSTILE, "\u7532", "_b"]
    return charts.svg(label, charts.confusion, np.array([[96.0, 0, 4]] * 3), names)


def test_a_chart_has_the_same_bytes_again_whatever_the_user_has_set():
    first = shown()
    settings = {"font.size": 30, "svg.fonttype": "path", "figure.facecolor": "red"}
    with matplotlib.rc_context(settings):
        assert shown() == first
        assert charts.png(40, charts.intervals, [row("a", 1, 0, 1)]) != b""
    bins = np.array([[1, 100, 100]])
    assert charts.png(40, charts.reliability, bins) == charts.png(40, charts.reliability, bins)
    # Nothing of the look is left behind.
    assert matplotlib.rcParams["text.parse_math"]


def test_names_in_a_chart_stay_text():
    text = shown('a "label" <b>')
    assert text.startswith(
        '<svg viewBox="0 0 340 340" role="img" aria-label="a &#34;label&#34; &lt;b&gt;">'
    )
    assert not re.search(r"<(script|b)\b", text)
    # Clipped to 24 characters, and not a formula.
    assert "&lt;script&gt;alert(1)&lt;/scr..." in text
    names = ["$x_1$ #0072b2 0.12345"] * 3
    text = charts.svg("x", charts.confusion, np.eye(3), names)
    assert text.count(">$x_1$ #0072b2 0.12345<") == 6


def test_a_chart_has_variables_for_colours_and_identifiers_of_its_own():
    text = shown()
    assert "var(--c0)" in text
    inside = re.findall(r"#[0-9a-f]{6}\b", "".join(re.findall(r"<[^>]*>", text)))
    # Black text lies on strong colours in every scheme.
    assert set(inside) <= {"#010101"}
    ids = [set(re.findall(r' id="([^"]*)"', shown(label))) for label in "ab"]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert "<style" not in text
    assert "font-family" not in text


def test_a_missing_glyph_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "\u7532" in shown()
