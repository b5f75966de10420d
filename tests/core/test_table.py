import subprocess
import sys

from ltcli.core.table import aligned


def test_columns_are_aligned_and_nothing_is_taken_for_markup():
    rows = [["class", "images", "note"], ["[bold]x", "1,000", ":smile:"], ["日本", "7", ""]]
    assert aligned(rows, left=(0, 2)) == [
        "class    images  note",
        "[bold]x   1,000  :smile:",
        "日本          7",
    ]
    assert aligned([["a", "b"], ["cc", ""]], indent=2) == ["  a   b", "  cc"]


def test_long_lines_stay_whole():
    assert aligned([["x" * 500, "y" * 500]]) == ["x" * 500 + "  " + "y" * 500]


def test_the_last_column_wraps_to_a_width():
    rows = [["a", "one two three"], ["bb", "four"]]
    assert aligned(rows, left=(0, 1), indent=1, gap=1, width=12) == [
        " a  one two",
        "    three",
        " bb four",
    ]


def test_rich_is_imported_only_when_a_table_is_made():
    code = "import sys, ltcli.core.table; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
