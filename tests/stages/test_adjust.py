import hashlib
import json

import pytest
import torch

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.stats.adjustment import best, log_prior, trade_off

DIGITS = [str(digit) for digit in range(10)]


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def write(path, column, values):
    lines = [f"{name},{value}" for name, value in zip(DIGITS, values, strict=True)]
    path.write_text("\n".join([f"class,{column}", *lines]) + "\n")
    return path


@pytest.fixture
def adjust(ltcli, copy):
    """Run adjust on the tiny chain."""
    return lambda *options: ltcli("adjust", *options, "-d", copy)


def logits(copy, ltcli, model):
    """Logits that evaluate gives for a model of the chain."""
    out = copy / f"logits-{model.stem}.safetensors"
    assert ltcli("evaluate", "--model", model, "--out", out, "-d", copy).code == 0
    return tensors_of(out)["logits"]


def counts_of(copy):
    return torch.tensor(read_header(copy / "pretrain.safetensors").info["class_counts"])


def test_a_number_for_tau_is_what_finetune_by_logit_adjustment_gives(ltcli, copy, adjust):
    assert adjust("--tau", "0.7").code == 0
    options = ("--method", "logit-adjustment", "--tau", "0.7", "-d", copy)
    assert ltcli("finetune", *options).code == 0
    mine = tensors_of(copy / "adjust-tau.safetensors")
    other = tensors_of(copy / "finetune-logit-adjustment.safetensors")
    assert mine.keys() == other.keys()
    assert all(mine[name].equal(other[name]) for name in mine)


def test_evaluate_gives_the_logits_plus_what_was_added(ltcli, copy, adjust):
    shares = [0.05] * 9 + [0.55]
    path = write(copy / "p.csv", "share", shares)
    done = adjust("--prior", path)
    assert done.code == 0
    out = copy / "adjust-prior.safetensors"
    shift = torch.tensor(shares).log() - log_prior(counts_of(copy))
    before = logits(copy, ltcli, copy / "pretrain.safetensors")
    torch.testing.assert_close(logits(copy, ltcli, out), before + shift, rtol=1e-4, atol=1e-4)
    header = read_header(out)
    assert header.inputs["prior"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert header.info["balanced"]
    assert header.info["method"] == "adjust"
    assert header.info["adjustment"]["base"] == "training images"
    assert header.info["adjustment"]["added"] == pytest.approx(shift.tolist(), abs=1e-5)
    low, high = min(shift).item(), max(shift).item()
    assert done.out.splitlines()[1].startswith(
        f"added to the logits: {low:+.3f} (0) to {high:+.3f}"
    )
    stage, parameters = header.info["recipe"][-1]
    assert (stage, parameters["prior"]) == ("adjust", header.inputs["prior"])
    # The content is identity, the path is not.
    (copy / "q.csv").write_text(path.read_text())
    assert adjust("--prior", copy / "q.csv").err == "adjust: up to date\n"
    write(path, "share", shares[::-1])
    assert "starting (prior changed)" in adjust("--prior", path).err


def test_costs_keep_the_prior_and_can_be_joined_to_another_one(ltcli, copy, adjust):
    costs = [1.0] * 9 + [10.0]
    assert adjust("--costs", write(copy / "c.csv", "cost", costs)).code == 0
    cheap = copy / "adjust-costs.safetensors"
    assert not read_header(cheap).info["balanced"]
    both = copy / "both.safetensors"
    assert adjust("--prior", "uniform", "--model", cheap, "--out", both).code == 0
    shift = torch.tensor(costs).log() - log_prior(counts_of(copy)) - torch.tensor(10.0).log()
    before = logits(copy, ltcli, copy / "pretrain.safetensors")
    torch.testing.assert_close(logits(copy, ltcli, both), before + shift, rtol=1e-4, atol=1e-4)
    done = adjust("--costs", copy / "c.csv", "--model", both, "--out", copy / "x.safetensors")
    assert done.code == 3
    assert done.lines == [
        f"error: {both}: was adjusted for costs already",
        "hint: start from the model that it was made from",
    ]


def test_tau_is_chosen_on_validation_and_its_trade_off_is_shown_and_logged(ltcli, copy, adjust):
    done = adjust("--tau", "auto", "--target", "log-loss")
    assert done.code == 0
    bank = tensors_of(copy / "dump-features.safetensors")
    points = trade_off(bank["val.logits"], bank["val.labels"], counts_of(copy))
    tau = best(points, "log-loss").tau
    header = read_header(copy / "adjust-tau.safetensors")
    found = header.info["adjustment"]
    assert (found["by"], found["tau"]) == ("tau", tau)
    assert [point["tau"] for point in found["trade_off"]] == [point.tau for point in points]
    assert [point["log_loss"] for point in found["trade_off"]] == [p.log_loss for p in points]
    # The recipe holds how tau was chosen, as it differs from seed to seed.
    assert header.info["recipe"][-1][1]["tau"] == "auto"
    lines = (copy / "adjust-tau.run.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["balanced"] for r in records if r["event"] == "trade-off"] == [
        point.balanced for point in points
    ]
    assert [r["tau"] for r in records if r["event"] == "solved"] == [tau]
    table = done.out.splitlines()[2:]
    assert table[0].split()[:6] == ["tau", "balanced", "many", "medium", "few", "log-loss"]
    (chosen,) = [line for line in table if line.startswith("*")]
    assert float(chosen[1:].split()[0]) == tau
    assert {f"{step / 4:.2f}" for step in range(9)} <= {line[1:].split()[0] for line in table[1:]}


def test_images_and_the_feature_bank_choose_the_same_tau(copy, adjust):
    taus = []
    for data in ("features", "images"):
        out = copy / f"{data}.safetensors"
        assert (
            adjust("--tau", "auto", "--data", data, "--precision", "auto", "--out", out).code == 0
        )
        taus.append(read_header(out).info["adjustment"]["trade_off"])
    for one, other in zip(*taus, strict=True):
        assert one["log_loss"] == pytest.approx(other["log_loss"], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "balanced"),
    [(("--tau", "0"), False), (("--tau", "1"), True), (("--prior", "uniform"), True)],
    ids=["tau 0", "tau 1", "uniform"],
)
def test_balanced_says_whether_the_logits_left_the_prior_of_training(
    adjust, copy, options, balanced
):
    out = copy / "made.safetensors"
    assert adjust(*options, "--out", out).code == 0
    assert read_header(out).info["balanced"] == balanced
    changed = tensors_of(out)["classifier.bias"]
    assert changed.equal(tensors_of(copy / "pretrain.safetensors")["classifier.bias"]) != balanced


def test_the_prior_of_training_itself_changes_nothing(adjust, copy):
    counts = counts_of(copy).tolist()
    path = write(copy / "p.csv", "share", [n / sum(counts) for n in counts])
    assert adjust("--prior", path).code == 0
    out = copy / "adjust-prior.safetensors"
    assert not read_header(out).info["balanced"]
    torch.testing.assert_close(tensors_of(out), tensors_of(copy / "pretrain.safetensors"))


def test_a_model_that_corrects_for_the_prior_starts_from_the_uniform_one(adjust, copy):
    crt = copy / "finetune-crt.safetensors"
    done = adjust("--prior", "uniform", "--model", crt)
    assert done.code == 0
    assert "taken to follow a uniform one" in done.err
    out = copy / "adjust-prior.safetensors"
    assert read_header(out).info["adjustment"]["base"] == "uniform"
    assert tensors_of(out)["classifier.bias"].equal(tensors_of(crt)["classifier.bias"])
    done = adjust("--tau", "1", "--model", crt)
    assert done.code == 3
    assert done.lines == [
        f"error: adjust: {crt}, by crt, corrects for the class prior already",
        "hint: start from plain cross-entropy, without class weights, another sampler or remix",
    ]


@pytest.mark.parametrize("options", [("--tau", "1"), ("--prior", "uniform")], ids=" ".join)
def test_a_second_adjustment_for_the_prior_is_refused(ltcli, adjust, copy, options):
    assert adjust("--tau", "0.5").code == 0
    first = copy / "adjust-tau.safetensors"
    done = adjust(*options, "--model", first, "--out", copy / "x.safetensors")
    assert done.code == 3
    assert done.lines == [
        f"error: {first}: was adjusted for the class prior already",
        "hint: start from the model that it was made from",
    ]
    again = ("--method", "logit-adjustment", "--data", "images", "--model", first)
    done = ltcli("finetune", *again, "-d", copy)
    assert (done.code, done.lines[0]) == (
        3,
        f"error: finetune: {first}, by adjust, corrects for the class prior already",
    )


def test_of_a_fresh_classifier_nothing_was_adjusted_before(ltcli, adjust, copy):
    assert adjust("--prior", "uniform").code == 0
    first, plain = copy / "adjust-prior.safetensors", ("--sampler", "instance-balanced")
    options = ("--data", "images", "--epochs", "1", "-q", "--model", first, "-d", copy)
    assert ltcli("finetune", "--method", "crt", *plain, *options).code == 0
    assert ltcli("finetune", "--method", "cross-entropy", *options).code == 0
    fresh, same = copy / "finetune-crt.safetensors", copy / "finetune-cross-entropy.safetensors"
    assert [read_header(path).info["balanced"] for path in (fresh, same)] == [False, True]
    out = ("--out", copy / "x.safetensors")
    assert adjust("--prior", "uniform", "--model", same, *out).code == 3
    assert adjust("--prior", "uniform", "--model", fresh, *out).code == 0
    added = read_header(copy / "x.safetensors").info["adjustment"]
    assert added["base"] == "training images"
    assert max(added["added"]) > 1


def test_another_classifier_no_longer_says_what_was_added(ltcli, adjust, copy):
    assert adjust("--tau", "1").code == 0
    options = ("--method", "ncm", "--data", "images", "--model", copy / "adjust-tau.safetensors")
    assert ltcli("finetune", *options, "-d", copy).code == 0
    assert "adjustment" not in read_header(copy / "finetune-ncm.safetensors").info


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "exactly one of prior, tau and costs must be given, got none"),
        (
            ("--tau", "1", "--prior", "uniform"),
            "exactly one of prior, tau and costs must be given, got prior and tau",
        ),
        (("--tau", "much"), "tau must be auto or a number, got much"),
        (("--tau", "1", "--target", "log-loss"), "target needs --tau auto, got log-loss"),
        (("--tau", "1", "--data", "images"), "data needs --tau auto, got images"),
    ],
)
def test_wrong_parameters_are_refused(adjust, options, line):
    done = adjust(*options)
    assert (done.code, done.lines) == (2, [f"error: adjust: {line}"])


def test_a_wrong_table_is_found_before_work(adjust, copy):
    path = copy / "p.csv"
    path.write_text("class,share\n0,0.5\n")
    done = adjust("--prior", path)
    assert (done.code, done.lines) == (
        2,
        [f"error: {path}: must have every class, got none of '1'"],
    )
    assert not (copy / "adjust-prior.safetensors").exists()
    assert not (copy / "adjust-prior.run.jsonl").exists()


def test_a_bank_of_an_earlier_epoch_or_without_validation_images_is_refused(ltcli, adjust, copy):
    with open_artifact(copy / "dump-features.safetensors") as bank:
        header, tensors = bank.header, bank.load("*")
    facts = {"stage": header.stage, "parameters": header.parameters, "inputs": header.inputs}
    from ltcli.artifacts.store import save

    other = copy / "other.safetensors"
    save(other, "features", tensors, info=header.info | {"epoch": 1}, **facts)
    done = adjust("--tau", "auto", "--features", other)
    assert done.code == 3
    assert done.lines == [
        f"error: {other}: is of epoch 1, not of the last one",
        "hint: run dump-features without --from-epoch",
    ]
    tensors |= {name: tensors[name][:0] for name in tensors if name.startswith("val.")}
    save(other, "features", tensors, info=header.info, **facts)
    done = adjust("--tau", "auto", "--features", other)
    assert done.code == 2
    assert done.lines == [
        "error: adjust: tau must not be auto without validation images",
        "hint: give a number, or make the split with --val-per-class",
    ]


def test_doing_it_again_gives_the_same_bytes_and_lineage_knows_the_file_outside(
    ltcli, adjust, copy
):
    path = write(copy / "c.csv", "cost", range(1, 11))
    assert adjust("--costs", path).code == 0
    out = copy / "adjust-costs.safetensors"
    before = out.read_bytes()
    assert adjust("--costs", path, "--force").code == 0
    assert out.read_bytes() == before
    done = ltcli("lineage", out)
    assert done.code == 0
    (line,) = [line.split() for line in done.out.splitlines() if "costs: " in line]
    assert line[1:] == ["outside", "costs:", "?"]
