import gc
import hashlib
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ltcli.artifacts.header import opened, read_header, verify
from ltcli.artifacts.store import Artifact, is_finite, locked, open_artifact, save, save_bytes
from ltcli.core.errors import ArtifactError, NumericalError, ResourceError

SAVED = {
    "bool": torch.tensor([[True, False], [False, True]]),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "int8": torch.tensor([-128, 0, 127], dtype=torch.int8),
    "int16": torch.tensor([[-(2**15)], [2**15 - 1]], dtype=torch.int16),
    "int32": torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32),
    "int64": torch.tensor([-(2**63), 2**63 - 1]),
    "float16": torch.tensor([6e-8, -0.0, 65504.0], dtype=torch.float16),
    "bfloat16": torch.tensor([1e-40, -0.0, 3e38], dtype=torch.bfloat16),
    "float32": torch.tensor([1e-45, -0.0, 3.4e38]),
    "float64": torch.tensor([[[5e-324, -0.0, 1.7e308]]], dtype=torch.float64),
    "one number": torch.tensor(3.5),
    "no rows": torch.zeros(0, 7),
    "no columns": torch.zeros(7, 0, dtype=torch.int64),
}


def save_state(path: Path, tensors: dict[str, torch.Tensor], **position: object) -> str:
    """Save the one kind whose tensors may have any name, dtype and shape."""
    return save(
        path,
        "checkpoint",
        {f"state.{name}": tensor for name, tensor in tensors.items()},
        stage="pretrain",
        parameters={"lr": 0.1, "epochs": 5},
        inputs={"split": "5" * 64},
        info={"position": position},
    )


def save_graph(path: Path, **changes: torch.Tensor) -> str:
    """Save a kind of fixed tensors, some of them exchanged."""
    tensors = {"graph": torch.eye(2), "scores": torch.eye(2), "top": torch.tensor([[1], [0]])}
    info = {"class_names": ["a", "b"], "class_counts": [2, 1], "split": "", "model": ""}
    tensors |= changes
    return save(path, "confusion", tensors, stage="here", parameters={}, inputs={}, info=info)


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, without locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def lock(path: Path) -> None:
    with locked(path):
        pass


def raw(tensor: torch.Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


@pytest.mark.parametrize("name", SAVED)
def test_a_tensor_comes_back_bit_by_bit(out, name):
    save_state(out, {"t": SAVED[name]})
    with open_artifact(out) as artifact:
        back = artifact.tensor("state.t")
    assert (back.dtype, back.shape) == (SAVED[name].dtype, SAVED[name].shape)
    assert raw(back) == raw(SAVED[name])


def test_all_of_them_in_one_file_come_back_under_their_names(out):
    # The order on the disk is another one, and most tensors do not start at a multiple of 8.
    save_state(out, {name.replace(" ", "_"): tensor for name, tensor in SAVED.items()})
    with open_artifact(out) as artifact:
        back = artifact.load("state.*")
    assert {name.replace("_", " "): raw(tensor) for name, tensor in back.items()} == {
        name: raw(tensor) for name, tensor in SAVED.items()
    }


def test_the_bytes_are_those_of_safetensors_with_the_digest_in_its_place(out):
    tensors = {f"state.{name.replace(' ', '_')}": tensor for name, tensor in SAVED.items()}
    tensors |= {f"state.{i}.{'x' * (i % 7)}": torch.full((i % 5,), i) for i in range(300)}
    tensors["state.half"] = torch.tensor([True])  # An odd number of bytes before those of others.
    digest = save_state(out, {name.removeprefix("state."): t for name, t in tensors.items()})
    data = out.read_bytes()
    text = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["ltcli"]
    blank = safetensors.torch.save(tensors, {"ltcli": text.replace(digest, "0" * 64)})
    assert hashlib.sha256(blank).hexdigest() == digest
    assert data == blank.replace(b"0" * 64, digest.encode(), 1)


def test_an_artifact_has_the_digest_that_it_always_had(out, monkeypatch):
    # Every input digest in every header depends on it.
    monkeypatch.setattr("ltcli.artifacts.store.__version__", "0")
    digest = save_state(out, {name.replace(" ", "_"): tensor for name, tensor in SAVED.items()})
    assert digest == "b4db37281799a55a9b9dcace78f3ba64b9a4c6ac3dade3a80a543ec32e7e78c9"


def test_values_whose_stride_is_odd_are_saved(out):
    odd = {
        "none": torch.zeros(0, dtype=torch.int64).expand(0),
        "one": torch.arange(8.0)[5::4][:1],
        "spread": torch.tensor(7).expand(3),
        "column": torch.arange(6.0).reshape(2, 3)[:, 1:2],
    }
    assert odd["one"].is_contiguous()
    assert odd["one"].stride() == (4,)
    save_state(out, odd)
    with open_artifact(out) as artifact:
        back = artifact.load("state.*")
    assert {name: tensor.tolist() for name, tensor in back.items()} == {
        "none": [],
        "one": [5],
        "spread": [7, 7, 7],
        "column": [[1], [4]],
    }


def test_a_tensor_of_many_pieces_outlives_its_file_and_may_be_changed(out):
    large = torch.arange(1_500_000).float()  # 6 MB: in huge pages, where there are any.
    digest = save_state(out, {"large": large, "small": torch.tensor([True] * 3)})
    blank = out.read_bytes().replace(digest.encode(), b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == digest
    with open_artifact(out) as artifact:
        back = artifact.tensor("state.large")
    del artifact
    out.unlink()
    gc.collect()
    assert torch.equal(back, large)
    back += 1
    assert back[-1] == 1_500_000


# One pass over the file verifies it.


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Spans of bytes that were read behind the header, in their order."""
    spans, real = [], os.preadv

    def noted(descriptor, buffers, position):
        count = real(descriptor, buffers, position)
        spans.append((position, position + count))
        return count

    monkeypatch.setattr(os, "preadv", noted)
    return spans


def test_the_first_load_reads_each_byte_once_and_the_next_its_own_alone(out, reads):
    save_state(out, {"a": torch.arange(5), "b": torch.arange(400_000.0), "c": torch.zeros(3)})
    spans = read_header(out).spans
    with open_artifact(out) as artifact:
        assert reads == []
        assert torch.equal(artifact.tensor("state.b"), torch.arange(400_000.0))
        size = out.stat().st_size
        assert [start for start, _ in reads[1:]] == [end for _, end in reads[:-1]]
        assert (reads[0][0], reads[-1][1]) == (spans["state.a"][0], size)
        reads.clear()
        assert artifact.tensor("state.a").tolist() == [0, 1, 2, 3, 4]
        assert artifact.rows("state.c").shape == (3,)
        assert artifact.load() == {}
    assert reads == [spans["state.a"]]


@pytest.mark.parametrize("name", ["state.a", "state.b"])
def test_an_altered_byte_of_any_tensor_stops_the_load_of_each(out, name):
    save_state(out, {"a": torch.arange(5), "b": torch.arange(5)})
    damage(out, -1)
    message = f"{out}: content does not match its digest"
    with opened(out) as file:
        artifact = Artifact(read_header(out), file)
        for attempt in (artifact.tensor, artifact.tensor, artifact.rows, artifact.load):
            with pytest.raises(ArtifactError) as caught:
                attempt(name)
            assert str(caught.value) == message


def damage(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_is_not_loaded_is_verified_on_leaving_also_after_an_error(out):
    save_state(out, {"a": torch.arange(5)})
    with pytest.raises(KeyError), open_artifact(out):
        raise KeyError
    damage(out, -1)
    with pytest.raises(ArtifactError) as quiet, open_artifact(out):
        pass
    with pytest.raises(ArtifactError) as failed, open_artifact(out):
        raise KeyError
    for caught in (quiet, failed):
        assert str(caught.value) == f"{out}: content does not match its digest"


def test_an_altered_byte_is_named_before_a_value_that_is_not_finite(out):
    save_state(out, {"a": torch.zeros(2)})
    data = out.read_bytes()
    out.write_bytes(data[:-4] + b"\xff\xff\xff\x7f")
    with pytest.raises(ArtifactError) as caught, open_artifact(out) as artifact:
        artifact.tensor("state.a")
    assert str(caught.value) == f"{out}: content does not match its digest"


def test_views_and_trained_parameters_are_saved_as_their_values(out):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    save_state(out, {"weight": weight, "turned": weight.t(), "row": weight[1]})
    with open_artifact(out) as artifact:
        back = artifact.load("state.*")
    assert back["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert back["row"].tolist() == [3, 4, 5]


def test_a_prefix_loads_what_starts_with_it_and_a_missing_name_is_an_error(out):
    save_state(out, {"a.x": torch.zeros(1), "a.y": torch.ones(1), "b": torch.ones(2)})
    with open_artifact(out) as artifact:
        assert sorted(artifact.load("state.a.*")) == ["x", "y"]
        assert sorted(artifact.load("state.b", "state.a.*")) == ["state.b", "x", "y"]
        assert artifact.load("none.*") == {}
        with pytest.raises(ArtifactError) as caught:
            artifact.tensor("state.c")
    assert str(caught.value) == f"{out}: has no tensor state.c"


def test_the_order_of_names_does_not_matter(out, tmp_path):
    other = tmp_path / "other.safetensors"
    tensors = {"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.int64)}
    first = save_state(out, tensors, epoch=1, step=2)
    second = save_state(other, dict(reversed(tensors.items())), step=2, epoch=1)
    assert first == second == verify(out).digest
    assert out.read_bytes() == other.read_bytes()


def test_every_change_of_content_changes_the_digest(out):
    digests = [
        save_state(out, {"a": torch.zeros(3)}, epoch=1),
        save_state(out, {"a": torch.zeros(3)}, epoch=2),
        save_state(out, {"a": torch.zeros(4)}, epoch=1),
        save_state(out, {"b": torch.zeros(3)}, epoch=1),
        save_state(out, {"a": torch.zeros(3, dtype=torch.int32)}, epoch=1),
        save_state(out, {"a": torch.tensor([0.0, 0.0, -0.0])}, epoch=1),
    ]
    assert len(set(digests)) == len(digests)


def test_all_that_ltcli_says_is_under_one_metadata_key(out):
    save_graph(out)
    data = out.read_bytes()
    document = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(document["__metadata__"]) == ["ltcli"]
    facts = json.loads(document["__metadata__"]["ltcli"])
    assert list(facts) == sorted(facts)
    assert set(facts) == {
        *("digest", "info", "inputs", "kind", "kind_version", "ltcli", "parameters", "stage")
    }


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_follows_the_umask_also_over_an_old_file(out, umask, mode):
    out.touch(mode=0o600 if mode != 0o600 else 0o644)
    before = os.umask(umask)
    try:
        save_graph(out)
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == mode


def test_the_mode_of_other_files_follows_the_umask(out):
    before = os.umask(0o027)
    try:
        save_bytes(out, b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_an_old_file_and_what_links_to_it_are_not_written_through(out, tmp_path):
    (tmp_path / "target").write_text("mine")
    out.symlink_to("target")
    save_graph(out)
    assert not out.is_symlink()
    assert (tmp_path / "target").read_text() == "mine"
    verify(out)
    os.link(out, tmp_path / "hard")
    old = out.read_bytes()
    save_graph(out, scores=torch.zeros(2, 2))
    assert (tmp_path / "hard").read_bytes() == old != out.read_bytes()


def test_an_open_artifact_stays_the_one_that_was_opened(out):
    save_state(out, {"a": torch.zeros(3)})
    with open_artifact(out) as artifact:
        save_state(out, {"a": torch.ones(3)})
        assert artifact.tensor("state.a").tolist() == [0, 0, 0]
        out.unlink()
        assert artifact.tensor("state.a").tolist() == [0, 0, 0]


def test_a_file_cut_short_while_it_is_open_is_an_error_and_kills_nobody(out):
    save_state(out, {"a": torch.zeros(100_000)})
    with open_artifact(out) as artifact:
        kept = artifact.tensor("state.a")
        os.truncate(out, 200_000)
        assert not kept.any()
        with pytest.raises(ArtifactError) as caught:
            artifact.tensor("state.a")
    assert str(caught.value).startswith(f"{out}: cannot be read: ")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_not_saved(out, bad):
    with pytest.raises(NumericalError) as caught:
        save_graph(out, graph=torch.tensor([[0.0, bad], [0, 0]]))
    assert str(caught.value) == "here: graph must be finite, got NaN or infinity"
    assert caught.value.exit_code == 4
    assert names_in(out.parent) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": torch.eye(3)}, "axis C is 3 in graph but 2 in class_names"),
        ({"graph": torch.eye(2).double()}, "graph must be F32, got F64"),
        ({"graph": torch.zeros(4)}, "graph must have axes [C, C], got [4]"),
        ({"more": torch.zeros(4)}, "confusion has no tensor more"),
        (
            {"a b": torch.zeros(4)},
            "tensor names must be letters, digits, dots and dashes, got 'a b'",
        ),
    ],
    ids=["size", "dtype", "axes", "extra", "name"],
)
def test_what_does_not_fit_its_kind_is_not_saved(out, changes, message):
    with pytest.raises(ArtifactError) as caught:
        save_graph(out, **changes)
    assert str(caught.value) == f"{out}: {message}"
    assert names_in(out.parent) == []


def test_what_could_not_be_read_again_is_not_written(out, monkeypatch):
    monkeypatch.setattr("ltcli.artifacts.store.MAX_TENSORS", 2)
    with pytest.raises(ResourceError) as caught:
        save_graph(out)
    assert str(caught.value) == f"{out}: number of tensors must be at most 2, got 3"
    monkeypatch.setattr("ltcli.artifacts.store.MAX_TENSORS", 3)
    monkeypatch.setattr("ltcli.artifacts.store.MAX_HEADER_BYTES", 100)
    with pytest.raises(ResourceError) as caught:
        save_graph(out)
    line = f"{out}: number of bytes of metadata must be at most 100, got "
    assert str(caught.value).startswith(line)
    assert names_in(out.parent) == []


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond 1 MB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_file_that_does_not_fit_leaves_the_old_one(out, small_files):
    save_state(out, {"a": torch.zeros(3)})
    old = out.read_bytes()
    with pytest.raises(ResourceError) as caught:
        save_state(out, {"a": torch.zeros(10**6)})
    assert str(caught.value) == f"{out}: the disk is full"
    assert (caught.value.hint, caught.value.exit_code) == ("free some space and run again", 6)
    assert out.read_bytes() == old
    assert names_in(out.parent) == [out.name]


def test_any_bytes_are_written_whole_or_not_at_all(out, small_files):
    save_bytes(out, b"\xcf\x84\n")
    assert out.read_bytes() == b"\xcf\x84\n"
    with pytest.raises(ResourceError) as caught:
        save_bytes(out, b"x" * 2_000_000)
    assert str(caught.value) == f"{out}: the disk is full"
    assert out.read_bytes() == b"\xcf\x84\n"
    assert names_in(out.parent) == [out.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no mounting here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_file(small_disk):
    out = small_disk / "out.safetensors"
    save_state(out, {"a": torch.zeros(3)})
    old, free = out.read_bytes(), shutil.disk_usage(small_disk).free
    with pytest.raises(ResourceError) as caught:
        save_state(out, {"a": torch.zeros(2 * 10**6)})
    assert str(caught.value) == f"{out}: needs 8.0 MB of disk, 1.0 MB are free"
    assert caught.value.hint == "free some space or choose another folder"
    # The tensors fit and the header does not.
    with pytest.raises(ResourceError) as caught:
        save_state(out, {"a": torch.zeros(free - 400, dtype=torch.uint8)})
    assert str(caught.value) == f"{out}: the disk is full"
    assert caught.value.hint == "free some space and run again"
    assert out.read_bytes() == old
    assert names_in(small_disk) == [out.name]
    assert shutil.disk_usage(small_disk).free == free


@pytest.mark.parametrize("how", ["save", "lock"])
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("{tmp}/file/out.safetensors", "file exists"),
        ("/proc/out.safetensors", "no such file or directory"),
    ],
    ids=["below a file", "proc"],
)
def test_a_place_that_takes_no_file_is_named_at_once(tmp_path, place, reason, how):
    if place.startswith("/proc") and (not Path("/proc/self").exists() or os.geteuid() != 0):
        pytest.skip("other words here")
    (tmp_path / "file").touch()
    out = Path(place.format(tmp=tmp_path))
    attempt = save_graph if how == "save" else lock
    with pytest.raises(ResourceError) as caught:
        attempt(out)
    assert str(caught.value) == f"{out}: cannot be written: {reason}"
    assert (caught.value.hint, caught.value.exit_code) == ("choose another --out", 6)
    assert names_in(tmp_path) == ["file"]


def test_folders_are_made_for_a_file_and_its_lock(tmp_path):
    for attempt, folder in ((save_graph, tmp_path / "a" / "b"), (lock, tmp_path / "c" / "d")):
        attempt(folder / "out.safetensors")
        assert folder.is_dir()
    verify(tmp_path / "a" / "b" / "out.safetensors")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    for attempt in (save_graph, lock):
        with pytest.raises(ResourceError) as caught:
            attempt(folder / "out.safetensors")
        expected = f"{folder}/out.safetensors: cannot be written: permission denied"
        assert str(caught.value) == expected


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(out, tmp_path):
    mine = (".out.safetensors.7.0123abcd.tmp", ".out.resume.safetensors.123456.89abcdef.tmp")
    others = (
        ".out.safetensors.notes.tmp",
        ".out.safetensors.b.safetensors.7.0123abcd.tmp",
        ".out2.safetensors.7.0123abcd.tmp",
        ".outxsafetensors.7.0123abcd.tmp",
    )
    for name in (*mine, *others):
        (tmp_path / name).write_bytes(b"half")
    save_graph(out)
    assert set(mine) < set(names_in(tmp_path)), "only the holder of the lock may remove them"
    with locked(out, out.with_suffix(".resume.safetensors").name):
        assert names_in(tmp_path) == sorted((*others, out.name))


def test_whoever_may_write_in_the_folder_may_take_the_lock(out):
    with locked(out):
        lock = out.with_name(".out.safetensors.lock")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o666


# One interpreter that has torch loaded forks every process below: two seconds instead of forty.
ARENA = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
import torch
from ltcli.artifacts.header import verify
from ltcli.artifacts.store import locked, open_artifact, save

torch.set_num_threads(1)
folder, draw = Path(sys.argv[1]), random.Random(0)


def write(path, value, size):
    tensors = {f"state.{name}": torch.full((size,), value) for name in "abc"}
    info = {"position": {"value": value, "size": size}}
    save(path, "checkpoint", tensors, stage="s", parameters={}, inputs={}, info=info)


def fork(work, *args):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(*args)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def codes(children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def write_for(path, seconds, seed):
    random_sizes, until = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < until:
        write(path, random_sizes.randrange(10**6), random_sizes.randrange(1, 5000))


def whole(artifact):
    position = artifact.header.info["position"]
    return all(
        len(tensor) == position["size"] and bool((tensor == position["value"]).all())
        for tensor in artifact.load("state.*").values()
    )


def replacement():
    out = folder / "replaced.safetensors"
    write(out, 1, 1)
    writers = [fork(write_for, out, 1.0, seed) for seed in (1, 2)]
    digests, mixed, until = set(), 0, time.monotonic() + 0.9
    while time.monotonic() < until:
        with open_artifact(out) as artifact:
            digests.add(artifact.header.digest)
            mixed += not whole(artifact)
    return {"codes": codes(writers), "versions": len(digests), "mixed": mixed}


def take_turns(out, journal):
    for _ in range(10):
        with locked(out):
            os.write(journal, f"{os.getpid()} ".encode())
            time.sleep(0.005)
            os.write(journal, f"{os.getpid()} ".encode())


def turns():
    journal = os.open(folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    workers = [fork(take_turns, folder / "turns.safetensors", journal) for _ in range(3)]
    found = codes(workers)
    return {"codes": found, "journal": (folder / "journal").read_text().split()}


def write_for_ever(out, ready):
    with locked(out):
        os.write(ready, b"x")
        while True:
            write(out, os.getpid(), 300_000)


def kills():
    out, seen, left = folder / "killed.safetensors", 0, []
    write(out, 1, 300_000)
    for _ in range(20):
        reading, ready = os.pipe()
        child = fork(write_for_ever, out, ready)
        os.read(reading, 1)
        time.sleep(draw.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        codes([child])
        seen += any(path.suffix == ".tmp" for path in folder.iterdir())
        with locked(out):
            left += [path.name for path in folder.iterdir() if "tmp" in path.name]
            with open_artifact(out) as artifact:
                assert whole(artifact)
    return {"seen": seen, "left": left}


def hashed():
    # The order of a set of words is another one in every interpreter.
    numbers = {"e", "d", "c", "b", "a"}
    tensors = {f"state.{name}": torch.arange(9.0) for name in numbers}
    facts = {name: 1 for name in numbers}
    inputs = {name: "5" * 64 for name in numbers}
    path = folder / "hashed.safetensors"
    info = {**facts, "position": facts}
    save(path, "checkpoint", tensors, stage="s", parameters=facts, inputs=inputs, info=info)
    return path.read_bytes().hex()


found = {name: globals()[name]() for name in ("hashed", "replacement", "turns", "kills")}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What processes that read, write and die at the same time gave."""
    done = subprocess.run(
        [sys.executable, "-c", ARENA, str(tmp_path_factory.mktemp("arena"))],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_two_interpreters_write_the_same_bytes(arena, out):
    names = "abcde"
    facts = dict.fromkeys(names, 1)
    save(
        out,
        "checkpoint",
        {f"state.{name}": torch.arange(9.0) for name in names},
        stage="s",
        parameters=facts,
        inputs=dict.fromkeys(names, "5" * 64),
        info={**facts, "position": facts},
    )
    assert out.read_bytes().hex() == arena["hashed"]


def test_a_reader_never_sees_a_mixture_of_two_writers(arena):
    found = arena["replacement"]
    assert (found["codes"], found["mixed"]) == ([0, 0], 0)
    assert found["versions"] > 5


def test_the_lock_is_held_by_one_process_at_a_time(arena):
    journal = arena["turns"]["journal"]
    assert arena["turns"]["codes"] == [0, 0, 0]
    assert len(journal) == 60
    assert journal[::2] == journal[1::2]


def test_a_killed_writer_leaves_a_whole_file_and_nothing_for_long(arena):
    assert arena["kills"]["left"] == []
    assert arena["kills"]["seen"] > 0


# Rows that are read when they are indexed.

ORDERS = [[0], [4, 1, 3], [0, 1, 2, 3, 4], [2, 2, 1], [3, 4, 0, 1], []]


def saved(path: Path, **tensors: torch.Tensor) -> Path:
    save_state(path, tensors)
    return path


@pytest.mark.parametrize("index", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_rows_are_those_of_the_loaded_tensor(tmp_path, dtype, index):
    # A tensor before it whose size is no multiple of 8.
    whole = torch.arange(30).reshape(5, 2, 3).to(dtype)
    path = saved(tmp_path / "a.safetensors", before=torch.zeros(3, dtype=torch.bool), whole=whole)
    with open_artifact(path) as artifact:
        rows = artifact.rows("state.whole")
        found = rows[torch.tensor(index, dtype=torch.int64)]
    assert rows.shape == whole.shape
    assert found.dtype == dtype
    assert torch.equal(found, whole[index])


def test_rows_that_follow_each_other_are_read_at_once_and_no_others(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.safetensors", whole=torch.randn(100, 4))
    with open_artifact(path) as artifact:
        rows, sizes, real = artifact.rows("state.whole"), [], os.preadv

        def noted(descriptor, buffers, position):
            sizes.append(len(buffers[0]))
            return real(descriptor, [buffers[0][:20]], position)  # as a signal would cut it

        monkeypatch.setattr(os, "preadv", noted)
        found = rows[torch.tensor([7, 8, 9, 50])]
        monkeypatch.undo()
        assert torch.equal(found, artifact.tensor("state.whole")[[7, 8, 9, 50]])
    assert sizes == [48, 28, 8, 16]


def test_rows_come_from_the_file_that_was_verified(tmp_path):
    path = saved(tmp_path / "a.safetensors", whole=torch.zeros(2, 2))
    with open_artifact(path) as artifact:
        saved(path, whole=torch.ones(2, 2))
        assert not artifact.rows("state.whole")[torch.tensor([0, 1])].any()


def test_a_missing_tensor_a_shortened_file_and_nan_are_named(tmp_path):
    path = saved(tmp_path / "a.safetensors", whole=torch.zeros(2, 2))
    with open_artifact(path) as artifact:
        with pytest.raises(ArtifactError) as caught:
            artifact.rows("state.other")
        assert str(caught.value) == f"{path}: has no tensor state.other"
        rows, size = artifact.rows("state.whole"), path.stat().st_size
        with path.open("r+b") as file:
            file.seek(size - 4)
            file.write(b"\xff\xff\xff\x7f")
        with pytest.raises(ArtifactError) as caught:
            rows[torch.tensor([1])]
        assert str(caught.value) == f"{path}: state.whole must be finite, got NaN or infinity"
        os.truncate(path, size - 8)
        with pytest.raises(ArtifactError) as caught:
            rows[torch.tensor([1])]
        assert str(caught.value) == f"{path}: cannot be read: it has become shorter"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(dtype, value):
    for position in (0, 50, 99):
        tensor = torch.linspace(-1, 1, 100).to(dtype).reshape(10, 10)
        assert is_finite(tensor)
        tensor.view(-1)[position] = value
        assert not is_finite(tensor)


def test_no_values_and_whole_numbers_are_finite():
    assert is_finite(torch.zeros(0, 3))
    assert is_finite(torch.tensor([2**62]))
