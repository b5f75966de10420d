import copy
import functools
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

from ltcli.artifacts.header import MAX_HEADER_BYTES, read_header, verify
from ltcli.artifacts.store import open_artifact, save
from ltcli.core.errors import ArtifactError

AGAIN = "make it again with --force"
NO_HEADER = "not a sound artifact: it does not start with a safetensors header"
NOT_JSON = "not a sound artifact: the header is not JSON without duplicate keys"
NO_METADATA = "not written by ltcli: it has no ltcli metadata"
MALFORMED = "not a sound artifact: its ltcli metadata is incomplete or malformed"
HOLE = "not a sound artifact: its tensors overlap or leave a hole"
FORGED = "not a sound artifact: tensor 'graph' has a forged entry"
ALTERED = "content does not match its digest"

INFO = {
    "class_names": ["cat", "dog", "näif"],
    "class_counts": [7, 3, 1],
    "split": "5" * 64,
    "model": "6" * 64,
}


def write_small(path: Path) -> bytes:
    tensors = {
        "graph": torch.arange(9.0).reshape(3, 3),
        "scores": torch.eye(3),
        "top": torch.tensor([[1], [2], [0]]),
    }
    parameters, inputs = {"top": 1, "rate": 0.5}, {"features": "7" * 64}
    save(
        path,
        "confusion",
        tensors,
        stage="confusion",
        parameters=parameters,
        inputs=inputs,
        info=INFO,
    )
    return path.read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_small(tmp_path_factory.mktemp("small") / "small.safetensors")


class Parts:
    """A small artifact taken apart, so that a test can forge one thing and seal it again."""

    def __init__(self, data: bytes) -> None:
        length = int.from_bytes(data[:8], "little")
        self.tensors = json.loads(data[8 : 8 + length])
        self.facts = json.loads(self.tensors.pop("__metadata__")["ltcli"])
        self.payload = data[8 + length :]

    def inner(self) -> str:
        facts = self.facts | ({"digest": "0" * 64} if "digest" in self.facts else {})
        return json.dumps(facts, sort_keys=True, separators=(",", ":"))

    def outer(self, inner: str | None = None) -> str:
        metadata = {"ltcli": self.inner() if inner is None else inner}
        return json.dumps({"__metadata__": metadata, **self.tensors}, separators=(",", ":"))

    def sealed(self, outer: str | bytes | None = None, *, padded: bool = True) -> bytes:
        """Return the file with a digest that is right for whatever was forged."""
        raw = self.outer() if outer is None else outer
        raw = raw.encode() if isinstance(raw, str) else raw
        raw += b" " * (-len(raw) % 8 if padded else 0)
        blank = len(raw).to_bytes(8, "little") + raw + self.payload
        digest = hashlib.sha256(blank).hexdigest().encode()
        return blank.replace(rb"\"digest\":\"" + b"0" * 64, rb"\"digest\":\"" + digest, 1)


Forge = Callable[[Parts], bytes]
CASES: dict[str, tuple[Forge, str, str | None]] = {}


def case(message: str, hint: str | None = AGAIN) -> Callable[[Forge], Forge]:
    """Add a forged file to the table, with what is said about it."""

    def add(forge: Forge) -> Forge:
        CASES[forge.__name__.strip("_")] = (forge, message, hint)
        return forge

    return add


def add_edit(name: str, message: str, edit: Callable[[Parts], object]) -> None:
    """Add a file that differs in one edit of its parts and has the right digest."""

    def forge(parts: Parts) -> bytes:
        edit(parts)
        return parts.sealed()

    CASES[name] = (forge, message, AGAIN if message.startswith("not a sound") else None)


def add_text(name: str, message: str, edit: Callable[[str], str | bytes]) -> None:
    """Add a file whose header text was edited, with the right digest."""
    hint = AGAIN if message.startswith("not a sound") else None
    CASES[name] = (lambda parts: parts.sealed(edit(parts.outer())), message, hint)


def add_raw(name: str, message: str, edit: Callable[[bytes], bytes]) -> None:
    """Add a file of altered bytes."""
    CASES[name] = (lambda parts: edit(parts.sealed()), message, AGAIN)


def length(number: int) -> bytes:
    return number.to_bytes(8, "little")


def entry(parts: Parts, **changes: object) -> None:
    parts.tensors["graph"].update(changes)


def fact(parts: Parts, **changes: object) -> None:
    parts.facts.update(changes)


def info(parts: Parts, **changes: object) -> None:
    parts.facts["info"].update(changes)


def offsets(parts: Parts, **changes: list[int]) -> None:
    for name, value in changes.items():
        parts.tensors[name]["data_offsets"] = value


# What the first bytes say.
add_raw("empty", NO_HEADER, lambda _: b"")
add_raw("seven_bytes", NO_HEADER, lambda data: data[:7])
add_raw("length_0", NO_HEADER, lambda data: length(0) + data[8:])
add_raw("length_1", NO_HEADER, lambda data: length(1) + data[8:])
add_raw("length_2_to_63", NO_HEADER, lambda data: length(2**63) + data[8:])
add_raw("length_over_limit", NO_HEADER, lambda data: length(MAX_HEADER_BYTES + 1) + data[8:])
add_raw("pickle", NO_HEADER, lambda _: pickle.dumps({"graph": [0.0] * 9}))
add_raw("zip_as_by_torch_save", NO_HEADER, lambda _: b"PK\x03\x04" + bytes(100))
add_raw("text", NO_HEADER, lambda _: b"class,count\ncat,7\n" * 10)
add_raw(
    "length_beyond_the_end",
    "not a sound artifact: it ends inside the header",
    lambda data: length(len(data)) + data[8:],
)
add_raw(
    "trailing_byte",
    "not a sound artifact: it holds 97 bytes of tensors instead of 96",
    lambda data: data + b"\0",
)


@case(NOT_JSON)
def _length_short_by_one(parts: Parts) -> bytes:
    data = parts.sealed(padded=False)
    return length(int.from_bytes(data[:8], "little") - 1) + data[8:]


@case(NOT_JSON)
def _length_long_by_one(parts: Parts) -> bytes:
    data = parts.sealed(padded=False)
    return length(int.from_bytes(data[:8], "little") + 1) + data[8:]


@case("not a sound artifact: it has more than 20000 tensors")
def _too_many_tensors(parts: Parts) -> bytes:
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    parts.tensors = {f"graph{number}": empty for number in range(20_001)}
    return parts.sealed()


@case(NO_HEADER)
def _huge_header(parts: Parts) -> bytes:
    parts.facts["info"]["padding"] = "x" * MAX_HEADER_BYTES
    return parts.sealed()


# What the header says as JSON.
add_text("outer_list", "not a sound artifact: the header is not a mapping", lambda _: "[]")
add_text("outer_nesting", NOT_JSON, lambda _: '{"a":' + "[" * 100_000)
add_text("outer_closed_nesting", NOT_JSON, lambda _: "[" * 100_000 + "]" * 100_000)
add_text("not_utf8", NOT_JSON, lambda text: text.replace("cat", "c\0t").encode().replace(b"\0", b"\xff"))
add_text("utf16", NOT_JSON, lambda text: text.encode("utf-16-le"))
add_text("byte_order_mark", NOT_JSON, lambda text: text.encode("utf-8-sig"))
add_text("nul", NOT_JSON, lambda text: text.replace("cat", "c\0t"))
add_text("encoded_surrogate", NOT_JSON, lambda text: text.replace("cat", "\ud800").encode("utf-8", "surrogatepass"))
add_text("duplicate_tensor", NOT_JSON, lambda text: text.replace('"scores"', '"graph"'))
add_text("duplicate_entry_key", NOT_JSON, lambda text: text.replace('"F32",', '"F32","dtype":"F32",', 1))
add_text("two_metadata", NOT_JSON, lambda text: '{"__metadata__":{"ltcli":""},' + text[1:])
add_text("nan_as_tensor", FORGED, lambda text: text.replace('"graph":{', '"graph":NaN,"other":{'))
add_text("no_metadata", NO_METADATA, lambda text: text.replace("__metadata__", "graph2", 0) and "{}")
add_text("metadata_number", MALFORMED, lambda _: '{"__metadata__":{"ltcli":5}}')
