import pytest

from ltcli.core.errors import ParamError
from ltcli.stats.head_classes import head_classes


def heads(counts, rule, value=None):
    head = head_classes(counts, rule, value, where="finetune")
    return [c for c, is_head in enumerate(head) if is_head]


@pytest.mark.parametrize(
    ("classes", "published"), [(10, [7, 7, 6, 5, 4]), (100, [72, 64, 54, 48, 42])]
)
def test_published_head_counts_of_cifar(classes, published):
    most = 50_000 // classes
    found = []
    for factor in (10, 20, 50, 100, 200):
        counts = [int(most * factor ** (-c / (classes - 1))) for c in range(classes)]
        found.append(len(heads(counts, "share")))
    assert found == published


def test_the_fewest_classes_that_reach_the_share():
    assert heads([1, 6, 3], "share", 0.6) == [1]
    assert heads([1, 6, 3], "share", 0.61) == [1, 2]
    assert heads([1, 6, 3], "share", 0.9) == [1, 2]


@pytest.mark.parametrize(
    ("counts", "head"), [([80, 10], [0]), ([15, 60, 25], [1, 2]), ([5, 5], [0]), ([95, 5], [0])]
)
def test_the_default_share_leaves_the_smallest_class_for_the_tail(counts, head):
    assert heads(counts, "share") == head


def test_a_share_that_is_met_exactly_in_decimals_counts_as_met():
    # In floating point 0.55 * 100 is a little more than 55.
    assert heads([55, 25, 20], "share", 0.55) == [0]


def test_of_equal_classes_the_first_are_head():
    assert heads([2, 5, 5, 5], "top-k", 2) == [1, 2]
    assert heads([5, 5, 5, 5], "share", 0.5) == [0, 1]


def test_a_count_must_be_exceeded():
    assert heads([100, 101, 5], "min-count") == [1]
    assert heads([100, 101, 5], "min-count", 5) == [0, 1]


def test_the_largest_classes_wherever_they_stand():
    assert heads([1, 50, 3, 20], "top-k", 2) == [1, 3]


def wrong(rule, value, message, hint):
    with pytest.raises(ParamError) as error:
        heads([5, 4, 3], rule, value)
    assert str(error.value) == f"finetune: {message}"
    assert error.value.hint == hint
    assert error.value.exit_code == 2


@pytest.mark.parametrize(("value", "shown"), [(3, "3"), (0, "0"), (1.5, "1.5"), (None, "20")])
def test_a_number_of_head_classes_that_there_cannot_be_is_refused(value, shown):
    rule = "head-at must be a whole number from 1 to 2 for top-k"
    hint = "there are 3 classes, and some must be left for the tail"
    wrong("top-k", value, f"{rule}, got {shown}", hint)


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0"), (1.0, "1"), (20.0, "20"), (-0.5, "-0.5")])
def test_a_share_outside_of_0_to_1_is_refused(value, shown):
    rule = "head-at must be greater than 0 and less than 1 for share"
    wrong("share", value, f"{rule}, got {shown}", None)


@pytest.mark.parametrize(
    ("rule", "value", "side"),
    [("share", 0.99, "tail"), ("min-count", 2, "tail"), ("min-count", None, "head")],
)
def test_a_rule_that_leaves_one_side_empty_is_refused(rule, value, side):
    shown = "100" if value is None else f"{value:g}"
    hint = "choose another --head or --head-at"
    wrong(rule, value, f"no class is a {side} class by {rule} {shown}", hint)
