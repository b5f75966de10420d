"""A sidecar is believed where it fits its artifact, and nothing in it can do harm."""

import json
from pathlib import Path

import pytest

from ltcli.artifacts.header import Header
from ltcli.report.provenance import Sidecar, read_sidecar

START = {
    "event": "start",
    "time": 1700000000.5,
    "device": "auto",
    "processor": "P",
    "platform": "Linux",
    "cores": 2,
    "threads": 1,
    "python": "3.11.7",
    "versions": {"torch": "2.15.0"},
    "host": "secret",
    "command": ["secret"],
}
END = {"event": "end", "digest": "d" * 64, "seconds": 1.25, "peak_memory_mb": 10.5}


def epoch(number, **measures):
    return {"event": "epoch", "epoch": number, "seconds": 1.0, **measures}


@pytest.fixture
def sidecar(tmp_path):
    """Write records and read them back as the sidecar of an artifact."""
    header = Header(tmp_path / "a.safetensors", "model", 1, "x", {}, {}, {}, "d" * 64, "0", {}, {})

    def read(*records):
        lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
        Path(tmp_path / "a.run.jsonl").write_bytes(b"\n".join(lines))
        return read_sidecar(header)

    read.header = header
    return read


def test_a_run_is_read_without_host_and_command(sidecar):
    training = {"event": "training", "device": "cpu", "precision": "bfloat16"}
    found = sidecar(START, training, epoch(0, loss=2.0, learning_rate=0.1), END)
    assert found == Sidecar(
        epochs={"learning_rate": {0: 0.1}, "loss": {0: 2.0}},
        started="2023-11-14 22:13:20",
        seconds=1.25,
        resumed=0,
        device="cpu",
        precision="bfloat16",
        peak_memory_mb=10.5,
        machine="P, Linux, 2 cores, 1 threads, python 3.11.7, torch 2.15.0",
    )


def test_an_epoch_done_again_after_a_resume_counts_as_it_was_then(sidecar):
    resume = {**START, "event": "resume"}
    found = sidecar(
        START,
        epoch(1, loss=3.0),
        epoch(0, loss=2.0),
        resume,
        epoch(1, loss=1.0),
        epoch(2, loss=0.5),
        END,
    )
    assert found.epochs == {"loss": {0: 2.0, 1: 1.0, 2: 0.5}}
    assert list(found.epochs["loss"]) == [0, 1, 2]
    assert found.resumed == 1


def test_what_is_no_number_is_left_out(sidecar):
    found = sidecar(
        START,
        b'{"event": "epoch", "epoch": 0, "loss": NaN, "a": 1e999, "b": true, "c": "x", "d": 2}',
        epoch(-1, loss=1.0),
        epoch(True, loss=1.0),
        epoch(10**9, loss=1.0),
        epoch(1, loss=10**400, d=1e300),
        b"[1]",
        b"half a li",
        b"\xff\xfe",
        b"[" * 100_000,
        END,
    )
    assert found.epochs == {"d": {0: 2.0}}


def test_odd_facts_of_the_machine_are_left_out(sidecar):
    found = sidecar(
        {"event": "start", "time": 1e99, "versions": [1], "python": 3, "cores": "x"}, END
    )
    assert (found.started, found.device, found.machine) == ("", "", "")


@pytest.mark.parametrize(
    "records", [[], [START], [START, {**END, "digest": "e" * 64}], [END, epoch(0, loss=1.0)]]
)
def test_a_sidecar_that_does_not_end_with_the_artifact_is_of_another_run(sidecar, records):
    assert sidecar(*records) == "sidecar is of another run"


def test_no_sidecar(sidecar):
    assert read_sidecar(sidecar.header) == "no sidecar"


def test_a_sidecar_that_is_no_file(sidecar):
    sidecar.header.path.with_suffix(".run.jsonl").mkdir()
    assert read_sidecar(sidecar.header) == "sidecar cannot be read: not a regular file"
