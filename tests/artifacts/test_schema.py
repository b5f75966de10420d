"""Ranges of tensors and of metadata, and that the table knows all that stages write."""

import pytest
import torch

from ltcli.artifacts.header import read_folder
from ltcli.artifacts.kinds import CLASSIFIERS, KINDS, Values
from ltcli.artifacts.rules import TEXT, count, listed, nullable, number, one_of
from ltcli.artifacts.schema import fault_by_ending, fault_of
from ltcli.models.classifier import FORMS

SIZES = {"C": 3, "R": 5, "N": 2, "V": 1, "T": 0}


def of(values, numbers, info=None, dtype=None):
    return fault_of(values, SIZES, info or {}, torch.tensor(numbers, dtype=dtype))


@pytest.mark.parametrize(
    ("values", "sound", "false", "fault"),
    [
        (Values(0), [0, 7], [0, -1], "be at least 0, got -1"),
        (Values(0, 1), [0.0, 1.0], [0.5, 1.5], "be in 0 ... 1, got 1.5"),
        (Values(0, below="C"), [0, 2], [0, 3], "be in 0 ... 2, got 3"),
        (Values(0, below="C"), [], [-1], "be in 0 ... 2, got -1"),
        (Values(rising=True), [1, 2], [1, 1], "rise"),
        (Values(spans="R"), [0, 2, 2, 5], [0, 2, 2, 4], "rise from 0 to 5"),
        (Values(spans="R"), [0, 5], [0, 3, 2, 5], "rise from 0 to 5"),
        (Values(spans="R"), [0, 5], [1, 5], "rise from 0 to 5"),
        (Values(0, rows="NVT"), [1, 2, 3], [1, 2], "have 3 numbers, got 2"),
        (Values(0, diagonal=True), [[1, -9], [-9, 1]], [[1, 0], [0, -1]], "be at least 0, got -1"),
    ],
)
def test_a_number_out_of_its_range_is_named(values, sound, false, fault):
    assert of(values, sound) is None
    assert of(values, false) == fault


def test_labels_must_occur_as_often_as_the_header_says():
    values, info = Values(0, below="C", counted="class_counts"), {"class_counts": [2, 0, 1]}
    assert of(values, [0, 2, 0], info) is None
    assert of(values, [0, 2, 1], info) == "occur as often as class_counts says"


@pytest.mark.parametrize(
    ("paths", "fault"),
    [
        (b"a.png\0b/..c.png\0..d", None),
        (b"a\0b", "hold 3 paths, got 2"),
        (b"", "hold 3 paths, got 0"),
        (b"a\0/etc/passwd\0c", "hold paths below one folder, got one that leaves it"),
        (b"a\0b\0c/../../d", "hold paths below one folder, got one that leaves it"),
        (b"..\0b\0c", "hold paths below one folder, got one that leaves it"),
        (b"a\0b\0\xff", "hold paths in UTF-8, got other bytes"),
    ],
)
def test_paths_stay_below_their_folder(paths, fault):
    assert of(Values(rows="NVT", paths=True), list(paths), dtype=torch.uint8) == fault


def test_a_flag_is_one_bit():
    flags = torch.tensor([0, 1, 2], dtype=torch.uint8).view(torch.bool)
    assert fault_of(Values(), SIZES, {}, flags) == "be 0 or 1"
    assert fault_of(Values(), SIZES, {}, flags[:2]) is None


@pytest.mark.parametrize("name", ["bn.running_var", "optimizer.0.step", "optimizer.0.exp_avg_sq"])
def test_variances_of_networks_are_not_negative(name):
    assert fault_by_ending(name, torch.tensor([0.0, -2.0])) == "be at least 0, got -2"
    assert fault_by_ending(name.replace(".", ".my"), torch.tensor([0.0, -2.0])) is None


@pytest.mark.parametrize(
    ("rule", "sound", "false"),
    [
        (count(1), [1, 2**40], [0, True, 1.0, "1", 2**41, None]),
        (number(0, 1), [0, 1, 0.5], [-0.1, 2, True, "0", None]),
        (nullable(TEXT), ["", None], [1, []]),
        (one_of("a", "b"), ["a"], ["c", ["a"], None]),
        (listed(TEXT, ""), [["a"]], [[], [1], "ab", None]),
        (listed(count(), "", length=2, empty=True), [[], [1, 2]], [[1], [1, 2, 3], {}]),
    ],
    ids=lambda value: getattr(value, "words", None),
)
def test_rules_know_types_and_ranges(rule, sound, false):
    assert [rule.fault("x", value) for value in sound] == [None] * len(sound)
    for value in false:
        assert rule.fault("x", value) == f"x must be {rule.words}, got {value!r}"


def test_the_table_names_the_classifiers_there_are():
    assert CLASSIFIERS == FORMS


def test_every_key_that_a_stage_writes_has_a_rule(chain):
    for header in read_folder(chain, ""):
        assert set(header.info) <= set(KINDS[header.kind].metadata), header.path
