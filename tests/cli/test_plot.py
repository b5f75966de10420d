"""plot: which figures are drawn from which diagnosis, and what is refused."""

import json
import shutil
import struct
from importlib.util import find_spec

import pytest
import torch

from ltcli.artifacts.store import open_artifact, save
from ltcli.cli import plot as command
from ltcli.cli.main import run
from ltcli.stats.confusion import top_confusing

pytest.importorskip("matplotlib")

EVERY = ["spectrum", "classes", "confusion", "tsne", "neighbours", "divergences", "donors"]


@pytest.fixture(scope="module")
def folder(chain, tmp_path_factory):
    """The tiny chain with a diagnosis of nearly everything."""
    target = tmp_path_factory.mktemp("plot") / "chain"
    shutil.copytree(chain, target)
    files = {
        "confusion": "confusion",
        "generator": "stg-train",
        "oracle": "dump-features",
        "before": "evaluate-pretrain",
        "after": "evaluate-finetune-crt",
        "split": "split",
    }
    named = [
        w for role, stem in files.items() for w in (f"--{role}", f"{target}/{stem}.safetensors")
    ]
    few = ["--samples", "8", "--smallest", "2", "--neighbours", "2", "--pictures", "1"]
    assert run(["diagnose", "-q", *few, *named, "-d", str(target)]) == 0
    return target


def size_of(path):
    """Return width and height of a PNG file."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


@pytest.mark.slow
def test_every_figure_is_drawn_from_the_artifact_alone_and_the_same_again(
    ltcli, folder, tmp_path, monkeypatch
):
    out, alone = tmp_path / "new" / "figures", tmp_path / "alone"
    done = ltcli("plot", folder / "diagnose.safetensors", "--out", out, "--dpi", 40)
    assert (done.code, done.err) == (0, "")
    paths = [out / f"diagnose-{name}.png" for name in (*EVERY, "pictures")]
    assert done.out.splitlines() == list(map(str, paths))
    assert sorted(out.iterdir()) == sorted(paths)
    for path in paths:
        assert min(size_of(path)) > 80
    # Without --out they lie beside the artifact, here the only file of its folder.
    monkeypatch.setattr("ltcli.cli.figures_samples.tsne", lambda _facts: NoFigure())
    alone.mkdir()
    shutil.copy(folder / "diagnose.safetensors", alone)
    assert ltcli("plot", alone, "--dpi", 40).code == 0
    for path in paths:
        if "tsne" not in path.name:
            assert (alone / path.name).read_bytes() == path.read_bytes()


def test_a_folder_gives_the_figures_of_its_diagnoses_and_those_of_missing_inputs_are_left_out(
    ltcli, copy, monkeypatch
):
    # t-SNE takes the time of all others.
    monkeypatch.setattr("ltcli.cli.figures_samples.tsne", lambda _facts: NoFigure())
    assert ltcli("diagnose", "-q", "-d", copy).code == 0
    done = ltcli("plot", copy, "--json", "--dpi", 40)
    names = ("spectrum", "classes", "tsne", "neighbours", "donors")
    expected = [str(copy / f"diagnose-{name}.png") for name in names]
    assert json.loads(done.out) == {"figures": expected}


class NoFigure:
    def savefig(self, file, format, dpi, bbox_inches):
        file.write(b"")


def drawn(path, names=()):
    """Return what a diagnosis is drawn from, its first classes under other names."""
    with open_artifact(path) as artifact:
        tensors = {name: tensor.numpy() for name, tensor in artifact.load("*").items()}
    info = artifact.header.info
    info = info | {"class_names": [*names, *info["class_names"][len(names) :]]}
    return command._facts(tensors, info)


def test_classes_stand_in_order_of_size_and_are_named(folder):
    from ltcli.cli import figures_classes

    facts = drawn(folder / "diagnose.safetensors")
    counts = [facts.counts[c] for c in facts.order]
    assert counts == sorted(counts, reverse=True)
    axes = figures_classes.confusion(facts).axes[0]
    names = [facts.names[c] for c in facts.order]
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    first = axes.images[0].get_array()[0, 0]
    c = facts.order[0]
    assert first == pytest.approx(100 * facts.tensors["confusion.before"][c, c])


def test_class_names_are_shown_as_they_are(folder):
    from ltcli.cli import figures_classes, figures_samples

    names = [r"$\bad$", "a$b", *(f"_{c}" for c in range(2, 10))]
    facts = drawn(folder / "diagnose.safetensors", names)
    legend = figures_samples.tsne(facts).legends[0]
    shown = [label.get_text() for label in legend.get_texts()]
    assert all(f"real, {facts.names[c]}" in shown for c in facts.smallest)
    figure = figures_classes.classes(facts)
    figure.draw_without_rendering()
    labels = figure.axes[-1].get_xticklabels()
    assert len(labels) == len(facts.names)
    # What Matplotlib takes for text, not for mathematics, and what is left of it then.
    found = {label._preprocess_math(label.get_text()) for label in labels}
    counts = facts.counts
    assert {(rf"$\bad$ ({counts[0]})", False), (f"a$b ({counts[1]})", False)} <= found


def test_a_figure_is_replaced_as_a_whole_or_not_at_all(ltcli, folder, tmp_path, monkeypatch):
    class Broken:
        def savefig(self, file, **_options):
            file.write(b"half")
            raise RuntimeError("stopped")

    monkeypatch.setattr("ltcli.cli.figures_classes.spectra", lambda _facts: Broken())
    old = tmp_path / "diagnose-spectrum.png"
    old.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stopped"):
        ltcli("plot", folder, "--out", tmp_path)
    assert old.read_bytes() == b"old"


def test_many_classes_are_not_all_named(folder):
    from ltcli.cli.figure_parts import Facts, name_axis, new_figure

    axes = new_figure(4, 3, "x").subplots()
    names = [f"c{i}" for i in range(100)]
    facts = Facts({}, {}, names, [1] * 100, range(100), 50)
    name_axis(axes, facts, range(100), "x", "class")
    assert [label.get_text() for label in axes.get_xticklabels()] == names[::5]
    assert axes.get_xlabel() == "class; each 5th is named"


def test_a_hundred_classes_can_be_drawn(ltcli, tmp_path, rng, monkeypatch):
    monkeypatch.setattr("ltcli.cli.figures_samples.tsne", lambda _facts: NoFigure())
    counts = [20 - c // 6 for c in range(100)]
    labels = torch.arange(100).repeat_interleave(torch.tensor(counts))
    tensors = {}
    for part in ("train", "val", "test"):
        features = torch.randn(len(labels), 8, generator=rng) + labels.unsqueeze(1) / 10
        tensors |= {f"{part}.features": features, f"{part}.labels": labels}
        if part != "train":
            tensors[f"{part}.logits"] = torch.zeros(len(labels), 100)
    info = {"class_names": [f"class {c}" for c in range(100)], "class_counts": counts}
    info |= {"split": "0", "model": "0", "backbone": "none"}
    bank = tmp_path / "dump-features.safetensors"
    facts = {"stage": "dump-features", "parameters": {}, "inputs": {}, "info": info}
    save(bank, "features", tensors, **facts)
    scores = torch.randn(100, 100, generator=rng).softmax(1)
    confusion = {"graph": scores, "scores": scores, "top": top_confusing(scores, 3)}
    graph = tmp_path / "confusion.safetensors"
    save(graph, "confusion", confusion, **facts)
    done = ltcli("diagnose", "-q", "--confusion", graph, "--smallest", 8, "-d", tmp_path)
    assert "(the 10 smallest of" in done.out
    done = ltcli("plot", tmp_path, "--dpi", 40)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 5


# What is refused.


def test_another_kind_is_refused(ltcli, chain):
    done = ltcli("plot", chain / "split.safetensors")
    assert done.code == 3
    assert done.lines == [
        f"error: {chain}/split.safetensors: must be of kind diagnosis, got split",
        "hint: run ltcli diagnose first",
    ]


def test_a_folder_without_a_diagnosis_is_an_error(ltcli, tmp_path):
    done = ltcli("plot", tmp_path)
    assert done.code == 3
    assert done.lines == [
        f"error: {tmp_path}: has no diagnosis",
        "hint: run ltcli diagnose first",
    ]


@pytest.mark.parametrize("dpi", [19, 1201])
def test_dots_must_be_in_range(ltcli, chain, dpi):
    done = ltcli("plot", chain, "--dpi", dpi)
    assert done.code == 2
    assert done.lines == [f"error: plot: dpi must be from 20 to 1200, got {dpi}"]


@pytest.mark.parametrize(
    ("module", "package"), [("matplotlib", "matplotlib"), ("sklearn", "scikit-learn")]
)
def test_a_missing_extra_is_named_with_its_remedy(ltcli, folder, monkeypatch, module, package):
    monkeypatch.setattr(command, "find_spec", lambda n: None if n == module else find_spec(n))
    done = ltcli("plot", folder)
    assert done.code == 6
    assert done.lines == [
        f"error: plot: figures need {package}, which is not installed",
        "hint: pip install 'ltcli[plots]'",
    ]


def test_a_folder_that_cannot_be_written_is_named(ltcli, folder, tmp_path):
    (tmp_path / "file").touch()
    done = ltcli("plot", folder, "--out", tmp_path / "file")
    assert done.code == 6
    assert done.lines == [
        f"error: {tmp_path}/file: cannot be written: file exists",
        "hint: choose another --out",
    ]
