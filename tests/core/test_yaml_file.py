import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ltcli.core.errors import ParamError
from ltcli.core.yaml_file import read_mapping

FUZZ = settings(deadline=None, derandomize=True, database=None, max_examples=250)
VALID = b"""# a comment
method: metasaug
lr: 1e-3
epochs: 200
milestones: [160, 180]
nesterov: true
name: "a \\"quoted\\" text"
options:
  base: ldam
  weights:
    - 0.5
    - .25
note: |
  two
  lines
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return tmp_path_factory.mktemp("yaml") / "p.yaml"


@pytest.fixture
def read(probe):
    def read(data):
        probe.write_bytes(data if isinstance(data, bytes) else data.encode())
        return read_mapping(probe)

    return read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("5e2", 500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5e+2", -150.0),
        ("+3", 3),
        ("-0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("True", "True"),
        ("true", True),
        ("false", False),
        ('"true"', "true"),
        ("null", None),
        ("~", None),
        ("", None),
        ("Null", "Null"),
        ("'1e-3'", "1e-3"),
        ("1:30", "1:30"),
        ("08:30", "08:30"),
        ("2020-01-01", "2020-01-01"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("'010'", "010"),
        ("=", "="),
        ("nan", "nan"),
        ("inf", "inf"),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("a  # comment", "a"),
        ("a#b", "a#b"),
        ("three\n  words\n  here", "three words here"),
        ("|\n  kept\n  lines", "kept\nlines"),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
        ("{b: {c: [[1]]}}", {"b": {"c": [[1]]}}),
    ],
)
def test_a_value_is_what_it_looks_like(read, text, value):
    found = read(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))


def test_words_that_other_readers_take_for_booleans_are_keys(read):
    assert read("on: 1\noff: 2\nyes: 3\nno: 4\n'1': 5") == dict(
        zip(["on", "off", "yes", "no", "1"], [1, 2, 3, 4, 5], strict=True)
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"# nothing\n", b"---\n", b"---\n...\n", b"{}", b"\xef\xbb\xbf", b"\r\n\r\n"],
)
def test_an_empty_file_has_no_parameters(read, data):
    assert read(data) == {}


def test_byte_order_mark_and_foreign_line_breaks_are_read(read):
    expected = {"a": 1, "b": [2, 3]}
    assert read(b"\xef\xbb\xbfa: 1\nb: [2, 3]\n") == expected
    assert read(b"a: 1\r\nb: [2, 3]\r\n") == expected
    assert read(b"a: 1\rb: [2, 3]\r") == expected


@pytest.mark.parametrize(
    ("data", "line", "message", "hint"),
    [
        (
            "a: 1\nb: 2\na: 3",
            3,
            "key 'a' must be given once, got it again",
            "remove one of the two",
        ),
        ("b:\n  c: 1\n  'c': 2", 3, "key 'c' must be given once, got it again", "remove one of"),
        ("a: 1\nb: 010", 2, "integer must have no leading zero, got 010", "quote it for text"),
        ("a: -007", 1, "integer must have no leading zero, got -007", "quote it for text"),
        ("a: 00", 1, "integer must have no leading zero, got 00", "quote it for text"),
        ("a: .inf", 1, "number must be finite, got .inf", "quote it for text"),
        ("a: .NaN", 1, "number must be finite, got .NaN", "quote it for text"),
        ("a: 1e999", 1, "number must be finite, got 1e999", "quote it for text"),
        (
            "a: 9223372036854775808",
            1,
            "integer must fit in 64 bits, got 9223372036854775808",
            "quote it for text",
        ),
        (
            "a: " + "9" * 5000,
            1,
            f"integer must fit in 64 bits, got {'9' * 57}...",
            "quote it for text",
        ),
        ("a: &x 1\nb: 2", 1, "anchors are not allowed, got &x", "write the value itself"),
        ("a: &x {b: 1}", 1, "anchors are not allowed, got &x", "write the value itself"),
        ("a: 1\nb: *a", 2, "aliases are not allowed, got *a", "write the value itself"),
        ("a: 1\n<<: {b: 1}", 2, "key must be one line of text, got <<", None),
        ("a: !!int 3", 1, "tags are not allowed, got !!int", "remove it"),
        ("a: ! 3", 1, "tags are not allowed, got !", "remove it"),
        ("\na: !mine {}", 2, "tags are not allowed, got !mine", "remove it"),
        (
            "a: !!python/object/apply:os.system ['true']",
            1,
            "tags are not allowed, got !!python/object/apply:os.system",
            "remove it",
        ),
        ("1: a", 1, "key must be one line of text, got 1", None),
        ("a: 1\ntrue: a", 2, "key must be one line of text, got true", None),
        ("a: 1\n? \n: 2", 2, "key must be one line of text, got nothing", None),
        ("? [a]\n: 1", 1, "key must be one line of text, got a list", None),
        ("{{a: 1}: 2}", 1, "key must be one line of text, got a mapping", None),
        ('"a\\nb": 1', 1, "key must be one line of text, got a b", None),
        ("- a\n- b", 1, "must be one mapping of parameters, got a list", "write name: value"),
        ("\nnull", 2, "must be one mapping of parameters, got null", "write name: value"),
        ("just words", 1, "must be one mapping of parameters, got just words", "write name: value"),
        ('""', 1, "must be one mapping of parameters, got empty text", "write name: value"),
        (
            "a: 1\n---\nb: 2",
            3,
            "must be one mapping of parameters, got another",
            "write name: value",
        ),
        ("a:\n\t- 1", 2, "must be YAML: found character '\\t' that cannot start any token", "inde"),
        ("a: b: c", 1, "must be YAML: mapping values are not allowed here", None),
        (
            "a: 1\nb: [1, 2\n\n\n",
            2,
            "must be YAML: expected ',' or ']', but got '<stream end>'",
            None,
        ),
        ("a: 1\n\nb: 'x", 3, "must be YAML: found unexpected end of stream", None),
        ("a: 1\nb: @x", 2, "must be YAML: found character '@' that cannot start any token", None),
        ('a: 1\nb: "\\UFFFFFFFF"', 2, "must be YAML: an escape or a number is out of range", None),
        (
            f"%YAML 1.{'9' * 5000}\n---\na: 1",
            1,
            "must be YAML: an escape or a number is out of range",
            None,
        ),
        (b"a: 1\nb: \x00", 2, "must have no control character, got U+0000", None),
        (b"a: 1\r\n\r\nb: \x1b", 3, "must have no control character, got U+001B", None),
        ("a: 1\nb: x\u2028", 2, "must have no control character, got U+2028", None),
        ('a: 1\nb: "\\0"', 2, "must have no control character, got U+0000", None),
        ('a: "\\ud800"', 1, "must have no control character, got U+D800", None),
        (b"a: 1\nb: \xff", 2, "must be UTF-8 text, got byte 0xff", "save the file as UTF-8"),
        ("a: 1".encode("utf-16"), 1, "must be UTF-8 text, got byte 0xff", "save the file as UTF-8"),
        ("a: [[[[[1]]]]]", 1, "values must be nested at most 5 deep", None),
        (
            "a:\n b:\n  c:\n   d:\n    e:\n     f: 1",
            6,
            "values must be nested at most 5 deep",
            None,
        ),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_with_its_line(
    read, probe, data, line, message, hint
):
    with pytest.raises(ParamError) as caught:
        read(data)
    assert str(caught.value) == f"{probe}:{line}: {message}"
    found = caught.value.hint
    assert found is None if hint is None else found.startswith(hint)


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- ", b"? ", b"a: [{"])
def test_nesting_of_five_thousand_is_refused_at_once(read, opening):
    with pytest.raises(ParamError):
        read(opening * 5000)


def test_a_bomb_of_aliases_is_refused_at_its_first_anchor(read, probe):
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(ParamError) as caught:
        read(bomb)
    assert str(caught.value) == f"{probe}:1: anchors are not allowed, got &a"


def test_a_file_over_one_megabyte_is_not_parsed(read, probe):
    assert read(b"#" * 1_000_000) == {}
    with pytest.raises(ParamError) as caught:
        read(b"[" * 10_000_000)
    assert str(caught.value) == f"{probe}: must be at most 1000000 bytes, got more"


def test_a_directive_changes_nothing(read):
    assert read("%YAML 1.1\n---\na: no\nb: 1e-3") == {"a": "no", "b": 0.001}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ParamError) as caught:
        read_mapping(tmp_path / "no.yaml")
    assert str(caught.value) == f"{tmp_path}/no.yaml: no such file"


def test_a_folder_and_a_pipe_are_no_parameter_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ParamError) as caught:
            read_mapping(path)
        assert str(caught.value) == f"{path}: cannot be read: not a regular file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_a_file_without_permission_is_named(tmp_path):
    path = tmp_path / "p.yaml"
    path.touch(mode=0)
    with pytest.raises(ParamError) as caught:
        read_mapping(path)
    assert str(caught.value) == f"{path}: cannot be read: permission denied"


def test_a_path_through_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ParamError) as caught:
        read_mapping(tmp_path / "file" / "p.yaml")
    expected = f"{tmp_path}/file/p.yaml: cannot be read: not a directory"
    assert str(caught.value) == expected


def test_yaml_is_imported_only_when_a_file_is_read():
    import subprocess

    code = "import sys, ltcli.core.yaml_file; sys.exit('yaml' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def _reads_or_refuses_in_one_line(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        values = read_mapping(path)
    except ParamError as error:
        said = str(error)
        assert said.startswith(f"{path}:")
        assert len(said.splitlines()) == 1
    else:
        assert all(isinstance(key, str) for key in values)
        json.dumps(values, allow_nan=False).encode()


@FUZZ
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(probe, data):
    _reads_or_refuses_in_one_line(probe, data)


@FUZZ
@given(data=st.text(alphabet="ab01:-?[]{},&*!|>'\"%@`#.\\UxN~<=\t \n\r\ufeff", max_size=40))
def test_any_heap_of_yaml_punctuation_is_read_or_refused(probe, data):
    _reads_or_refuses_in_one_line(probe, data.encode())


PIECES = [
    *(b"&a ", b"*a ", b"!!x ", b"\t", b"- ", b"? ", b": ", b"{", b"[", b"]", b"}", b'"', b"'"),
    *(
        b"\x00",
        b"\xff",
        b"\r",
        b"\n",
        b"---\n",
        b"...\n",
        b"%",
        b"|",
        b">",
        b"\\U00110000",
        b"<<: ",
    ),
    *(b"010", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"1e999", b"#", b"lr: 1\n", b"\xc2\x85"),
]
EDITS = st.lists(
    st.tuples(st.integers(0, len(VALID)), st.integers(0, 6), st.sampled_from(PIECES)), max_size=4
)


@FUZZ
@given(edits=EDITS)
def test_a_damaged_file_is_read_or_refused(probe, edits):
    data = VALID
    for start, cut, piece in edits:
        data = data[:start] + piece + data[start + cut :]
    _reads_or_refuses_in_one_line(probe, data)


TEXT = st.text(
    st.characters(
        exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029\ufeff\ufffe\uffff"
    ),
    max_size=20,
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
# The key << merges mappings in YAML 1.1, and is refused.
KEYS = TEXT.filter(lambda key: key.isprintable() and key != "<<")


@FUZZ
@example(values={"<<": {"b": 1}})
@given(
    values=st.dictionaries(
        KEYS, LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(KEYS, LEAVES, max_size=3)
    )
)
def test_parameters_written_as_json_come_back_exactly(probe, values):
    text = json.dumps(values, ensure_ascii=False)
    probe.write_text(text, encoding="utf-8")
    assert json.dumps(read_mapping(probe), ensure_ascii=False) == text
