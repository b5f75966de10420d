"""Which figures are drawn from which diagnosis, and what they show."""

import json
import shutil
import struct

import pytest
import torch
from matplotlib.figure import Figure

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import save
from ltcli.cli.main import run
from ltcli.models import embeddings
from ltcli.report import charts, figures
from ltcli.stages.diagnosis_tables import read
from ltcli.stats.confusion import top_confusing

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
    monkeypatch.setattr(figures, "tsne", nothing)
    alone.mkdir()
    shutil.copy(folder / "diagnose.safetensors", alone)
    assert ltcli("plot", "-d", alone, "--dpi", 40).code == 0
    for path in paths:
        if "tsne" not in path.name:
            assert (alone / path.name).read_bytes() == path.read_bytes()


def test_a_folder_gives_the_figures_of_its_diagnoses_and_those_of_missing_inputs_are_left_out(
    ltcli, copy, monkeypatch
):
    monkeypatch.setattr(figures, "tsne", nothing)
    assert ltcli("diagnose", "-q", "-d", copy).code == 0
    done = ltcli("plot", "-d", copy, "--json", "--dpi", 40)
    names = ("spectrum", "classes", "tsne", "neighbours", "donors")
    expected = [str(copy / f"diagnose-{name}.png") for name in names]
    assert json.loads(done.out) == {"figures": expected}


def nothing(figure, found):
    """Take the place of t-SNE, which takes the time of all others."""


def drawn(draw, folder, names=()):
    """Draw a figure of a diagnosis, its first classes under other names."""
    found = read(read_header(folder / "diagnose.safetensors"))
    found = figures.replace(found, names=[*names, *found.names[len(names) :]])
    with charts._look() as figure:
        draw(figure, found)
        figure.draw_without_rendering()
    return figure, found


def test_classes_stand_in_order_of_size_and_are_named(folder):
    figure, found = drawn(figures.confusion, folder)
    counts = [found.counts[c] for c in found.order]
    assert counts == sorted(counts, reverse=True)
    axes = figure.subfigs[0].axes[0]
    assert axes.get_title() == "before: cross-entropy"
    names = [found.names[c] for c in found.order]
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    first = axes.collections[0].get_array()[0, 0]
    c = found.order[0]
    assert first == pytest.approx(100 * float(found.tensors["confusion.before"][c, c]))


def test_class_names_are_shown_as_they_are(folder):
    names = [r"$\bad$", "a$b", *(f"_{c}" for c in range(2, 10))]
    figure, found = drawn(figures.tsne, folder, names)
    words = [label.get_text() for label in figure.legends[0].get_texts()]
    assert all(f"real, {found.names[c]}" in words for c in found.smallest)
    figure, found = drawn(figures.covariances, folder, names)
    labels = figure.axes[-1].get_xticklabels()
    counts = found.counts
    assert {label.get_text() for label in labels} >= {
        rf"$\bad$ ({counts[0]})",
        f"a$b ({counts[1]})",
    }
    assert not any(label.get_parse_math() for label in labels)


def test_a_figure_is_replaced_as_a_whole_or_not_at_all(ltcli, folder, tmp_path, monkeypatch):
    def stopped(self, file, **_options):
        file.write(b"half")
        raise RuntimeError("stopped")

    monkeypatch.setattr(Figure, "savefig", stopped)
    old = tmp_path / "diagnose-spectrum.png"
    old.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stopped"):
        ltcli("plot", "-d", folder, "--out", tmp_path)
    assert old.read_bytes() == b"old"


def test_report_and_plot_draw_confusion_by_one_function(ltcli, folder, tmp_path, monkeypatch):
    calls = []
    original = charts.confusion

    def counted(*args, **options):
        calls.append(options)
        return original(*args, **options)

    monkeypatch.setattr(charts, "confusion", counted)
    monkeypatch.setattr(figures, "tsne", nothing)
    assert ltcli("plot", "-d", folder, "--out", tmp_path, "--dpi", 40).code == 0
    # Before, after and their difference.
    assert calls == [{"change": False}, {"change": False}, {"change": True}]
    assert ltcli("report", "-d", folder, "--out", tmp_path / "page.html").code == 0
    # Two rows.
    assert calls[3:] == [{}, {}]


def test_a_hundred_classes_can_be_drawn(ltcli, tmp_path, rng, monkeypatch):
    monkeypatch.setattr(figures, "tsne", nothing)
    counts = [20 - c // 6 for c in range(100)]
    labels = torch.arange(100).repeat_interleave(torch.tensor(counts))
    tensors = {}
    for part in ("train", "val", "test"):
        features = torch.randn(len(labels), 8, generator=rng) + labels.unsqueeze(1) / 10
        tensors |= {f"{part}.features": features, f"{part}.labels": labels}
        if part != "train":
            tensors[f"{part}.logits"] = torch.zeros(len(labels), 100)
    info = {"class_names": [f"class {c}" for c in range(100)], "class_counts": counts}
    info |= {"split": "0", "model": "0", "backbone": vars(embeddings.backbone(8))}
    bank = tmp_path / "dump-features.safetensors"
    facts = {"stage": "dump-features", "parameters": {}, "inputs": {}, "info": info}
    save(bank, "features", tensors, **facts)
    scores = torch.randn(100, 100, generator=rng).softmax(1)
    confusion = {"graph": scores, "scores": scores, "top": top_confusing(scores, 3)}
    graph = tmp_path / "confusion.safetensors"
    save(graph, "confusion", confusion, **facts)
    done = ltcli("diagnose", "-q", "--confusion", graph, "--smallest", 8, "-d", tmp_path)
    assert "(the 10 smallest of" in done.out
    done = ltcli("plot", "-d", tmp_path, "--dpi", 40)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 5
