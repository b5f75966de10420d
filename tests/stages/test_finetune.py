import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ltcli import methods
from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.core.errors import ArtifactError
from ltcli.core.params import build
from ltcli.data.samplers import order_of
from ltcli.engine.schedules import epochs_for
from ltcli.models.classifier import Classifier
from ltcli.stages.finetune import DEFAULTS, Params, run_of
from ltcli.stats.class_weights import effective_number_weights


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def part_of(tensors, part):
    return {name: tensor for name, tensor in tensors.items() if name.startswith(part)}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def epochs(name, number):
    """The option, for methods that train."""
    return () if methods.METHODS[name].solve else ("--epochs", number)


# GCL's second stage starts from a model of its first; the others move the backbone.
ON_A_BANK = set(methods.names("finetune")) - {"gcl", "range-loss", "lifted-loss", "cam-sampling"}


@pytest.mark.parametrize("name", sorted(ON_A_BANK))
def test_every_method_works_on_the_feature_bank(ltcli, copy, name):
    options = ("--data", "features", "--train", "classifier", "--force", *epochs(name, 2))
    # A tau of 0 leaves the prior where it is.
    options += ("--tau", "0") if name == "tau-norm" else ()
    done = ltcli("finetune", "--method", name, *options, "-d", copy)
    assert done.code == 0
    out = copy / f"finetune-{name}.safetensors"
    before, after = tensors_of(copy / "pretrain.safetensors"), tensors_of(out)
    assert same(part_of(after, "backbone."), part_of(before, "backbone."))
    assert not same(part_of(after, "classifier."), part_of(before, "classifier."))
    info, start = read_header(out).info, read_header(copy / "pretrain.safetensors").info
    assert info["method"] == name
    follow = ("cross-entropy", "focal", "isda", "tau-norm")
    assert info["balanced"] == (name not in follow)
    forms = {"ncm": "cosine", "ldam": "cosine", "fslwf": "cosine", "oltr": "memory"}
    assert info["classifier"] == forms.get(name, "linear")
    statistics = {"features": "dump-features", "covariances": "covariances"}
    statistics |= {"confusion": "confusion", "generator": "stg-train"}
    inputs = read_header(out).inputs
    made = [stage for role, stage in statistics.items() if role in inputs]
    stages = [stage for stage, _ in info["recipe"]]
    assert stages == ["split", "pretrain", *made, "finetune"]
    assert not any("seed" in parameters for _, parameters in info["recipe"])
    changed = ("classifier", "method", "balanced", "recipe")
    assert {k: v for k, v in info.items() if k not in changed} == {
        k: v for k, v in start.items() if k not in changed
    }
    # Whatever was made can be evaluated.
    assert ltcli("evaluate", "--model", out, "--force", "-d", copy).code == 0
    logits = tensors_of(copy / f"evaluate-finetune-{name}.safetensors")["logits"]
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["crt", "lws", "cross-entropy", "tau-norm", "ncm"])
def test_images_leave_the_frozen_backbone_bit_identical_buffers_included(ltcli, copy, name):
    out = copy / "images.safetensors"
    options = ("--method", name, "--data", "images", "--out", out, *epochs(name, 1))
    assert ltcli("finetune", *options, "-d", copy).code == 0
    before, after = tensors_of(copy / "pretrain.safetensors"), tensors_of(out)
    assert any("running_var" in key for key in before)
    assert same(part_of(after, "backbone."), part_of(before, "backbone."))
    assert not same(part_of(after, "classifier."), part_of(before, "classifier."))


def test_train_all_moves_weights_and_buffers(ltcli, copy):
    out = copy / "all.safetensors"
    options = ("--data", "images", "--train", "all", "--epochs", "1", "--lr", "0.01", "--out", out)
    assert ltcli("finetune", "--method", "cross-entropy", *options, "-d", copy).code == 0
    before, after = tensors_of(copy / "pretrain.safetensors"), tensors_of(out)
    assert after.keys() == before.keys()
    kept = [name for name in before if after[name].equal(before[name])]
    assert kept == ["classifier.scales"]


def test_methods_in_closed_form_are_the_same_from_images_and_from_features(ltcli, copy):
    weights = {}
    for data in ("features", "images"):
        out = copy / f"{data}.safetensors"
        options = ("--method", "ncm", "--data", data, "--out", out)
        assert ltcli("finetune", *options, "-d", copy).code == 0
        weights[data] = tensors_of(out)["classifier.weight"]
    torch.testing.assert_close(weights["images"], weights["features"])


def test_images_that_do_not_vary_train_a_classifier_like_their_features(ltcli, copy):
    assert ltcli("dump-features", "--precision", "fp32", "-d", copy).code == 0
    still, weights = ("--data", "images", "--padding", "0"), {}
    for name, options in {"bank": (), "flipped": still, "still": (*still, "--no-flip")}.items():
        out = copy / f"{name}.safetensors"
        command = ("--method", "crt", "--epochs", "1", "--precision", "fp32", "--out", out)
        assert ltcli("finetune", *command, *options, "-d", copy).code == 0
        weights[name] = tensors_of(out)["classifier.weight"]
    torch.testing.assert_close(weights["still"], weights["bank"], rtol=1e-3, atol=1e-4)
    assert (weights["flipped"] - weights["bank"]).abs().max() > 0.01


def test_the_tau_that_was_chosen_is_in_the_log(ltcli, copy):
    assert ltcli("finetune", "--method", "tau-norm", "-d", copy).code == 0
    lines = (copy / "finetune-tau-norm.run.jsonl").read_text().splitlines()
    (record,) = [json.loads(line) for line in lines if '"solved"' in line]
    assert record["tau"] in [step / 10 for step in range(21)]


def test_tau_norm_without_validation_images_is_refused(ltcli, tmp_path):
    common = ("-q", "-d", tmp_path)
    assert ltcli("split", "digits", "--val-per-class", "0", *common).code == 0
    options = ("--backbone", "resnet20", "--epochs", "1", "--batch-size", "512")
    assert ltcli("pretrain", *options, *common).code == 0
    assert ltcli("dump-features", *common).code == 0
    done = ltcli("finetune", "--method", "tau-norm", *common, "--dry-run")
    assert done.code == 2
    assert done.lines == [
        "error: finetune: tau must be given: there are no validation images",
        "hint: give --tau, or make the split with --val-per-class",
    ]
    assert ltcli("finetune", "--method", "tau-norm", "--tau", "1", *common).code == 0


def test_finetuning_again_gives_the_same_bytes(ltcli, copy):
    path = copy / "finetune-crt.safetensors"
    before = path.read_bytes()
    command = ("finetune", "--method", "crt", "--epochs", "2", "-d", copy)
    assert ltcli(*command, "--force").code == 0
    assert path.read_bytes() == before
    assert ltcli(*command).err == "finetune: up to date\n"
    assert ltcli(*command, "--seed", "1").code == 0
    assert path.read_bytes() != before


@pytest.mark.parametrize("reduction", ["weighted-mean", "mean-of-weighted"])
@pytest.mark.parametrize(
    "sampler", ["instance-balanced", "class-aware", "square-root", "reversed", "progressive"]
)
def test_weights_and_samplers_are_options_of_any_method_by_hand(ltcli, copy, reduction, sampler):
    # The same thing by hand: SGD with momentum and weight decay, cosine over three epochs.
    out = copy / "made.safetensors"
    options = ("--beta", "0.99", "--reduction", reduction, "--sampler", sampler, "--epochs", "3")
    command = ("finetune", "--method", "cross-entropy", *options, "--out", out)
    assert ltcli(*command, "-d", copy).code == 0
    with open_artifact(copy / "dump-features.safetensors") as bank:
        features, labels = bank.tensor("train.features"), bank.tensor("train.labels")
        counts = torch.tensor(bank.header.info["class_counts"])
    weights = effective_number_weights(counts, 0.99).float()
    before = part_of(tensors_of(copy / "pretrain.safetensors"), "classifier.")
    values = [before["classifier.weight"], before["classifier.bias"]]
    optimizer = torch.optim.SGD([v.requires_grad_() for v in values], 0.1, 0.9, weight_decay=5e-4)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * epoch / 3))
        order = order_of(sampler, labels, 10, seed=0, epoch=epoch, epochs=3)
        for rows in order.split(128):
            logits = features[rows] @ values[0].T + values[1]
            if reduction == "weighted-mean":
                loss = F.cross_entropy(logits, labels[rows], weight=weights)
            else:
                losses = F.cross_entropy(logits, labels[rows], reduction="none")
                loss = (weights[labels[rows]] * losses).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    after = tensors_of(out)
    torch.testing.assert_close(after["classifier.weight"], values[0].detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after["classifier.bias"], values[1].detach(), rtol=1e-4, atol=1e-4)
    assert read_header(out).info["balanced"]


@pytest.mark.parametrize("method", ["isda", "risda", "metasaug", "stg", "feature-fusion"])
@pytest.mark.parametrize("option", [("--beta", "0.99"), ("--sampler", "reversed")], ids=" ".join)
def test_they_are_options_of_methods_with_steps_of_their_own_too(ltcli, copy, method, option):
    if method == "feature-fusion" and "--sampler" in option:
        return  # refused, see its own tests
    made = []
    for given in ((), option):
        options = ("--data", "features", "--train", "classifier", "--epochs", "1", *given)
        command = ("finetune", "--method", method, *options, "--force", "-d", copy)
        assert ltcli(*command).code == 0
        made.append(tensors_of(copy / f"finetune-{method}.safetensors")["classifier.weight"])
    assert not made[0].equal(made[1])


@pytest.mark.parametrize(
    ("options", "balanced"),
    [
        (("cross-entropy",), False),
        (("focal",), False),
        (("isda",), False),
        (("cross-entropy", "--beta", "0.9"), True),
        (("cross-entropy", "--sampler", "square-root"), True),
        (("isda", "--beta", "0.9"), True),
        (("crt", "--sampler", "instance-balanced"), False),
        (("lws", "--sampler", "instance-balanced"), False),
        (("class-balanced", "--beta", "0"), False),
        (("balanced-softmax",), True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_model_says_whether_its_classifier_still_follows_the_class_prior(
    ltcli, copy, options, balanced
):
    out = copy / "made.safetensors"
    command = ("finetune", "--method", *options, "--epochs", "1", "--out", out)
    assert ltcli(*command, "-d", copy).code == 0
    assert read_header(out).info["balanced"] == balanced
    # What no longer follows it is not corrected a second time.
    again = ("finetune", "--method", "logit-adjustment", "--model", out, "--data", "images")
    done = ltcli(*again, "-d", copy)
    assert done.code == (3 if balanced else 0)
    if balanced:
        assert done.lines == [
            f"error: finetune: {out}, by {options[0]}, corrects for the class prior already",
            "hint: start from plain cross-entropy, without class weights, another sampler or remix",
        ]


def test_a_correction_of_the_class_prior_is_not_forgotten(ltcli, copy):
    out = copy / "made.safetensors"
    model = ("--model", copy / "finetune-crt.safetensors", "--data", "images")
    command = ("finetune", "--method", "cross-entropy", *model, "--epochs", "1", "--out", out)
    assert ltcli(*command, "-d", copy).code == 0
    assert read_header(out).info["balanced"]


@pytest.mark.parametrize(
    "options",
    [("--method", "crt"), ("--method", "lws", "--data", "images")],
    ids=["features", "scales only"],
)
def test_train_all_needs_images_and_a_method_that_trains_the_classifier(ltcli, copy, options):
    done = ltcli("finetune", *options, "--train", "all", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: train must be classifier, got all",
        "hint: --train all needs --data images and a method that trains the classifier",
    ]


@pytest.mark.parametrize(
    "option",
    [
        ("--sampler", "class-aware"),
        ("--beta", "0.9"),
        ("--snapshots", "2"),
        ("--epochs", "20"),
        ("--lr", "1"),
        ("--mixup", "1"),
        ("--data", "images", "--train", "all"),
        ("--data", "images", "--shift-bn"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["tau-norm", "ncm", "logit-adjustment"])
def test_what_only_training_reads_is_refused_where_nothing_is_trained(ltcli, copy, name, option):
    done = ltcli("finetune", "--method", name, *option, "-d", copy)
    flag = next(word for word in reversed(option) if word.startswith("--"))[2:]
    assert done.code == 2
    assert done.lines == [
        f"error: finetune: {flag} must not be given for {name}",
        "hint: it solves for the classifier and trains nothing",
    ]


def test_nesterov_without_momentum_is_refused(ltcli, copy):
    options = ("--nesterov", "--momentum", "0", "--epochs", "1", "--force", "-d", copy)
    done = ltcli("finetune", "--method", "crt", *options)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: momentum must be greater than 0 with nesterov, got 0",
        "hint: use --no-nesterov",
    ]
    assert ltcli("finetune", "--method", "crt", "--optimizer", "adam", *options).code == 0


def test_features_of_another_model_are_refused(ltcli, copy):
    model = copy / "finetune-crt.safetensors"
    done = ltcli("finetune", "--method", "lws", "--model", model, "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: finetune: {copy}/dump-features.safetensors belongs to another model than {model}",
        "hint: make both from the same artifacts, or name others",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("data", ["features", "images"])
@pytest.mark.parametrize("name", sorted(ON_A_BANK))
def test_every_method_works_on_a_gpu(ltcli, copy, name, data):
    options = ("--method", name, "--data", data, "--train", "classifier", *epochs(name, 1))
    assert ltcli("finetune", *options, "--device", "cuda", "--force", "-d", copy).code == 0
    before = tensors_of(copy / "pretrain.safetensors")
    after = tensors_of(copy / f"finetune-{name}.safetensors")
    assert same(part_of(after, "backbone."), part_of(before, "backbone."))


def test_a_bank_of_an_earlier_epoch_is_for_that_epoch_alone(ltcli, copy):
    start, common = copy / "start.safetensors", ("-d", copy)
    options = ("--backbone", "resnet20", "--epochs", "2", "--snapshots", "2", "--out", start)
    assert ltcli("pretrain", *options, *common).code == 0
    bank, own = copy / "bank.safetensors", copy / "covariances-1.safetensors"
    model = ("--model", start)
    earlier = ("--from-epoch", "1")
    assert ltcli("dump-features", *model, *earlier, "--out", bank, *common).code == 0
    assert ltcli("covariances", "--features", bank, "--out", own, *common).code == 0
    assert read_header(own).info["epoch"] == 1
    crt = ("finetune", "--method", "crt", *model, "--epochs", "1", *common)
    done = ltcli(*crt, "--features", bank, "--force")
    assert done.code == 3
    assert done.lines == [
        f"error: {bank}: is of epoch 1, not of the last epoch",
        "hint: --from-epoch must be the same in all",
    ]
    graph = copy / "confusion-last.safetensors"
    last = copy / "bank-last.safetensors"
    assert ltcli("dump-features", *model, "--out", last, *common).code == 0
    assert ltcli("confusion", *model, "--features", last, "--out", graph, *common).code == 0
    risda = ("finetune", "--method", "risda", *model, *earlier, *common)
    done = ltcli(*risda, "--features", bank, "--covariances", own, "--confusion", graph)
    assert done.code == 3
    assert done.lines == [
        f"error: {graph}: is of the last epoch, not of epoch 1",
        "hint: --from-epoch must be the same in all",
    ]
    out = copy / "crt-1.safetensors"
    assert ltcli(*crt, "--features", bank, *earlier, "--out", out).code == 0
    kept, made = tensors_of(start), tensors_of(out)
    for name, tensor in part_of(made, "backbone.").items():
        assert tensor.equal(kept[f"snapshots.{name}"][0])
    done = ltcli("dump-features", *model, "--from-epoch", "3", "--force", *common)
    assert done.code == 2
    assert done.lines == [
        "error: dump-features: from-epoch must be in 1 ... 2, got 3",
        f"hint: {start} keeps these",
    ]
    done = ltcli("dump-features", *earlier, "--force", *common)
    assert done.code == 3
    assert done.lines == [
        f"error: {copy / 'pretrain.safetensors'}: keeps no earlier epochs of its pre-training",
        "hint: use pretrain --snapshots",
    ]


def test_a_classifier_behind_a_frozen_backbone_is_trained_in_float32(ltcli, copy, monkeypatch):
    lowered, forward = [], Classifier.forward

    def watched(self, features):
        lowered.append(torch.is_autocast_enabled("cpu"))
        return forward(self, features)

    monkeypatch.setattr(Classifier, "forward", watched)
    command = ("finetune", "--method", "crt", "--data", "images", "--precision", "bf16")
    for mixup in ("0", "1"):
        assert ltcli(*command, "--mixup", mixup, "--epochs", "1", "-d", copy).code == 0
    assert lowered
    assert not any(lowered)


@pytest.mark.parametrize(("data", "said"), [("features", "float32"), ("images", "bfloat16")])
def test_the_precision_that_is_said_is_that_of_the_backbone_if_it_works(ltcli, copy, data, said):
    command = ("finetune", "--method", "crt", "--epochs", "1", "--force", "--precision", "bf16")
    done = ltcli(*command, "--data", data, "-d", copy)
    assert f"finetune: on cpu in {said}" in done.err.splitlines()
    lines = (copy / "finetune-crt.run.jsonl").read_text().splitlines()
    training = [record for record in map(json.loads, lines) if record["event"] == "training"]
    assert [record["precision"] for record in training] == [said]


def test_a_method_s_own_milestones_are_named_where_they_do_not_fit(ltcli, copy):
    command = ("finetune", "--method", "oltr", "--decay", "cosine", "-d", copy)
    done = ltcli(*command, "--milestones", "3,5")
    line = "error: finetune: milestones need --decay steps, got cosine"
    assert (done.code, done.lines) == (2, [line])
    done = ltcli(*command)
    hint = "hint: oltr has them by default: --milestones '' --factors ''"
    assert (done.code, done.lines) == (2, [line, hint])
    assert ltcli(*command, "--milestones", "", "--factors", "", "--dry-run").code == 0


def test_how_a_bank_is_stored_is_part_of_how_a_model_was_made(ltcli, copy):
    made = []
    for storage in ("fp32", "bf16"):
        assert ltcli("dump-features", "--storage", storage, "-q", "-d", copy).code == 0
        out = copy / f"{storage}.safetensors"
        crt = ("--method", "crt", "--epochs", "1", "-q", "--out", out)
        assert ltcli("finetune", *crt, "-d", copy).code == 0
        made.append(dict(read_header(out).info["recipe"])["dump-features"])
    assert made == [{"storage": s, "precision": "auto"} for s in ("fp32", "bf16")]


@pytest.mark.parametrize("method", ["feature-fusion", "cam-sampling"])
@pytest.mark.parametrize("form", ["experts3", "memory"])
def test_a_classifier_without_activation_maps_is_refused(chain, method, form):
    found = methods.find(method, "finetune")
    whole = {"train": "all"} if method == "cam-sampling" else {}
    values = {"method": method, "data": "images", **whole}
    defaults = {**DEFAULTS, **found.defaults.get("finetune", {})}
    params = build(Params, values, "finetune", options=found.options, defaults=defaults)
    model = read_header(chain / "pretrain.safetensors")
    headers = {"model": model, "split": read_header(chain / "split.safetensors")}
    found.check(params.options, run_of(params, headers))
    headers["model"] = replace(model, info=model.info | {"classifier": form})
    with pytest.raises(ArtifactError) as caught:
        found.check(params.options, run_of(params, headers))
    rule = f"must have a linear or cosine classifier for activation maps, got {form}"
    assert str(caught.value) == f"{model.path}: {rule}"
    assert caught.value.hint == "start from a model of another method"


def epochs_of(path):
    return dict(read_header(path).info["recipe"])["finetune"]["epochs"]


def test_a_small_bank_is_trained_for_as_many_steps_as_published(ltcli, copy):
    out = copy / "finetune-crt.safetensors"
    crt = ("finetune", "--method", "crt", "--force", "-q", "-d", copy)
    samples = read_header(copy / "dump-features.safetensors").size("train.labels", 0)
    assert ltcli(*crt).code == 0
    # Ten epochs of 12,406 images in batches of 128 are 970 steps.
    steps = -(-samples // 128)
    assert epochs_of(out) == -(-970 // steps) > 10
    assert ltcli(*crt, "--min-steps", "20").code == 0
    assert epochs_of(out) == max(10, -(-20 // steps))
    assert ltcli(*crt, "--epochs", "2").code == 0
    assert epochs_of(out) == 2
    done = ltcli(*crt, "--epochs", "2", "--min-steps", "20")
    assert done.code == 2
    assert done.err.splitlines() == [
        "error: finetune: min-steps must not be given with --epochs",
        "hint: it says how long to train where nothing else does",
    ]
    done = ltcli(*crt, "--data", "images", "--min-steps", "20")
    assert done.err.splitlines() == [
        "error: finetune: min-steps must not be given without a feature bank",
        "hint: it says how long to train where nothing else does",
    ]


def test_the_epochs_of_a_published_setting_are_never_fewer():

    assert epochs_for(10, None, 12_406, 128) == 10
    assert epochs_for(10, None, 50_000, 128) == 10
    assert epochs_for(10, None, 377, 128) == 324
    assert epochs_for(10, 1, 377, 128) == 10
    assert epochs_for(10, 50, 1, 128) == 50
    assert epochs_for(10, 50, 0, 128) == 50
