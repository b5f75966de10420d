"""Artifacts with a right digest and one false value each, read by every stage that reads them.

The false values come from the schemas: for every key of the metadata, for every number of it, for
every tensor with a range, for the parameters, and for the position of a checkpoint.
"""

import copy
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ltcli.artifacts import store
from ltcli.artifacts.header import Header, read_header
from ltcli.artifacts.kinds import BY_ENDING, KINDS, Values
from ltcli.artifacts.schema import check_schema
from ltcli.artifacts.store import open_artifact, save
from ltcli.cli.main import run
from ltcli.core.errors import ArtifactError

SECONDS = 10
KNOWN = {0, 2, 3, 4, 5, 6}
# Every JSON type, and numbers beyond any range.
FALSE = [None, True, -1, 0.5, 2**60, -(2**60), 1e300, "", "x", "\x1b[2J", [], [None], {}, {"a": 1}]
TRAINING = ["--epochs", "1", "--batch-size", "128"]
# Words of a command line that reads a kind, but for -d and --out; FILE is the forged file.
READERS = {
    "split": [
        ["pretrain", "--backbone", "resnet20", *TRAINING, "--split", "FILE"],
        ["dump-features", "--other-split", "--split", "FILE"],
    ],
    "model": [
        ["adjust", "--tau", "1", "--model", "FILE"],
        ["evaluate", "--model", "FILE"],
        ["dump-features", "--maps", "--from-epoch", "2", "--model", "FILE"],
        ["finetune", "--method", "crt", "--data", "images", *TRAINING, "--model", "FILE"],
        ["predict", "image.png", "--model", "FILE"],
    ],
    "features": [
        ["covariances", "--features", "FILE"],
        ["confusion", "--features", "FILE"],
        ["stg-train", *TRAINING, "--features", "FILE"],
        ["adjust", "--tau", "auto", "--features", "FILE"],
        ["diagnose", "--features", "FILE"],
        ["finetune", "--method", "crt", *TRAINING, "--features", "FILE"],
    ],
    "covariances": [
        ["finetune", "--method", "risda", *TRAINING, "--covariances", "FILE"],
        ["merge-covariances", "--covariances", "FILE", "--other", "other.safetensors"],
    ],
    "confusion": [
        ["finetune", "--method", "feature-fusion", *TRAINING, "--confusion", "FILE"],
        ["diagnose", "--confusion", "FILE"],
    ],
    "generator": [
        ["finetune", "--method", "stg", *TRAINING, "--generator", "FILE"],
        ["diagnose", "--generator", "FILE"],
    ],
    "predictions": [["compare", "FILE"], ["diagnose", "--before", "FILE"]],
    "diagnosis": [["plot", "FILE"]],
    "checkpoint": [["pretrain", "--backbone", "resnet20", "--epochs", "3"]],
}


@dataclass(frozen=True)
class Lie:
    """One false value.

    Attributes:
        place: Where it stands, for people.
        refused: Whether the schema calls it false, so that every reader must refuse it.
    """

    place: str
    info: dict[str, Any]
    parameters: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    refused: bool


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths to every value within a value, itself first."""
    yield path
    inside = dict(enumerate(value)) if isinstance(value, list) else value
    for key, one in inside.items() if isinstance(inside, dict) else ():
        yield from leaves(one, (*path, key))


def exchanged(value: Any, path: tuple, by: Any) -> Any:
    """A value with another one at a path."""
    if not path:
        return by
    value = copy.copy(value)
    value[path[0]] = exchanged(value[path[0]], path[1:], by)
    return value


def is_false(header: Header, info: dict[str, Any]) -> bool:
    try:
        check_schema("x", KINDS[header.kind], header.tensors, json.loads(json.dumps(info)))
    except ArtifactError:
        return True
    return False


def false_numbers(values: Values, sizes: dict[str, int], tensor: torch.Tensor) -> list[int]:
    """Numbers that no place of a tensor may hold."""
    numbers = [] if values.least is None else [int(values.least) - 1, -(2**31)]
    most = sizes[values.below] - 1 if values.below else values.most
    if most is not None:
        numbers += [int(most) + 1, 2**31]
    if tensor.dtype == torch.uint8 or tensor.dim() == 0:
        return []
    return numbers


def lies(path: Path, draw: random.Random) -> Iterator[Lie]:
    """Lies about one artifact without end, drawn from its schema."""
    with open_artifact(path) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    kind = KINDS[header.kind]
    sizes = check_schema(path, kind, header.tensors, header.info)
    ranges = {spec.name: spec.values for spec in kind.tensors if spec.name in tensors}
    for name in tensors:
        for ending, values in BY_ENDING.items():
            if name.endswith(ending):
                ranges[name] = values
    ranged = [n for n in ranges if false_numbers(ranges[n], sizes, tensors[n]) and len(tensors[n])]
    while True:
        what = draw.choice(["info"] * 3 + ["tensor"] * 2 + ["parameter"])
        if what == "info":
            key = draw.choice([*header.info])
            # Long lists would take nearly every draw.
            inner = draw.choice([(), draw.choice([*leaves(header.info[key])])])
            by = draw.choice(FALSE)
            info = header.info | {key: exchanged(header.info[key], inner, by)}
            if info != header.info:
                place = f"info {key} {list(inner)} {by!r}"
                yield Lie(place, info, header.parameters, tensors, is_false(header, info))
        elif what == "parameter" and header.parameters:
            key, by = draw.choice([*header.parameters]), draw.choice(FALSE)
            parameters = header.parameters | {key: by}
            yield Lie(f"parameter {key} {by!r}", header.info, parameters, tensors, False)
        elif ranged:
            name = draw.choice(ranged)
            by = draw.choice(false_numbers(ranges[name], sizes, tensors[name]))
            changed = tensors[name].clone()
            at = changed.diagonal(dim1=-2, dim2=-1) if ranges[name].diagonal else changed
            at[tuple(draw.randrange(size) for size in at.shape)] = by
            place = f"tensor {name} {by}"
            yield Lie(place, header.info, header.parameters, tensors | {name: changed}, True)


@pytest.fixture(scope="module")
def told(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny chain with an artifact of every kind, and a second one of some."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("told") / "chain"
    shutil.copytree(chain, folder)
    common = ["-q", "-d", str(folder)]
    model = ["pretrain", "--backbone", "resnet20", "--epochs", "2", "--snapshots", "1", "--force"]
    assert run([*model, *common]) == 0
    for words in (["dump-features"], ["covariances"], ["confusion"], ["evaluate"]):
        assert run([*words, "--force", *common]) == 0
    assert run(["stg-train", "--epochs", "1", "--force", *common]) == 0
    generator, before = folder / "stg-train.safetensors", folder / "evaluate-pretrain.safetensors"
    more = ["--generator", str(generator), "--before", str(before)]
    assert run(["diagnose", *more, *common]) == 0
    Image.new("RGB", (9, 9)).save(folder / "image.png")
    with open_artifact(folder / "covariances.safetensors") as artifact:
        header, tensors = artifact.header, artifact.load("*")
    info = header.info | {"split": "other"}
    save(folder / "other.safetensors", header.kind, tensors, **rest(header), info=info)
    stop(folder)
    return folder


def rest(header: Header) -> dict[str, Any]:
    return {"stage": header.stage, "parameters": header.parameters, "inputs": header.inputs}


def stop(folder: Path) -> None:
    """Leave a checkpoint of three epochs, at the second, as a stopped run does."""
    from ltcli.engine import fit

    patched = pytest.MonkeyPatch()
    saved = fit._save

    def save_and_stop(*args: Any) -> None:
        saved(*args)
        raise KeyboardInterrupt

    patched.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    patched.setattr(fit, "_save", save_and_stop)
    words = READERS["checkpoint"][0]
    code = run([*words, "-q", "-d", str(folder), "--out", str(folder / "checkpoint.safetensors")])
    patched.undo()
    assert code == 130


FILES = {
    "split": "split",
    "model": "pretrain",
    "features": "dump-features",
    "covariances": "covariances",
    "confusion": "confusion",
    "generator": "stg-train",
    "predictions": "evaluate-pretrain",
    "diagnosis": "diagnose",
    "checkpoint": "checkpoint.resume",
}


def try_lie(folder: Path, work: Path, kind: str, lie: Lie, draw: random.Random) -> tuple[int, str]:
    """Forge a file, let a stage read it; return its exit code and the words of the command."""
    header = read_header(folder / f"{FILES[kind]}.safetensors")
    file, out = work / "forged.safetensors", work / "out.safetensors"
    if kind == "checkpoint":
        file = out.with_suffix(".resume.safetensors")
    out.unlink(missing_ok=True)
    patched = pytest.MonkeyPatch()
    patched.setattr(store, "check_schema", lambda *_: {})
    made = rest(header) | {"parameters": lie.parameters}
    save(file, kind, lie.tensors, **made, info=lie.info)
    patched.undo()
    names = {"FILE": str(file)} | {n: str(folder / n) for n in ("image.png", "other.safetensors")}
    words = [names.get(word, word) for word in draw.choice(READERS[kind])]
    common = ["-q", "-d", str(folder)]
    if words[0] in ("compare", "predict", "plot"):
        common = []
    if words[0] == "plot":
        common = ["--out", str(work)]
    elif common:
        common += ["--out", str(out)]
    began = time.process_time()
    code = run([*words, *common])
    assert time.process_time() - began < SECONDS
    # What a reader does not load it need not refuse; whoever loads it does.
    if kind == "checkpoint":
        # A file that is no checkpoint is left out; one of another place in the run is an error.
        assert code == 3 if is_elsewhere(lie.info["position"]) else code in (0, 3)
    elif lie.refused and code != 3:
        with pytest.raises(ArtifactError), open_artifact(file) as artifact:
            artifact.load("*")
    if lie.refused and kind != "checkpoint" and not lie.place.startswith("tensor"):
        assert code == 3, words
    assert code in KNOWN
    return code, " ".join(words)


def is_elsewhere(position: Any) -> bool:
    """Whether a position is one, and lies outside of a run of three epochs of four steps."""
    if not isinstance(position, dict):
        return False
    epoch, step = position.get("epoch"), position.get("step")
    return type(epoch) is not int or type(step) is not int or not (0 <= epoch < 3 and 0 <= step < 5)


def attack(folder: Path, work: Path, per_kind: Callable[[str], int], seed: int) -> Counter[str]:
    """Number of lies by exit code; those that the schema calls false apart."""
    found: Counter[str] = Counter()
    failed = []
    for kind, name in FILES.items():
        draw = random.Random(f"{seed} {kind}")
        told_of = lies(folder / f"{name}.safetensors", draw)
        for _ in range(per_kind(kind)):
            lie = next(told_of)
            try:
                code, _ = try_lie(folder, work, kind, lie, draw)
            except Exception as error:
                failed.append(f"{kind}: {lie.place}: {error!r:.300}")
                continue
            found[f"{'false' if lie.refused else 'odd'} {code}"] += 1
    assert not failed, "\n".join(failed)
    return found


def test_a_forged_artifact_is_refused_or_read_without_a_traceback(told, tmp_path):
    found = attack(told, tmp_path, lambda _kind: 3, 0)
    assert sum(found.values()) == 3 * len(FILES)
    assert found["false 3"] > 10


@pytest.mark.slow
def test_two_thousand_forged_artifacts_are_refused_or_read_without_a_traceback(told, tmp_path):
    # Kinds that many stages read, in many fields, have more.
    weights = {"split": 300, "model": 400, "features": 300, "diagnosis": 100, "checkpoint": 100}
    found = attack(told, tmp_path, lambda kind: weights.get(kind, 200), 1)
    assert sum(found.values()) == 2000
    assert found["false 3"] > 1000
