"""The page of a folder: whole, safe, the same again, and never over other files."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict
from html.parser import HTMLParser

import torch

from ltcli import __version__
from ltcli.artifacts.store import save
from ltcli.models import small_images
from ltcli.report.page import MARK

SECTIONS = ["comparison", "classes", "reliability", "confusion", "curves", "lineage", "environment"]
VOID = ("meta",)


class Page(HTMLParser):
    """Checks that every element is closed, and collects elements, text and tables by label."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words, self.tables = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows = self.tables.setdefault(dict(attrs)["aria-label"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        data = data.replace("\n", " ")
        self.words.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def predictions(path, names, counts, logits, labels, *, stage="pretrain", epochs=2):
    """Write predictions of a model that is not there."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
    info = {"class_names": names, "class_counts": counts, "split": "0", "model": digest}
    info |= {"on": "test", "images": "0", "method": "x", "stage": stage}
    trained = {"method": "cross-entropy", "backbone": "resnet20", "epochs": epochs}
    trained |= {"padding": 4, "flip": True, "mixup": 0.0}
    source = {"source": "folder", "profile": "natural", "imbalance_factor": 100.0}
    info["recipe"] = [["split", source], ["pretrain", trained]]
    info |= {"network_parameters": 5, "held_out": 0}
    info |= {"backbone": asdict(small_images.backbone("resnet20"))}
    facts = {"stage": "evaluate", "parameters": {"on": "test"}, "inputs": {"model": digest}}
    save(path, "predictions", {"logits": logits, "labels": labels}, **facts, info=info)
    return digest


def test_the_page_of_a_folder_is_whole_and_the_same_again(ltcli, copy, tmp_path):
    out = tmp_path / "new" / "page.html"
    done = ltcli("report", "-d", copy, "--out", out)
    assert (done.code, done.out, done.err) == (0, f"{out}\n", "")
    text = out.read_text()
    assert text.startswith(MARK)
    page = Page(text)
    assert [attributes["id"] for attributes in page.all("h2")] == SECTIONS
    assert [attributes["href"] for attributes in page.all("a")] == [f"#{s}" for s in SECTIONS]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    # Two rows: one drawing of all, three of each, and curves of the two that were trained.
    drawn = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(drawn) == 1 + 2 * 3 + 2
    assert all(svg["aria-label"] for svg in drawn)
    other = tmp_path / "other" / "chain"
    shutil.copytree(copy, other)
    assert ltcli("report", "-d", other, "--json").out == f'{{"report": "{other}/report.html"}}\n'
    assert (other / "report.html").read_text() == text


def test_the_table_is_that_of_compare(ltcli, chain, tmp_path):
    out = tmp_path / "page.html"
    assert ltcli("report", "-d", chain, "--out", out).code == 0
    words = Page(out.read_text()).words
    lines = ltcli("compare", "--markdown", "-d", chain).out.splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 3
    for line in table:
        for cell in line.strip("| ").split(" | "):
            assert not cell.strip() or cell in words
    notes = ltcli("compare", "-d", chain).out.splitlines()[3:]
    assert len(notes) > 2
    assert set(notes) <= set(words)


def test_rows_of_another_league_have_a_table_of_their_own(ltcli, tmp_path):
    labels, names = torch.tensor([0, 1, 1]), ["a", "b"]
    logits = torch.eye(2)[labels]
    predictions(tmp_path / "evaluate-a.safetensors", names, [3, 1], logits, labels)
    predictions(tmp_path / "evaluate-b.safetensors", names, [3, 1], logits, labels, epochs=3)
    assert ltcli("report", "-d", tmp_path).code == 0
    page = Page((tmp_path / "report.html").read_text())
    assert "2 epochs" in page.words
    assert "3 epochs; not like for like with the first row" in page.words


def test_rows_of_several_splits_are_each_shown_by_their_own_counts(ltcli, tmp_path):
    labels, names = torch.tensor([0, 1, 1]), ["a", "b"]
    logits = torch.eye(2)[labels]
    predictions(tmp_path / "evaluate-a.safetensors", names, [7, 4], logits, labels)
    one, both = tmp_path / "one.html", tmp_path / "both.html"
    assert ltcli("report", "-d", tmp_path, "--out", one).code == 0
    predictions(tmp_path / "evaluate-b.safetensors", names, [9, 2], logits, labels, epochs=3)
    assert ltcli("report", "-d", tmp_path, "--out", both).code == 0
    alone, words = Page(one.read_text()).words, Page(both.read_text()).words
    # Each class has the accuracy of each row, with the training images of the row's own split.
    assert Page(both.read_text()).tables["Accuracy of each class"][1:] == [
        ["a", "7", "1", "100.0 (7)", "100.0 (9)"],
        ["b", "4", "2", "100.0 (4)", "100.0 (2)"],
    ]
    assert Page(one.read_text()).tables["Accuracy of each class"][1] == ["a", "7", "1", "100.0"]
    assert "training images" in alone
    assert "training images of a" in words
    assert any("with 11 training images, 7 in the largest" in word for word in alone)
    assert any("with 11 training images of a, 7 in the largest" in word for word in words)
    assert any("most training images of a comes first" in word for word in words)


def test_the_groups_are_those_asked_for(ltcli, chain, tmp_path):
    out, bounds = tmp_path / "page.html", ["--many-above", 50, "--few-below", 15]
    assert ltcli("report", "-d", chain, "--out", out, *bounds).code == 0
    text = out.read_text()
    first = ltcli("compare", "--markdown", *bounds, "-d", chain).out.splitlines()[2]
    cells = first.strip("| ").split(" | ")[1:8]
    assert "".join(f"<td>{cell}</td>" for cell in cells) in text
    # Of 88 to 9 images, both bounds lie within; two rows.
    dotted = re.findall(r'stroke-dasharray: 1,1\.65; [^"]*stroke: var\(--reference\)', text)
    assert len(dotted) == 4


def test_nothing_is_loaded_and_nothing_runs(ltcli, chain, tmp_path):
    out = tmp_path / "page.html"
    assert ltcli("report", "-d", chain, "--out", out).code == 0
    page = Page(out.read_text())
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "base"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name in ("src", "srcset", "action")]
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    policy = {"http-equiv": "Content-Security-Policy"}
    (found,) = [meta for meta in page.all("meta") if policy.items() <= meta.items()]
    assert found["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    # Charts clip their lines by elements of the page itself.
    assert "url(" not in out.read_text().replace("url(#", "")
    assert "@import" not in out.read_text()


def test_lineage_environment_and_curves_are_told(ltcli, copy):
    (copy / "stg-train.run.jsonl").unlink(missing_ok=True)
    (copy / "finetune-crt.run.jsonl").unlink()
    assert ltcli("report", "-d", copy).code == 0
    text = (copy / "report.html").read_text()
    words = " ".join(Page(text).words)
    for stem in ("split", "pretrain", "dump-features", "finetune-crt", "evaluate-finetune-crt"):
        digest = json.loads(ltcli("show", "--json", copy / f"{stem}.safetensors").out)["digest"]
        assert digest[:12] in words
        assert digest[:13] not in words
    # What is no ancestor is no part of it.
    assert "stg-train" not in words
    assert "features: dump-features" in words
    assert "backbone resnet20" in words
    assert "Left out (no sidecar): finetune-crt." in words
    assert "Not known: finetune-crt (no sidecar)." in words
    assert f"torch {torch.__version__.split('+')[0]}" in words
    assert f"Made by ltcli {__version__}." in words
    assert str(copy) not in text


def test_an_ancestor_that_is_not_there_is_named(ltcli, copy):
    digest = json.loads(ltcli("show", "--json", copy / "split.safetensors").out)["digest"]
    (copy / "split.safetensors").unlink()
    assert ltcli("report", "-d", copy).code == 0
    words = Page((copy / "report.html").read_text()).words
    assert "split: not in this folder, " in words
    assert digest[:12] in words


HOSTILE = "<script>alert(1)</script>\"'&<b"


def test_hostile_names_stay_text(ltcli, tmp_path, rng):
    folder = tmp_path / "<script>x"
    folder.mkdir()
    names = [HOSTILE, "\x00\u202e</svg>", "</style><img src=x onerror=alert(1)>"]
    labels = torch.arange(3).repeat(5)
    name = "evaluate-<img src=x onerror='alert(1)'>&\".safetensors"
    digest = predictions(folder / name, names, [5, 3, 1], torch.randn(15, 3, generator=rng), labels)
    end = {"event": "end", "digest": ltcli_digest(folder / name)}
    start = {"event": "start", "device": HOSTILE, "processor": HOSTILE, "python": HOSTILE}
    sidecar = (folder / name).with_suffix(".run.jsonl")
    sidecar.write_text(f"{json.dumps(start)}\n{json.dumps(end)}\n")
    assert ltcli("report", "-d", folder).code == 0
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert {"script", "img", "b"}.isdisjoint(name for name, _ in page.elements)
    assert not re.search(r"<(script|img|/svg>\s*<img)", text)
    assert HOSTILE in page.words
    assert r"\u0000\u202e</svg>" in page.words
    assert digest[:12] in page.words


def ltcli_digest(path):
    from ltcli.artifacts.header import read_header

    return read_header(path).digest


def test_file_names_that_are_no_text_can_be_shown(ltcli, tmp_path):
    path = tmp_path / "evaluate-\udcff.safetensors"
    predictions(path, ["a", "b"], [2, 1], torch.eye(2), torch.arange(2))
    assert ltcli("report", "-d", tmp_path).code == 0
    assert r"evaluate-\udcff" in Page((tmp_path / "report.html").read_text()).words


def test_many_classes_are_listed_by_pairs(ltcli, tmp_path, rng):
    names = [f"class {c}" for c in range(150)]
    labels = torch.arange(150).repeat(2)
    logits = 5 * torch.eye(150)[labels] + torch.randn(300, 150, generator=rng)
    logits[0] = logits[150] = 9 * torch.eye(150)[7]
    counts = [150 - c for c in range(150)]
    predictions(tmp_path / "evaluate-a.safetensors", names, counts, logits, labels)
    assert ltcli("report", "-d", tmp_path).code == 0
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    tables = [table["aria-label"] for table in page.all("table")]
    assert "Most confused pairs of a" in tables
    assert not {"Confusion of a", "Accuracy of each class"} & set(tables)
    first = page.words.index("class 0 (150)")
    assert page.words[first + 1 : first + 4] == ["class 7", "2.0", "100.0"]


def test_classes_without_test_images_have_no_numbers(ltcli, tmp_path):
    names, counts = ["a", "b", "c"], [5, 0, 2]
    logits = torch.eye(3)[[0, 2]]
    predictions(tmp_path / "evaluate-a.safetensors", names, counts, logits, torch.tensor([0, 2]))
    assert ltcli("report", "-d", tmp_path).code == 0
    page = Page((tmp_path / "report.html").read_text())
    rows = [["a", "5", "1", "100.0"], ["c", "2", "1", "100.0"], ["b", "0", "0", "-"]]
    assert page.tables["Accuracy of each class"][1:] == rows
    assert page.tables["Confusion of a"][3] == ["b", "-", "-", "-"]


# What is refused.


def test_predictions_on_other_images_are_refused(ltcli, copy):
    names, labels = ["a", "b"], torch.arange(2)
    predictions(copy / "evaluate-x.safetensors", names, [2, 1], torch.eye(2), labels, stage="x")
    done = ltcli("report", "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {copy}/evaluate-x.safetensors: was made on other images or classes than"
        f" {copy}/evaluate-pretrain.safetensors",
        "hint: compare predictions of one test set",
    ]
    assert not (copy / "report.html").exists()


def test_an_altered_ancestor_is_named(ltcli, copy):
    path = copy / "pretrain.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = ltcli("report", "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {path}: content does not match its digest",
        "hint: make it again with --force",
    ]


def test_a_report_is_replaced_and_anything_else_is_not(ltcli, copy):
    path = copy / "report.html"
    assert ltcli("report", "-d", copy).code == 0
    text = path.read_text()
    path.write_text(f"{MARK}old")
    assert ltcli("report", "-d", copy).code == 0
    assert path.read_text() == text
    path.write_text("<!DOCTYPE html>\n<p>mine")
    done = ltcli("report", "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {path}: was not made by ltcli report",
        "hint: --force replaces it, --out writes elsewhere",
    ]
    assert path.read_text() == "<!DOCTYPE html>\n<p>mine"
    assert ltcli("report", "-d", copy, "--force").code == 0
    assert path.read_text() == text
    assert not list(copy.glob(".report.html.*.tmp"))
