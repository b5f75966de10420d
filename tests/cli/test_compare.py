"""compare: one table in four formats, seeds in one row, and refusal of what does not belong."""

import csv
import io
import json
import shutil

import numpy as np
import pytest

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save
from ltcli.core.errors import ArtifactError


@pytest.fixture
def two_seeds(copy, ltcli):
    for seed in (1, 2):
        out = copy / f"finetune-crt-{seed}.safetensors"
        args = ["finetune", "--method", "crt", "--epochs", 2, "--seed", seed, "--out", out]
        assert ltcli(*args, "-d", copy).code == 0
    assert ltcli("evaluate", "-d", copy).code == 0
    return copy


def rewritten(path, out, recipe=None, **info):
    """Save predictions as if of another model; ``recipe`` maps stages to changed parameters."""
    with open_artifact(path) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    steps = [[name, old | (recipe or {}).get(name, {})] for name, old in header.info["recipe"]]
    facts = {"parameters": header.parameters, "inputs": header.inputs}
    backbone = header.info["backbone"] | {"name": dict(steps)["pretrain"]["backbone"]}
    info = header.info | {"recipe": steps, "model": str(out), "backbone": backbone} | info
    save(out, "predictions", tensors, stage="evaluate", info=info, **facts)
    return out


def on_cifar(chain, tmp_path, **info):
    """Predictions that say they are on CIFAR-10-LT."""
    recipe = {
        "split": {"source": "cifar10", "imbalance_factor": 100.0},
        "pretrain": {"backbone": "resnet32", "epochs": 200},
    }
    source, out = chain / "evaluate-pretrain.safetensors", tmp_path / "evaluate-a.safetensors"
    return rewritten(source, out, recipe, class_counts=[4990] * 10, **info)


def test_first_row_is_the_pretrained_model_and_seeds_share_a_row(ltcli, two_seeds):
    document = json.loads(ltcli("compare", "--json", "-d", two_seeds).out)
    assert (document["level"], document["power"], document["published"]) == (0.95, 0.8, [])
    rows = document["rows"]
    assert [(row["name"], row["runs"]) for row in rows] == [("pretrain", 1), ("finetune-crt", 3)]
    assert rows[0]["difference"] is None
    low, high = rows[1]["interval"]
    assert low <= rows[1]["accuracy"] <= high


def test_of_several_pretrained_models_the_first_is_that_by_cross_entropy(ltcli, chain, tmp_path):
    source, plain = chain / "evaluate-pretrain.safetensors", "cross-entropy"
    names = {"a": "bbn", "b": plain, "c": "ldam", "d": plain, "pretrain": plain}
    found = []
    for rate, (name, method) in enumerate(names.items(), start=1):
        out = tmp_path / f"evaluate-{name}.safetensors"
        rewritten(source, out, {"pretrain": {"method": method, "lr": rate}}, method=method)
        rows = json.loads(ltcli("compare", "--json", "-d", tmp_path).out)["rows"]
        found.append([row["name"] for row in rows])
    # Of several by cross-entropy, the one of the stage's own name.
    assert found[-2:] == [["b", "d", "a", "c"], ["pretrain", "b", "d", "a", "c"]]


def test_formats_agree(ltcli, two_seeds):
    rows = json.loads(ltcli("compare", "--json", "-d", two_seeds).out)["rows"]
    table = list(csv.DictReader(io.StringIO(ltcli("compare", "--csv", "-d", two_seeds).out)))
    assert [float(row["accuracy"]) for row in table] == [row["accuracy"] for row in rows]
    assert [row["epochs"] for row in table] == ["2", "2"]
    markdown = ltcli("compare", "--markdown", "-d", two_seeds).out.splitlines()
    assert markdown[1].startswith("|---|")
    plain = ltcli("compare", "-d", two_seeds).out.splitlines()
    for line in (markdown[2], plain[1]):
        assert f"{100 * rows[0]['accuracy']:.2f}" in line
    smallest = f"{100 * rows[1]['detectable']:.2f}"
    footer = [
        "535 test images, last epoch.",
        "Difference: paired bootstrap over images, seeds by Student's t; level 95 %.",
        f"Smallest true difference found with a chance of 80 %: {smallest} points.",
        "A row of one run stands for that model: its method may vary with the seed.",
    ]
    assert plain[3:] == footer
    assert markdown[5::2] == footer


def test_the_footer_says_that_several_rows_are_judged_together(ltcli, copy):
    for method in ("ncm", "logit-adjustment"):
        assert ltcli("finetune", "--method", method, "-d", copy).code == 0
    assert ltcli("evaluate", "-d", copy).code == 0
    plain = ltcli("compare", "--level", "0.9", "--wide", "-d", copy).out.splitlines()
    assert "90 % together" in plain[0]
    note = (
        "Differences: paired bootstrap over images; 3 rows judged together (max-T): with a chance"
        " of 90 % no true tie is called better or worse."
    )
    assert plain[6] == note
    narrow = ltcli("compare", "--level", "0.9", "-d", copy).out.splitlines()
    assert " ".join(narrow[6:8]) == note
    rows = json.loads(ltcli("compare", "--level", "0.9", "--json", "-d", copy).out)["rows"]
    found = sorted(100 * row["detectable"] for row in rows[1:])
    assert plain[7] == (
        "Smallest true difference found with a chance of 80 %:"
        f" {found[0]:.2f} to {found[-1]:.2f} points."
    )


COLUMNS = ["method", "accuracy", "95 %", "many", "medium", "few", "vs first"]


def test_a_table_fits_into_80_columns_and_is_wide_if_asked(ltcli, chain, tmp_path):
    source, files = chain / "evaluate-pretrain.safetensors", []
    for i, name in enumerate(("pretrain", "a-method-" + "x" * 60, "finetune-logit-adjustment")):
        recipe = {"pretrain": {"lr": 0.1 * (i + 1)}}
        files.append(rewritten(source, tmp_path / f"evaluate-{name}.safetensors", recipe))
    lines = ltcli("compare", *files).out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == " ".join(COLUMNS).split()
    assert [line.split()[0] for line in lines[1:4]] == [
        "pretrain",
        "a-method-" + "x" * (len(lines[2].split()[0]) - 10) + "…",
        "finetune-logit-adjustment",
    ]
    assert lines[2].endswith("+0.00 tie")
    wide = ltcli("compare", "--wide", *files).out.splitlines()
    assert "a-method-" + "x" * 60 in wide[2]
    for head in ("runs", "95 % interval", "balanced", "NLL", "ECE", "95 % together"):
        assert head in wide[0]


def test_the_best_epoch_stands_where_epochs_were_kept(ltcli, copy):
    out = copy / "kept.safetensors"
    options = ("--backbone", "resnet20", "--epochs", 2, "--snapshots", 2, "--out", out)
    assert ltcli("pretrain", *options, "-d", copy).code == 0
    assert ltcli("evaluate", "-d", copy).code == 0
    for words in ((), ("--wide",), ("--markdown",)):
        text = ltcli("compare", *words, copy / "evaluate-pretrain.safetensors").out
        assert "best" not in text
    said = "best*: epoch chosen on these images, not a result."
    for words, head in (((), " best*"), (("--score", "balanced"), " best* accuracy")):
        lines = ltcli("compare", *words, "-d", copy).out.splitlines()
        assert lines[0].endswith(head)
        assert max(map(len, lines)) <= 80
        assert any(line.endswith(said) for line in lines)


def test_rows_can_be_judged_by_the_mean_over_classes(ltcli, two_seeds):
    rows = json.loads(ltcli("compare", "--json", "-d", two_seeds).out)["rows"]
    done = ltcli("compare", "--score", "balanced", "-d", two_seeds)
    lines = done.out.splitlines()
    assert lines[0].split()[:3] == ["method", "runs", "balanced"]
    assert lines[1].split()[2] == f"{100 * rows[0]['balanced']:.2f}"
    assert lines[4].startswith("Difference: balanced accuracy, paired bootstrap over images")
    other = json.loads(ltcli("compare", "--score", "balanced", "--json", "-d", two_seeds).out)
    gap = rows[1]["balanced"] - rows[0]["balanced"]
    assert other["rows"][1]["difference"] == pytest.approx(gap)


def test_where_the_mean_over_classes_is_another_number_it_is_said(ltcli, two_seeds, monkeypatch):
    assert "--score" not in ltcli("compare", "-d", two_seeds).out
    monkeypatch.setattr("ltcli.report.comparison_table._APART", 0.0)
    line = "Classes differ in test images: --score balanced counts classes the same."
    assert line in ltcli("compare", "-d", two_seeds).out.splitlines()
    assert line not in ltcli("compare", "--score", "balanced", "-d", two_seeds).out


def test_one_row_has_no_differences_to_explain(ltcli, chain):
    plain = ltcli("compare", chain / "evaluate-pretrain.safetensors").out.splitlines()
    assert len(plain) == 3


def test_rows_of_other_leagues_stand_apart_and_their_differences_are_marked(ltcli, copy):
    assert ltcli("finetune", "--method", "tau-norm", "-d", copy).code == 0
    assert ltcli("evaluate", "-d", copy).code == 0
    rewritten(
        copy / "evaluate-pretrain.safetensors",
        copy / "evaluate-long.safetensors",
        {"pretrain": {"epochs": 9}},
    )
    files = [
        copy / f"evaluate-{name}.safetensors"
        for name in ("pretrain", "finetune-tau-norm", "finetune-crt", "long")
    ]
    plain = ltcli("compare", *files).out.splitlines()
    assert [line.split()[0] for line in plain[1:8]] == [
        *("--", "pretrain", "finetune-crt", "--", "finetune-tau-norm", "--", "long")
    ]
    other = "; not like for like with the first row"
    assert plain[1] == "-- 0 extra labelled images; 2 epochs"
    assert plain[4] == f"-- 100 extra labelled images; 2 epochs{other}"
    assert plain[6] == f"-- 0 extra labelled images; 9 epochs{other}"
    rows = json.loads(ltcli("compare", "--json", *files).out)["rows"]
    assert [row["like_for_like"] for row in rows] == [True, True, False, False]
    assert rows[1]["league"] == {
        "network_parameters": 269722,
        "pretraining": "none",
        "training_images": sum(read_header(files[0]).info["class_counts"]),
        "extra_images": 0,
        "epochs": 2,
        "augmentation": ["crop", "flip"],
        "views": 1,
        "classifier_epochs": 2,
    }
    markdown = ltcli("compare", "--markdown", *files).out.splitlines()
    assert markdown[2].startswith("| *0 extra labelled images; 2 epochs* |  |")
    assert len({line.count("|") for line in markdown[:9]}) == 1


def test_published_figures_of_the_same_setting_stand_below(ltcli, chain, tmp_path):
    file = on_cifar(chain, tmp_path)
    narrow = ltcli("compare", "--published", file).out
    assert max(map(len, narrow.splitlines())) <= 80
    plain = ltcli("compare", "--published", "--wide", file)
    lines = plain.out.splitlines()
    assert plain.err == ""
    assert lines[3] == ""
    assert lines[4].split() == ["published", "accuracy", "%", "source", "note"]
    (line,) = [line for line in lines if line.startswith("MetaSAug + CE ")]
    assert line.split("  ")[-1].strip() == "best epoch on test; 10 images a class as meta set"
    assert "80.54  MetaSAug (CVPR 2021), table 1  " in line
    mixed = "best epoch on test; mixup; largest class 5,000, here 4,990"
    assert any(line.endswith(mixed) for line in lines)
    assert lines[-1].split("  ")[0] == "Remix-DRW"
    assert "81.82  imbalanced-DL, README  " in lines[-1]
    rows = list(csv.DictReader(io.StringIO(ltcli("compare", "--published", "--csv", file).out)))
    papers = json.loads(ltcli("compare", "--published", "--json", file).out)["published"]
    assert len(lines) - 5 == len(rows) - 1 == len(papers)
    assert {paper["dataset"] for paper in papers} == {"cifar10"}
    assert (rows[1]["name"], rows[1]["accuracy"], rows[1]["note"]) == (
        *("CE", "0.7014", "best epoch on test"),
    )
    markdown = ltcli("compare", "--published", "--markdown", file).out.splitlines()
    assert "| published | accuracy % | source | note |" in markdown
    assert markdown[-len(papers)].startswith("| CE | 70.14 | MetaSAug (CVPR 2021), table 1 |")


def test_without_a_published_figure_one_line_says_so(ltcli, chain):
    file = chain / "evaluate-pretrain.safetensors"
    done = ltcli("compare", "--published", file)
    assert done.code == 0
    assert done.err == (
        "compare: no published figures for digits, exp profile, imbalance factor 10, resnet20\n"
    )
    assert done.out == ltcli("compare", file).out


@pytest.mark.parametrize(
    "split", [{"imbalance_factor": 99.9}, {"profile": "step"}, {"source": "fashion-mnist"}]
)
def test_a_figure_of_almost_the_same_setting_does_not_fit(ltcli, chain, tmp_path, split):
    file = rewritten(on_cifar(chain, tmp_path), tmp_path / "b.safetensors", {"split": split})
    done = ltcli("compare", "--published", file)
    assert done.err.startswith("compare: no published figures for ")


def test_figures_beside_two_splits_and_lengths_say_what_differs_from_both(ltcli, chain, tmp_path):
    first = on_cifar(chain, tmp_path)
    second = rewritten(
        first,
        tmp_path / "b.safetensors",
        {"pretrain": {"epochs": 100, "backbone": "resnet18"}},
        class_counts=[4990] * 9 + [5000],
    )
    done = ltcli("compare", "--published", "--json", first, second)
    papers = json.loads(done.out)["published"]
    assert {paper["backbone"] for paper in papers} == {"resnet18", "resnet32"}
    notes = {(paper["method"], paper["backbone"]): paper["note"] for paper in papers}
    assert notes["BBN", "resnet32"].endswith("largest class 5,000, here 4,990")
    assert notes["CE", "resnet18"] == "best epoch on test; 300 epochs, here 100"


def test_figures_beside_models_of_other_weights_say_so(ltcli, chain, tmp_path):
    first = on_cifar(chain, tmp_path)
    weights = {"pretrain": {"weights": "ab" * 32}}
    second = rewritten(first, tmp_path / "b.safetensors", weights)
    note = "from scratch, here pre-trained elsewhere"
    for files, said in (((first, second), False), ((second,), True)):
        done = ltcli("compare", "--published", "--json", *files)
        notes = [paper["note"] for paper in json.loads(done.out)["published"]]
        assert {note_.endswith(note) for note_ in notes} == {said}


def test_papers_print_nothing_for_validation_images(ltcli, chain, tmp_path):
    done = ltcli("compare", "--published", on_cifar(chain, tmp_path, on="val"))
    assert done.code == 0
    setting = "cifar10, exp profile, imbalance factor 100, resnet32"
    assert done.err == f"compare: no published figures for {setting}, val images\n"


def test_rows_of_one_name_from_two_folders_stay_apart(ltcli, chain, tmp_path):
    (tmp_path / "b").mkdir()
    first = chain / "evaluate-pretrain.safetensors"
    second = rewritten(first, tmp_path / "b" / first.name, {"pretrain": {"mixup": 1.0}})
    rows = json.loads(ltcli("compare", "--json", first, second).out)["rows"]
    assert [row["name"] for row in rows] == [f"{chain.name}/pretrain", "b/pretrain"]


def test_models_of_other_training_data_are_no_runs_of_one_row(ltcli, tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    labels = np.arange(40) % 2
    for name, of_train in (("as-is", labels), ("relabelled", 1 - labels)):
        arrays = {"train_features": features, "train_labels": of_train}
        arrays |= {"test_features": features, "test_labels": labels}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    for name, data, seed in (("a", "as-is", 0), ("b", "as-is", 1), ("c", "relabelled", 0)):
        folder, root = tmp_path / name, tmp_path / f"{data}.npz"
        options = ("--val-per-class", "2", "--seed", seed, "-q", "-d", folder)
        assert ltcli("split", "embeddings", "--root", root, *options).code == 0
        assert ltcli("pretrain", "--epochs", "1", "-q", "-d", folder).code == 0
        assert ltcli("evaluate", "-q", "-d", folder).code == 0
    files = [tmp_path / name / "evaluate-pretrain.safetensors" for name in "abc"]
    rows = json.loads(ltcli("compare", "--json", *files).out)["rows"]
    assert [(row["name"], row["runs"]) for row in rows] == [("a/pretrain", 2), ("c/pretrain", 1)]


def test_rows_of_one_name_in_one_folder_keep_what_tells_them_apart(ltcli, chain, tmp_path):
    source = chain / "evaluate-pretrain.safetensors"
    names = ["x.safetensors", "evaluate-x.safetensors", "x.old"]
    files = [
        rewritten(source, tmp_path / name, {"pretrain": {"mixup": 0.1 * i}})
        for i, name in enumerate(names)
    ]
    for chosen in (names[:2], names):
        done = ltcli("compare", "--json", *files[: len(chosen)])
        assert [row["name"] for row in json.loads(done.out)["rows"]] == chosen


def test_a_bar_in_a_name_does_not_end_a_cell_of_markdown(ltcli, chain, tmp_path):
    file = tmp_path / "evaluate-a|b.safetensors"
    shutil.copy(chain / "evaluate-pretrain.safetensors", file)
    head, _, line = ltcli("compare", "--markdown", file).out.splitlines()[:3]
    assert line.startswith("| a\\|b | 1 | ")
    assert line.replace("\\|", "").count("|") == head.count("|")


def test_links_to_files_of_one_folder_stay_apart(ltcli, chain, tmp_path):
    store, links = tmp_path / "store", []
    store.mkdir()
    for i, name in enumerate("ab"):
        recipe = {"pretrain": {"mixup": 0.1 * i}}
        file = rewritten(chain / "evaluate-pretrain.safetensors", store / name, recipe)
        link = tmp_path / name / "x.safetensors"
        link.parent.mkdir()
        link.symlink_to(file)
        links.append(link)
    rows = json.loads(ltcli("compare", "--json", *links).out)["rows"]
    assert [row["name"] for row in rows] == ["a/x", "b/x"]


def test_two_predictions_of_one_model_are_no_two_runs(ltcli, copy):
    first = copy / "evaluate-pretrain.safetensors"
    second = copy / "evaluate-pretrain-again.safetensors"
    shutil.copy(first, second)
    for command in (("compare", first, second), ("report", "-d", copy)):
        done = ltcli(*command)
        assert done.code == 3
        assert done.lines == [
            f"error: {second}: was made by the same model as {first}",
            "hint: leave one of them out: copies are no runs",
        ]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"held_out": -1}, "held_out must be a count, got -1"),
        ({"network_parameters": True}, "network_parameters must be a count, got True"),
    ],
)
def test_a_fact_that_is_no_count_is_refused(ltcli, chain, tmp_path, monkeypatch, info, message):
    with monkeypatch.context() as forger:
        forger.setattr("ltcli.artifacts.store.check_schema", lambda *_: {"C": 10})
        file = on_cifar(chain, tmp_path, **info)
    done = ltcli("compare", file)
    assert done.code == 3
    assert done.lines == [f"error: {file}: {message}"]


@pytest.mark.parametrize("recipe", [{}, "pretrain", [["split", {"profile": "exp"}], 3]])
def test_a_recipe_must_be_a_list_of_stages(chain, tmp_path, recipe):
    with open_artifact(chain / "evaluate-pretrain.safetensors") as artifact:
        header, tensors = artifact.header, artifact.load("*")
    facts = {"stage": "evaluate", "parameters": header.parameters, "inputs": header.inputs}
    info = header.info | {"recipe": recipe}
    with pytest.raises(ArtifactError) as caught:
        save(tmp_path / "x.safetensors", "predictions", tensors, info=info, **facts)
    rule = "recipe must be a list of stages with their parameters"
    assert caught.value.message == f"{rule}, got {recipe!r}"


@pytest.mark.parametrize(
    "recipe",
    [
        [],
        [["pretrain", {}]],
        [["finetune", {"method": "no-such"}]],
        [["split", {"source": "digits", "profile": "exp", "imbalance_factor": "nan"}]],
    ],
)
def test_a_recipe_that_cannot_be_read_is_refused(ltcli, chain, tmp_path, recipe):
    source, file = chain / "evaluate-pretrain.safetensors", tmp_path / "x.safetensors"
    with open_artifact(source) as artifact:
        header, tensors = artifact.header, artifact.load("*")
    facts = {"parameters": header.parameters, "inputs": header.inputs}
    info = header.info | {"recipe": recipe}
    save(file, "predictions", tensors, stage="evaluate", info=info, **facts)
    done = ltcli("compare", "--published", file)
    assert done.code == 3
    assert done.lines == [
        f"error: {file}: recipe is not one of this ltcli",
        "hint: train the model again, or leave it out",
    ]


def test_row_order_follows_the_files_given(ltcli, chain):
    files = [chain / "evaluate-finetune-crt.safetensors", chain / "evaluate-pretrain.safetensors"]
    rows = json.loads(ltcli("compare", "--json", *files).out)["rows"]
    assert [row["name"] for row in rows] == ["finetune-crt", "pretrain"]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--few-below", -1], "few_below must be at least 0, got -1"),
        (["--many-above", 10**20], f"many_above must be at most 1000000000, got {10**20}"),
        (
            ["--many-above", 10, "--few-below", 20],
            "few_below must be at most many_above + 1 = 11, got 20",
        ),
    ],
)
def test_groups_that_overlap_are_refused_before_any_file_is_read(ltcli, tmp_path, options, rule):
    for command in (("compare", "-d", tmp_path / "no"), ("report", "-d", tmp_path / "no")):
        done = ltcli(*command, *options)
        assert (done.code, done.lines) == (2, [f"error: {command[0]}: {rule}"])


@pytest.mark.parametrize(("resamples", "rule"), [(99, "least 100"), (10**14, "most 1000000")])
def test_resamples_are_as_many_as_can_be_drawn(ltcli, chain, resamples, rule):
    done = ltcli("compare", "--resamples", resamples, "-d", chain)
    line = f"error: compare: resamples must be at {rule}, got {resamples}"
    assert (done.code, done.lines) == (2, [line])


def test_a_seed_must_not_be_negative(ltcli, chain):
    done = ltcli("compare", "--seed", -1, "-d", chain)
    line = "error: compare: seed must be at least 0, got -1"
    assert (done.code, done.lines) == (2, [line])


def test_a_folder_without_predictions_is_an_error(ltcli, tmp_path):
    done = ltcli("compare", "-d", tmp_path)
    assert done.code == 3
    assert done.lines == [
        f"error: {tmp_path}: has no predictions on the test set",
        "hint: run ltcli evaluate first",
    ]


def test_another_kind_is_refused(ltcli, chain):
    done = ltcli("compare", chain / "pretrain.safetensors")
    assert done.code == 3
    assert done.lines == [
        f"error: {chain}/pretrain.safetensors: must be of kind predictions, got model",
        "hint: run ltcli evaluate on it first",
    ]


def test_predictions_on_other_images_are_refused(ltcli, copy):
    model = copy / "finetune-crt.safetensors"
    assert ltcli("evaluate", "--on", "val", "--model", model, "-d", copy).code == 0
    first = copy / "evaluate-pretrain.safetensors"
    second = copy / "evaluate-finetune-crt-on-val.safetensors"
    done = ltcli("compare", first, second)
    assert done.code == 3
    assert done.lines == [
        f"error: {second}: was made on other images or classes than {first}",
        "hint: compare predictions of one test set",
    ]


def test_a_damaged_file_in_the_folder_is_named(ltcli, copy):
    shutil.copy(copy / "split.safetensors", copy / "x.safetensors")
    (copy / "x.safetensors").write_bytes((copy / "split.safetensors").read_bytes()[:100])
    done = ltcli("compare", "-d", copy)
    assert done.code == 3
    assert done.lines[1] == "hint: remove it, or name files"


@pytest.mark.parametrize(("level", "least"), [(0.99, 400), (0.9999, 40000)])
def test_a_level_needs_resamples_beyond_its_ends(ltcli, chain, level, least):
    command = ("compare", "--level", level, "-d", chain)
    done = ltcli(*command, "--resamples", least - 1)
    line = f"error: compare: resamples must be at least {least} for level {level}, got {least - 1}"
    hint = "hint: so that 2 lie beyond each end of an interval"
    assert (done.code, done.lines) == (2, [line, hint])
    assert ltcli(*command, "--resamples", least).code == 0


def test_scores_of_a_model_that_was_replaced_are_named(ltcli, copy):
    shutil.copy(copy / "finetune-crt.safetensors", copy / "pretrain.safetensors")
    rule = f"is of another model than {copy / 'pretrain.safetensors'}: run ltcli evaluate again"
    said = f"{copy / 'evaluate-pretrain.safetensors'} {rule}"
    done = ltcli("compare", "-d", copy)
    assert (done.code, done.lines) == (0, [f"compare: {said}"])
    assert ltcli("report", "-d", copy).lines == [f"report: {said}"]
