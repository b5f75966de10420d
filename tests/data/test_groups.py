import numpy as np
import pytest
import torch

from ltcli.core.errors import DataError
from ltcli.data.groups import numbered
from ltcli.data.pool import Part


def part(*files, groups=()):
    count = max(len(files), len(groups))
    return Part(torch.zeros(count), torch.zeros(count, dtype=torch.int64), files, groups)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"fish\d+", {"train": [0, 1, 0], "test": [1]}),
        (r"fish(\d)", {"train": [0, 1, 0], "test": [1]}),
        # Two parentheses are two halves of a name.
        (r"(\w)/fish(\d)", {"train": [0, 1, 2], "test": [1]}),
        # What does not take part in a match is empty.
        (r"(a)?/fish", {"train": [0, 0, 1], "test": [0]}),
        (r"", {"train": [0, 0, 0], "test": [0]}),
    ],
)
def test_a_pattern_finds_the_group_in_the_path(pattern, expected):
    parts = {"train": part("a/fish1_1.png", "a/fish2.png", "b/fish1_2.png")}
    parts["test"] = part("a/fish2_9.png")
    found = numbered(parts, pattern, "photos")
    assert {name: ids.tolist() for name, ids in found.items()} == expected
    assert {ids.dtype for ids in found.values()} == {np.dtype(np.int64)}


def test_groups_of_the_source_are_taken_without_a_pattern():
    parts = {"train": part(groups=("x", "y", "x")), "test": part(groups=("y",))}
    found = numbered(parts, None, "photos")
    assert {name: ids.tolist() for name, ids in found.items()} == {"train": [0, 1, 0], "test": [1]}
    assert numbered({"train": part("a.png")}, None, "photos") == {}


def test_a_path_without_a_group_and_images_without_paths_are_refused():
    with pytest.raises(DataError) as caught:
        numbered({"train": part("a/1.png", "b/x\n.png")}, r"\d", "photos")
    rule = r"photos: --group-by must match every path, got 'b/x\n.png'"
    assert str(caught.value) == rule
    assert caught.value.hint == "add an alternative for such paths, as in 'A|B'"
    with pytest.raises(DataError) as caught:
        numbered({"train": Part(torch.zeros(2), torch.zeros(2))}, "a", "digits")
    assert str(caught.value) == "digits: images must have paths for --group-by"
