import hashlib
import json
import os
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ltcli.artifacts.header import (
    MAX_HEADER_BYTES,
    Header,
    list_folder,
    read_folder,
    read_header,
    verify,
)
from ltcli.artifacts.store import open_artifact, save
from ltcli.core.errors import ArtifactError

SOUND = "not a sound artifact: "
NO_HEADER = SOUND + "it does not start with a safetensors header"
NOT_JSON = SOUND + "the header is not JSON without duplicate keys"
MALFORMED = SOUND + "its ltcli metadata is incomplete or malformed"
FORGED_TOP = SOUND + "tensor 'top' has a forged entry"
FORGED = SOUND + "tensor 'graph' has a forged entry"
HOLE = SOUND + "its tensors overlap or leave a hole"
FOREIGN = "not written by ltcli: it has no ltcli metadata"
ALTERED = "content does not match its digest"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    save(
        path,
        "confusion",
        {
            "graph": torch.arange(9.0).reshape(3, 3),
            "scores": torch.eye(3),
            "top": torch.tensor([[1], [2], [0]]),
        },
        stage="confusion",
        parameters={"top": 1, "rate": 0.5},
        inputs={"features": "7" * 64},
        info={
            "class_names": ["cat", "dog", "näif"],
            "class_counts": [7, 3, 1],
            "split": "5" * 64,
            "model": "6" * 64,
        },
    )
    return path.read_bytes()


class Parts:
    """A small artifact taken apart, so that one thing can be forged and the rest be right."""

    def __init__(self, data: bytes) -> None:
        length = int.from_bytes(data[:8], "little")
        self.tensors = json.loads(data[8 : 8 + length])
        self.facts = json.loads(self.tensors.pop("__metadata__")["ltcli"])
        self.facts["digest"] = "0" * 64
        self.payload = data[8 + length :]

    @property
    def info(self) -> dict:
        return self.facts["info"]

    @property
    def graph(self) -> dict:
        return self.tensors["graph"]

    def place(self, **offsets: list[int]) -> None:
        for name, value in offsets.items():
            self.tensors[name]["data_offsets"] = value

    def inner(self) -> str:
        return json.dumps(self.facts, sort_keys=True, separators=(",", ":"))

    def outer(self, metadata: object = None) -> str:
        metadata = metadata or {"ltcli": self.inner()}
        return json.dumps({"__metadata__": metadata, **self.tensors}, separators=(",", ":"))

    def sealed(self, outer: str | bytes | None = None, *, padded: bool = True) -> bytes:
        """Return the file, its digest right for whatever was forged."""
        raw = self.outer() if outer is None else outer
        raw = raw.encode() if isinstance(raw, str) else raw
        raw += b" " * (-len(raw) % 8 if padded else 0)
        blank = len(raw).to_bytes(8, "little") + raw + self.payload
        digest = hashlib.sha256(blank).hexdigest().encode()
        return blank.replace(rb"\"digest\":\"" + b"0" * 64, rb"\"digest\":\"" + digest, 1)


Forge = Callable[[Parts], bytes]


def as_bytes(edit: Callable[[bytes], bytes]) -> Forge:
    return lambda parts: edit(parts.sealed())


def as_text(edit: Callable[[str], str | bytes]) -> Forge:
    return lambda parts: parts.sealed(edit(parts.outer()))


def as_inner(edit: Callable[[str], str]) -> Forge:
    return lambda parts: parts.sealed(parts.outer({"ltcli": edit(parts.inner())}))


def edited(edit: Callable[[Parts], object]) -> Forge:
    def forge(parts: Parts) -> bytes:
        edit(parts)
        return parts.sealed()

    return forge


def fact(**changes: object) -> Forge:
    return edited(lambda parts: parts.facts.update(changes))


def info(**changes: object) -> Forge:
    return edited(lambda parts: parts.info.update(changes))


def entry(**changes: object) -> Forge:
    return edited(lambda parts: parts.graph.update(changes))


def placed(**offsets: list[int]) -> Forge:
    return edited(lambda parts: parts.place(**offsets))


def metadata(value: object) -> Forge:
    return lambda parts: parts.sealed(parts.outer(value))


def with_length(change: Callable[[int], int], *, padded: bool = True) -> Forge:
    def forge(parts: Parts) -> bytes:
        data = parts.sealed(padded=padded)
        return change(int.from_bytes(data[:8], "little")).to_bytes(8, "little") + data[8:]

    return forge


def added(*names: str) -> Forge:
    """Return a file with more tensors, of no bytes."""
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [96, 96]}
    return edited(lambda parts: parts.tensors.update(dict.fromkeys(names, empty)))


def renamed(name: str, other: str) -> Forge:
    return edited(lambda parts: parts.tensors.update({other: parts.tensors.pop(name)}))


def empty_tensor(shape: object) -> Forge:
    """Return a file whose ``top`` has no bytes."""

    def edit(parts: Parts) -> None:
        parts.tensors["top"] |= {"shape": shape, "data_offsets": [0, 0]}
        parts.place(graph=[0, 36], scores=[36, 72])
        parts.payload = parts.payload[:72]

    return edited(edit)


# In the small file top has bytes 0 to 24, graph 24 to 60, scores 60 to 96.
CASES: list[tuple[str, str, Forge]] = [
    # The first bytes.
    ("empty", NO_HEADER, as_bytes(lambda _: b"")),
    ("seven bytes", NO_HEADER, as_bytes(lambda data: data[:7])),
    ("header of 0 bytes", NO_HEADER, with_length(lambda _: 0)),
    ("header of 1 byte", NO_HEADER, with_length(lambda _: 1)),
    ("header of 2^63 bytes", NO_HEADER, with_length(lambda _: 2**63)),
    ("header just over the limit", NO_HEADER, with_length(lambda _: MAX_HEADER_BYTES + 1)),
    ("header too large", NO_HEADER, info(padding="x" * MAX_HEADER_BYTES)),
    ("header short by 1", NOT_JSON, with_length(lambda n: n - 1, padded=False)),
    ("header long by 1", NOT_JSON, with_length(lambda n: n + 1, padded=False)),
    ("header past the end", SOUND + "it ends inside the header", with_length(lambda n: n + 97)),
    ("pickle", NO_HEADER, as_bytes(lambda _: pickle.dumps({"graph": [0.0] * 9}))),
    ("zip", NO_HEADER, as_bytes(lambda _: b"PK\x03\x04" + bytes(100))),
    ("text", NO_HEADER, as_bytes(lambda _: b"class,count\ncat,7\n" * 10)),
    # The header as JSON.
    ("list", SOUND + "the header is not a mapping", as_text(lambda _: "[]")),
    ("open brackets", NOT_JSON, as_text(lambda _: "[" * 100_000)),
    ("nested brackets", NOT_JSON, as_text(lambda _: "[" * 100_000 + "]" * 100_000)),
    ("nested mappings", NOT_JSON, as_text(lambda _: '{"a":' * 100_000)),
    ("not UTF-8", NOT_JSON, as_text(lambda text: text.encode().replace(b"cat", b"c\xfft"))),
    ("UTF-16", NOT_JSON, as_text(lambda text: text.encode("utf-16-le"))),
    ("byte order mark", NOT_JSON, as_text(lambda text: text.encode("utf-8-sig"))),
    ("raw NUL", NOT_JSON, as_text(lambda text: text.replace("cat", "c\0t"))),
    ("raw surrogate", NOT_JSON, as_text(lambda t: t.encode().replace(b"cat", b"\xed\xa0\x80"))),
    ("duplicate tensor", NOT_JSON, as_text(lambda text: text.replace('"scores"', '"graph"'))),
    ("duplicate dtype", NOT_JSON, as_text(lambda t: t.replace('"shape"', '"dtype":"F32","shape"'))),
    ("two metadata", NOT_JSON, as_text(lambda text: '{"__metadata__":{"ltcli":"{}"},' + text[1:])),
    ("NaN as a tensor", FORGED, edited(lambda parts: parts.tensors.update(graph=float("nan")))),
    # The tensors' entries.
    ("list as an entry", FORGED, edited(lambda parts: parts.tensors.update(graph=[]))),
    ("extra field", FORGED, entry(extra=1)),
    ("no dtype", FORGED, edited(lambda parts: parts.graph.pop("dtype"))),
    ("no shape", FORGED, edited(lambda parts: parts.graph.pop("shape"))),
    ("no offsets", FORGED, edited(lambda parts: parts.graph.pop("data_offsets"))),
    ("three offsets", FORGED, entry(data_offsets=[24, 60, 60])),
    ("unknown dtype", FORGED, entry(dtype="F8_E4M3")),
    ("dtype list", FORGED, entry(dtype=["F32"])),
    ("dtype of another size", FORGED, entry(dtype="F64")),
    ("dtype of the same size", "graph must be F32, got I32", entry(dtype="I32")),
    ("wrong shape", FORGED, entry(shape=[3, 4])),
    ("negative shape", FORGED, entry(shape=[-3, -3])),
    ("truth in shape", FORGED, entry(shape=[9, True])),
    ("fraction in shape", FORGED, entry(shape=[3.0, 3])),
    ("text as shape", FORGED, entry(shape="33")),
    ("mapping as shape", FORGED, entry(shape={}, data_offsets=[24, 28])),
    ("17 axes", FORGED, entry(shape=[9] + [1] * 16)),
    ("million axes", FORGED, entry(shape=[2**47] * 400_000)),
    ("no bytes, 2^60 dims", FORGED_TOP, empty_tensor([0, 2**60])),
    ("no bytes, 2^40 x 2^40", FORGED_TOP, empty_tensor([0] + [2**40] * 2)),
    ("no bytes, mapping", FORGED_TOP, empty_tensor({})),
    ("overlap", HOLE, placed(scores=[59, 95])),
    ("same place", HOLE, placed(scores=[24, 60])),
    ("hole", HOLE, placed(scores=[61, 97])),
    ("hole in front", HOLE, placed(top=[1, 25], graph=[25, 61], scores=[61, 97])),
    ("reversed offsets", FORGED, placed(graph=[60, 24])),
    ("negative offsets", FORGED, placed(graph=[-36, 0])),
    ("huge offsets", FORGED, placed(graph=[2**60, 2**60 + 36])),
    ("fraction in offsets", FORGED, placed(graph=[24.0, 60.0])),
    (
        "trailing byte",
        SOUND + "it holds 97 bytes of tensors instead of 96",
        as_bytes(lambda data: data + b"\0"),
    ),
    (
        "missing byte",
        SOUND + "it holds 95 bytes of tensors instead of 96",
        as_bytes(lambda data: data[:-1]),
    ),
    ("too many tensors", SOUND + "it has more than 20000 tensors", added(*map(str, range(20_000)))),
    # The metadata.
    ("no metadata", FOREIGN, lambda parts: parts.sealed(json.dumps(parts.tensors))),
    ("foreign metadata", FOREIGN, metadata({"format": "pt"})),
    (
        "two metadata keys",
        FOREIGN,
        lambda parts: parts.sealed(parts.outer({"ltcli": parts.inner(), "more": ""})),
    ),
    ("metadata list", FOREIGN, metadata(["ltcli"])),
    ("number as metadata", MALFORMED, metadata({"ltcli": 5})),
    (
        "mapping as metadata",
        MALFORMED,
        lambda parts: parts.sealed(parts.outer({"ltcli": parts.facts})),
    ),
    ("inner list", MALFORMED, as_inner(lambda _: "[]")),
    ("inner text", MALFORMED, as_inner(lambda text: json.dumps(text))),
    ("inner brackets", MALFORMED, as_inner(lambda _: "[" * 100_000)),
    (
        "nested info",
        MALFORMED,
        as_inner(lambda t: t.replace("[7,3,1]", "[" * 100_000 + "]" * 100_000)),
    ),
    (
        "duplicate key",
        MALFORMED,
        as_inner(lambda t: t.replace('"stage"', '"kind":"split","stage"')),
    ),
    (
        "duplicate info key",
        MALFORMED,
        as_inner(lambda t: t.replace('"split":', '"model":"","split":')),
    ),
    ("NaN in info", MALFORMED, info(mean=[float("nan")])),
    ("infinity in info", MALFORMED, info(mean=[float("inf")])),
    ("1e999 in parameters", MALFORMED, as_inner(lambda text: text.replace("0.5", "1e999"))),
    ("surrogate in a class", MALFORMED, info(class_names=["cat", "dog", "\ud800"])),
    ("line break in stage", MALFORMED, fact(stage="a\nb")),
    ("escape in kind", MALFORMED, fact(kind="\x1b[2Jconfusion")),
    ("NUL in role", MALFORMED, fact(inputs={"a\0b": "7" * 64})),
    ("input that is no hash", MALFORMED, fact(inputs={"features": "../../etc/passwd"})),
    ("inputs as pairs", MALFORMED, fact(inputs=[["features", "7" * 64]])),
    ("info list", MALFORMED, fact(info=[])),
    ("parameters as text", MALFORMED, fact(parameters="")),
    ("no stage", MALFORMED, edited(lambda parts: parts.facts.pop("stage"))),
    ("no digest", MALFORMED, edited(lambda parts: parts.facts.pop("digest"))),
    ("short digest", MALFORMED, fact(digest="0" * 63)),
    ("digest in capitals", MALFORMED, fact(digest="A" * 64)),
    ("digest out of form", SOUND + "it has no digest", as_inner(lambda t: t.replace(":", ": "))),
    ("digest of another file", ALTERED, fact(digest="1" * 64)),
    ("kind unknown", "unknown kind 'graphs'", fact(kind="graphs")),
    ("kind of another schema", "covariances metadata must have form", fact(kind="covariances")),
    ("newer kind", "confusion version must be 1, got 2", fact(kind_version=2)),
    ("version as text", MALFORMED, fact(kind_version="1")),
    ("version true", MALFORMED, fact(kind_version=True)),
    ("version 1e999", MALFORMED, as_inner(lambda t: t.replace('version":1', 'version":1e999'))),
    # The schema.
    ("extra tensor", "confusion has no tensor more", added("more")),
    (
        "tensor named as a path",
        "tensor names must be letters, digits, dots and dashes, got '../x'",
        added("../x"),
    ),
    ("missing tensor", "confusion must have tensor graph", renamed("graph", "grape")),
    ("reshaped", "graph must have axes [C, C], got [9]", entry(shape=[9])),
    ("reshaped to 9 x 1", "axis C is 9 in graph but 3 in class_names", entry(shape=[9, 1])),
    (
        "other class count",
        "axis C is 3 in graph but 4 in class_names",
        info(class_names=list("abcd"), class_counts=[1] * 4),
    ),
    (
        "counts of other length",
        "axis C is 2 in class_counts but 3 in class_names",
        info(class_counts=[7, 3]),
    ),
    (
        "class names as text",
        "class_names must be a list of text, got 'abc'",
        info(class_names="abc"),
    ),
    (
        "class names as numbers",
        "class_names must be a list of text, got [0, 1, 2]",
        info(class_names=[0, 1, 2]),
    ),
    (
        "negative count",
        "class_counts must be a list of counts, got [7, 3, -1]",
        info(class_counts=[7, 3, -1]),
    ),
    (
        "no class names",
        "confusion metadata must have class_names",
        edited(lambda parts: parts.info.pop("class_names")),
    ),
]


def hint_of(message: str) -> str | None:
    if message.startswith(SOUND) or message == ALTERED:
        return "make it again with --force"
    return "make it again with this version of ltcli" if "version must be" in message else None


def assert_refused(ltcli: Callable, path: Path, message: str, hint: str | None = None) -> None:
    began = time.process_time()
    done = ltcli("show", path)
    assert time.process_time() - began < 1
    lines = [f"error: {path}: {message}"] + ([f"hint: {hint}"] if hint else [])
    assert (done.code, done.out, done.err.splitlines()) == (3, "", lines)
    with pytest.raises(ArtifactError) as caught, open_artifact(path):
        pass
    assert str(caught.value) == f"{path}: {message}"


def test_a_file_taken_apart_and_put_together_is_the_same(small):
    assert Parts(small).sealed(Parts(small).outer()) == small


def test_the_header_says_what_was_saved(small, tmp_path):
    path = tmp_path / "small.safetensors"
    path.write_bytes(small)
    header, end = read_header(path), len(small)
    assert header == verify(path)
    assert header == Header(
        path=path,
        kind="confusion",
        kind_version=1,
        stage="confusion",
        parameters={"top": 1, "rate": 0.5},
        inputs={"features": "7" * 64},
        info={
            "class_names": ["cat", "dog", "näif"],
            "class_counts": [7, 3, 1],
            "split": "5" * 64,
            "model": "6" * 64,
        },
        digest=header.digest,
        writer=header.writer,
        tensors={"top": ("I64", (3, 1)), "graph": ("F32", (3, 3)), "scores": ("F32", (3, 3))},
        spans={
            "top": (end - 96, end - 72),
            "graph": (end - 72, end - 36),
            "scores": (end - 36, end),
        },
    )
    assert header.size("top", 0) == 3


def test_the_digest_is_that_of_the_file_with_its_own_place_blank(small, tmp_path):
    path = tmp_path / "small.safetensors"
    path.write_bytes(small)
    digest = verify(path).digest
    assert small.count(digest.encode()) == 1
    blank = small.replace(digest.encode(), b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == digest


@pytest.mark.parametrize(("name", "message", "forge"), CASES, ids=[case[0] for case in CASES])
def test_a_forged_file_is_refused_in_words(ltcli, small, tmp_path, name, message, forge):
    path = tmp_path / "forged.safetensors"
    path.write_bytes(forge(Parts(small)))
    assert_refused(ltcli, path, message, hint_of(message))


def test_every_truncation_and_every_flipped_bit_is_refused(small, tmp_path):
    path = tmp_path / "damaged.safetensors"
    header_end = 8 + int.from_bytes(small[:8], "little")
    draw = random.Random(0)
    payload = range(header_end * 8, len(small) * 8)
    flips = [*range(header_end * 8), *draw.choices(payload, k=200)]
    path.write_bytes(small)
    with path.open("r+b", buffering=0) as file:
        for bit in flips:
            byte = small[bit // 8]
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))
            with pytest.raises(ArtifactError):
                verify(path)
            file.seek(bit // 8)
            file.write(bytes([byte]))
        verify(path)
        for size in reversed(range(len(small))):
            file.truncate(size)
            with pytest.raises(ArtifactError):
                verify(path)


def test_any_other_value_of_any_byte_is_refused(small, tmp_path):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(small)
    draw = random.Random(1)
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(small):
            file.seek(position)
            file.write(bytes([(byte + draw.randrange(1, 256)) % 256]))
            with pytest.raises(ArtifactError), open_artifact(path):
                pass
            file.seek(position)
            file.write(bytes([byte]))


def test_damaged_files_are_shown_as_one_error(ltcli, small, tmp_path):
    path = tmp_path / "damaged.safetensors"
    draw = random.Random(2)
    damaged = [small[:size] for size in range(0, len(small), 12)]
    for bit in draw.choices(range(len(small) * 8), k=60):
        altered = bytearray(small)
        altered[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(altered))
    for data in damaged:
        path.write_bytes(data)
        done = ltcli("show", path)
        said = done.err.splitlines()
        assert (done.code, done.out) == (3, "")
        assert said[0].startswith(f"error: {path}: ")
        assert said[1:] in ([], ["hint: make it again with --force"])


def test_not_a_number_with_a_right_digest_is_not_loaded(small, tmp_path):
    parts = Parts(small)
    parts.payload = parts.payload[:24] + b"\0\0\xc0\x7f" + parts.payload[28:]
    path = tmp_path / "nan.safetensors"
    path.write_bytes(parts.sealed())
    verify(path)
    with open_artifact(path) as artifact:
        assert artifact.tensor("top").tolist() == [[1], [2], [0]]
        with pytest.raises(ArtifactError) as caught:
            artifact.tensor("graph")
    assert str(caught.value) == f"{path}: graph must be finite, got NaN or infinity"


def test_a_pickle_is_never_run(ltcli, tmp_path):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    plain, zipped = tmp_path / "plain.safetensors", tmp_path / "zipped.safetensors"
    plain.write_bytes(pickle.dumps(Bomb()))
    torch.save({"graph": Bomb()}, zipped)
    for path in (plain, zipped):
        assert_refused(ltcli, path, NO_HEADER, "make it again with --force")
        assert (
            ltcli("covariances", "--features", path, "--out", tmp_path / "o.safetensors").code == 3
        )
    assert not canary.exists()


def test_a_missing_file_is_named(ltcli, tmp_path):
    hint = "run the stage that makes it first"
    assert_refused(ltcli, tmp_path / "no.safetensors", "no such artifact", hint)


def test_what_is_not_a_regular_file_is_refused_without_waiting(ltcli, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "link", Path("/dev/zero")):
        assert_refused(ltcli, path, "cannot be read: not a regular file")


def test_what_the_system_cannot_open_is_said_in_its_words(ltcli, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert_refused(ltcli, tmp_path / "file" / "x", "cannot be read: not a directory")
    assert_refused(ltcli, tmp_path / ("x" * 300), "cannot be read: file name too long")
    loop = "cannot be read: too many levels of symbolic links"
    assert_refused(ltcli, tmp_path / "loop", loop)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no such file here")
def test_a_file_that_fails_while_it_is_read_is_refused(ltcli):
    assert_refused(ltcli, Path("/proc/self/mem"), "cannot be read: input/output error")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_a_file_without_permission_is_refused(ltcli, tmp_path):
    path = tmp_path / "closed.safetensors"
    path.touch(mode=0)
    assert_refused(ltcli, path, "cannot be read: permission denied")


def test_refused_files_leave_no_descriptor_open(small, tmp_path):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(small[:-1])
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        for refused in (path, tmp_path):
            with pytest.raises(ArtifactError):
                verify(refused)
    assert len(os.listdir("/dev/fd")) == before


def test_artifacts_come_in_order_of_their_names_and_other_files_are_left_out(tmp_path):
    for name in ("b.safetensors", "a.safetensors", "c.txt", ".a.safetensors.lock"):
        (tmp_path / name).touch()
    names = ["a.safetensors", "b.safetensors"]
    assert list_folder(tmp_path) == [tmp_path / name for name in names]


def test_a_file_that_is_no_artifact_is_named_with_the_hint(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="not a sound artifact") as error:
        read_folder(tmp_path, "remove it")
    assert error.value.hint == "remove it"


def commands(folder, file):
    """Every command that lists a folder."""
    return (
        ("compare", "-d", folder),
        ("report", "-d", folder),
        ("evaluate", "-d", folder),
        ("show", "-d", folder),
        ("lineage", file, "-d", folder),
    )


def test_a_folder_that_is_not_there_is_said_to_be_missing(ltcli, chain, tmp_path):
    for words in commands(tmp_path / "nowhere", chain / "split.safetensors"):
        done = ltcli(*words)
        assert (done.code, done.out) == (3, "")
        assert done.lines == [
            f"error: {tmp_path}/nowhere: no such folder",
            "hint: name the folder that holds the artifacts",
        ]


def test_a_folder_that_cannot_be_listed_is_an_error(ltcli, chain, tmp_path):
    folder = tmp_path / ("x" * 300)
    for words in (*commands(folder, chain / "split.safetensors"), ("plot", "-d", folder)):
        done = ltcli(*words)
        assert (done.code, done.out) == (3, "")
        assert done.lines == [f"error: {folder}: cannot be read: file name too long"]


def test_a_folder_without_permission_is_not_an_empty_one(ltcli, chain, tmp_path, monkeypatch):
    scandir = os.scandir

    def refuse(folder):
        if folder == tmp_path:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    for words in (*commands(tmp_path, chain / "split.safetensors"), ("plot", "-d", tmp_path)):
        done = ltcli(*words)
        assert (done.code, done.out) == (3, "")
        assert done.lines == [f"error: {tmp_path}: cannot be read: permission denied"]
