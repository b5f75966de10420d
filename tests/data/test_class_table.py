import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltcli.core.errors import ParamError
from ltcli.data.class_table import read_class_table, read_shares

NAMES = ["airplane", "a, b", "truck"]
GOOD = 'class,cost\ntruck,3\n"a, b",0.5\nairplane,1e-2\n'


def table(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [GOOD, GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD, GOOD.rstrip(), GOOD.replace("\n", "\n\n")],
    ids=["plain", "CRLF", "byte-order mark", "no last line break", "empty lines"],
)
def test_numbers_come_in_the_order_of_the_classes(tmp_path, text):
    assert read_class_table(table(tmp_path, text), "cost", NAMES) == [0.01, 0.5, 3.0]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1), unique=True, min_size=1
    ),
    st.data(),
)
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, names, data):
    import csv

    numbers = st.floats(1e-300, 1e300)
    costs = data.draw(st.lists(numbers, min_size=len(names), max_size=len(names)))
    path = tmp_path_factory.getbasetemp() / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "cost"])
        writer.writerows(data.draw(st.permutations(list(zip(names, costs, strict=True)))))
    assert read_class_table(path, "cost", names) == costs


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("", "", "must have the columns class,cost, got none", None),
        ("class,share\n", "", "must have the columns class,cost, got class,share", None),
        (
            "class,airplane,truck\n",
            "",
            "must have the columns class,cost, got class,airplane,truck",
            "a matrix of costs is no fixed change of logits; give one cost for each class",
        ),
        ("class,cost\ntruck,1,2\n", ":2", "must have 2 columns, got 3", None),
        ("class,cost\ntruk,1\n", ":2", "no class 'truk'", "did you mean 'truck'?"),
        (
            "class,cost\ntruck,1\ntruck,1\n",
            ":3",
            "class 'truck' must be there once, got it again",
            None,
        ),
        ("class,cost\ntruck,x\n", ":2", "cost must be a number, got x", None),
        ("class,cost\ntruck,-1\n", ":2", "cost must be finite and greater than 0, got -1", None),
        ("class,cost\ntruck,0\n", ":2", "cost must be finite and greater than 0, got 0", None),
        ("class,cost\ntruck,nan\n", ":2", "cost must be finite and greater than 0, got nan", None),
        ("class,cost\ntruck,inf\n", ":2", "cost must be finite and greater than 0, got inf", None),
        ("class,cost\ntruck,1\n", "", "must have every class, got none of 'airplane'", None),
        ('class,cost\n"truck,1\n', ":2", "must be CSV: unexpected end of data", None),
        (
            b"class,cost\ntr\xffck,1\n",
            "",
            "must be UTF-8 text, got other bytes",
            "save the file as UTF-8",
        ),
    ],
)
def test_a_wrong_table_names_its_line(tmp_path, text, line, message, hint):
    path = table(tmp_path, text)
    with pytest.raises(ParamError) as caught:
        read_class_table(path, "cost", NAMES)
    assert (str(caught.value), caught.value.hint) == (f"{path}{line}: {message}", hint)
    assert caught.value.exit_code == 2


def test_names_may_be_spelled_in_another_form_of_unicode_or_as_floats(tmp_path):
    path = table(tmp_path, "class,cost\ncafe\u0301,2\n\u00f1u,3\n")
    assert read_class_table(path, "cost", ["n\u0303u", "caf\u00e9"]) == [3, 2]
    path = table(tmp_path, "class,cost\n10.0,2\n2.0,3\n")
    assert read_class_table(path, "cost", ["2", "10"]) == [3, 2]
    assert read_class_table(path, "cost", ["2.0", "10.0"]) == [3, 2]
    path = table(tmp_path, "class,cost\ne\u0301,2\n\u00e9,3\n")
    with pytest.raises(ParamError) as caught:
        read_class_table(path, "cost", ["\u00e9", "a"])
    assert str(caught.value) == f"{path}:3: class '\u00e9' must be there once, got it again"


def test_what_cannot_be_read_is_named(tmp_path):
    for path, reason in ((tmp_path / "x.csv", "no such file"), (tmp_path, "not a regular file")):
        with pytest.raises(ParamError, match=reason) as caught:
            read_class_table(path, "cost", NAMES)
        assert caught.value.where == str(path)


def test_shares_sum_to_1_within_a_thousandth(tmp_path):
    text = "class,share\na,0.5\nb,{}\n"
    assert read_shares(table(tmp_path, text.format("0.5")), ["a", "b"]) == [0.5, 0.5]
    near = read_shares(table(tmp_path, text.format("0.5009")), ["b", "a"])
    assert near == pytest.approx([0.5009 / 1.0009, 0.5 / 1.0009])
    for wrong, shown in (("0.5011", "1.0011"), ("50", "50.5")):
        path = table(tmp_path, text.format(wrong))
        with pytest.raises(ParamError) as caught:
            read_shares(path, ["a", "b"])
        assert str(caught.value) == f"{path}: shares must sum to 1, got {shown}"
        assert caught.value.hint == "each is a part of 1, not a count or a percentage"


def test_a_share_of_zero_says_what_to_give_instead(tmp_path):
    path = table(tmp_path, "class,share\na,0\n")
    with pytest.raises(ParamError) as caught:
        read_shares(path, ["a", "b"])
    assert str(caught.value) == f"{path}:2: share must be finite and greater than 0, got 0"
    assert caught.value.hint == "a class that never comes gets a small share"
