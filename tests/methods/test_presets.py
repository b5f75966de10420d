"""Methods that are options of another method. Mixed labels: tests/stats, tests/engine."""

import math

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.methods.presets import PRESETS
from ltcli.stats.class_weights import effective_number_weights
from tests.methods.conftest import balances, parameters, planned

COUNTS = [60, 20, 4]
# n^(-1/4) is 1/6, 1/4 and 1/2: the margins of LDAM at its largest margin of 1/2.
POWERS = [1296, 256, 16]
BASES = {"ce-drw": "cross-entropy", "focal-drw": "focal", "ldam-drw": "ldam"}
BOTH = ["pretrain", "finetune"]
REDUCTIONS = ["weighted-mean", "mean-of-weighted"]


@pytest.fixture
def case(rng):
    return torch.randn(8, 3, generator=rng), torch.arange(8) % 3


def loss_by_hand(name, z, y):
    """One sample's loss of the base method."""
    if name == "focal-drw":
        return (1 - z.softmax(0)[y]) * -z.log_softmax(0)[y]
    if name == "ldam-drw":
        z = z - 30 * torch.tensor([1 / 6, 1 / 4, 1 / 2])[y] * F.one_hot(y, 3)
    return F.cross_entropy(z, y)


# Deferred re-weighting and re-sampling.


@pytest.mark.parametrize(("name", "base"), BASES.items())
def test_before_the_switch_it_is_its_base_bit_for_bit(objective, case, name, base):
    plain, deferred = objective(base, POWERS), objective(name, POWERS)
    for epoch in (0, 1, 159):
        assert deferred(*case, epoch).equal(plain(*case, epoch))


@pytest.mark.parametrize("name", BASES)
def test_from_the_switch_on_it_is_the_weighted_loss(objective, case, name):
    counts = POWERS if name == "ldam-drw" else COUNTS
    weights = effective_number_weights(torch.tensor(counts), 0.9999).float()[case[1]]
    losses = torch.stack([loss_by_hand(name, z, y) for z, y in zip(*case, strict=True)])
    expected = (weights * losses).sum() / weights.sum()
    deferred = objective(name, counts)
    for epoch in (160, 161, 199):
        torch.testing.assert_close(deferred(*case, epoch), expected)
    assert abs(deferred(*case, 159) - expected) > 0.01


def test_the_loss_of_deferred_sampling_is_cross_entropy_before_and_after_the_switch(
    objective, case
):
    base, deferred = objective("cross-entropy", COUNTS), objective("ce-drs", COUNTS)
    for epoch in (0, 159, 160, 199):
        assert deferred(*case, epoch).equal(base(*case, epoch))


@pytest.mark.parametrize("name", BASES)
def test_the_record_of_deferred_weights_says_what_the_released_code_does(name):
    params = parameters(name, "pretrain")
    assert (params.beta, params.defer, params.reduction) == (0.9999, 160, "weighted-mean")
    assert params.sampler == "instance-balanced"
    assert balances(name, "pretrain")


def test_the_options_under_deferred_weights_are_those_of_the_released_code():
    focal, ldam = (parameters(name, "pretrain").options for name in ("focal-drw", "ldam-drw"))
    assert (focal.form, focal.gamma) == ("softmax", 1.0)
    assert (ldam.max_margin, ldam.scale) == (0.5, 30.0)


def test_the_record_of_deferred_sampling_says_what_the_released_code_does():
    params = parameters("ce-drs", "pretrain")
    assert (params.sampler, params.defer, params.beta) == ("class-aware", 160, 0)
    assert balances("ce-drs", "pretrain")


@pytest.mark.parametrize(("name", "base"), [*BASES.items(), ("ce-drs", "cross-entropy")])
def test_a_run_is_that_of_its_base_until_the_switch_and_no_longer(kept, copy, name, base):
    # Of two epochs the second one has the weights or the sampler.
    plain, deferred = kept(base), kept(name)
    assert deferred.keys() == plain.keys()
    assert all(deferred[part][0].equal(plain[part][0]) for part in plain)
    assert not deferred["classifier.weight"][1].equal(plain["classifier.weight"][1])
    assert read_header(copy / f"kept-{name}.safetensors").info["balanced"]


def test_the_switch_moves_in_proportion_to_the_epochs(kept):
    # Epoch 50 of 200 is the second one of four, and of eight the third.
    for epochs, first in (("4", 1), ("8", 2)):
        given = ("--epochs", epochs, "--snapshots", epochs)
        base, deferred = kept("cross-entropy", *given), kept("ce-drw", "--defer", "50", *given)
        weight = "classifier.weight"
        same = [deferred[weight][e].equal(base[weight][e]) for e in range(int(epochs))]
        assert same == [e < first for e in range(int(epochs))]


def test_deferred_from_the_start_it_is_class_balanced(kept):
    one, other = kept("ce-drw", "--defer", "0"), kept("class-balanced")
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def test_a_switch_after_the_end_is_refused(ltcli, copy):
    done = ltcli("pretrain", "--method", "ce-drw", "--defer", "200", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: pretrain: defer must be less than the 200 epochs of schedule ldam, got 200"
    ]
    done = ltcli("pretrain", "--method", "ce-drw", "--schedule", "mwn", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: pretrain: defer must be less than the 100 epochs of schedule mwn, got 160"
    ]


# Remix.


@pytest.mark.parametrize("name", ["remix", "remix-drw"])
def test_the_record_of_remix_says_what_the_paper_says(name):
    params = parameters(name, "pretrain")
    assert (params.mixup, params.mixed_labels) == (1.0, "remix")
    assert (params.remix_ratio, params.remix_below) == (3.0, 0.5)
    assert params.sampler == "instance-balanced"
    weights = (0, 0, "weighted-mean") if name == "remix" else (0.9999, 160, "weighted-mean")
    assert (params.beta, params.defer, params.reduction) == weights


@pytest.mark.parametrize("limit", [("--remix-ratio", "1e9"), ("--remix-below", "0")], ids=" ".join)
def test_at_both_limits_a_run_of_remix_is_one_of_mixup_bit_for_bit(kept, limit):
    mixup = kept("cross-entropy", "--mixup", "1")
    one = kept("remix", *limit)
    assert one.keys() == mixup.keys()
    assert all(one[name].equal(mixup[name]) for name in one)


def test_a_run_of_remix_is_another_one_than_mixups_and_takes_the_prior_out(kept, copy):
    mixup, one = kept("cross-entropy", "--mixup", "1"), kept("remix")
    weight = "classifier.weight"
    assert not one[weight][0].equal(mixup[weight][0])
    assert read_header(copy / "kept-remix.safetensors").info["balanced"]
    assert not read_header(copy / "kept-cross-entropy.safetensors").info["balanced"]


def test_remix_with_deferred_weights_is_remix_until_the_switch_and_no_longer(kept):
    base, deferred = kept("remix"), kept("remix-drw")
    assert all(deferred[name][0].equal(base[name][0]) for name in base)
    weight = "classifier.weight"
    assert not deferred[weight][1].equal(base[weight][1])


def test_remix_without_mixup_is_refused(ltcli, copy):
    done = ltcli("pretrain", "--method", "remix", "--mixup", "0", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == ["error: pretrain: mixed-labels must be share without --mixup, got remix"]
    done = ltcli("pretrain", "--mixed-labels", "remix", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == ["error: pretrain: mixed-labels must be share without --mixup, got remix"]


# Class weights by the effective number of samples.


@pytest.mark.parametrize("stage", BOTH)
@pytest.mark.parametrize(("reduction", "divisor"), [(REDUCTIONS[0], 2.8), (REDUCTIONS[1], 3)])
def test_both_reductions_by_hand(objective, reduction, divisor, stage):
    # n = (1, 2), beta = 1/2: raw weights 1 and (1/2)/(3/4) = 2/3, of mean 5/6: w = (1.2, 0.8).
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    loss = objective("class-balanced", [1, 2], stage, beta=0.5, reduction=reduction)
    total = 1.2 * math.log(2) + 0.8 * math.log(4) + 0.8 * math.log(2)
    assert loss(logits, labels).item() == pytest.approx(total / divisor)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("counts", "beta"), [([5, 5, 5], 0.9999), ([100, 10, 1], 0.0)], ids=["uniform", "beta=0"]
)
def test_equal_counts_and_no_weights_give_cross_entropy(objective, case, counts, beta, reduction):
    loss = objective("class-balanced", counts, beta=beta, reduction=reduction)
    torch.testing.assert_close(loss(*case), F.cross_entropy(*case))


def test_published_weights_of_cifar_10_at_100(objective):
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    loss = objective("class-balanced", counts, reduction="mean-of-weighted")
    weights = [loss(torch.zeros(1, 10), torch.tensor([c])).item() / math.log(10) for c in range(10)]
    published = [0.0506, 0.0769, 0.1211, 0.1950, 0.3188, 0.5246, 0.8683, 1.4426, 2.4092, 3.9927]
    assert weights == pytest.approx(published, abs=1e-4)


def test_the_weighted_mean_of_one_class_is_cross_entropy(rng, objective):
    # All weights of the batch are equal and cancel; the other reduction keeps them.
    logits, labels = torch.randn(4, 2, generator=rng), torch.ones(4, dtype=torch.int64)
    plain = F.cross_entropy(logits, labels)
    weighted = objective("class-balanced", [90, 1])(logits, labels)
    torch.testing.assert_close(weighted, plain)
    scaled = objective("class-balanced", [90, 1], reduction="mean-of-weighted")(logits, labels)
    assert scaled > 1.5 * plain


@pytest.mark.parametrize("stage", BOTH)
def test_without_its_weights_class_balanced_follows_the_class_prior(stage):
    assert parameters("class-balanced", stage).beta == 0.9999
    assert balances("class-balanced", stage)
    assert not balances("class-balanced", stage, beta=0.0)


def test_class_balanced_focal_is_the_weighted_sum_over_classes_divided_by_the_number_of_images(
    objective, case
):
    logits, labels = case
    weights = effective_number_weights(torch.tensor(COUNTS), 0.9999).float()
    total = 0.0
    for row, y in zip(logits.sigmoid(), labels.tolist(), strict=True):
        for c in range(3):
            right = row[c] if c == y else 1 - row[c]
            total += weights[y] * (1 - right) ** 0.5 * -right.log()
    value = objective("class-balanced-focal", COUNTS, gamma=0.5)(logits, labels)
    torch.testing.assert_close(value, total / 8)


def test_without_weights_or_with_equal_counts_class_balanced_focal_is_the_focal_loss(
    objective, case
):
    focal = objective("focal", COUNTS, form="sigmoid")(*case)
    without = objective("class-balanced-focal", COUNTS, beta=0.0)(*case)
    equal = objective("class-balanced-focal", [7, 7, 7])(*case)
    torch.testing.assert_close(without, focal)
    torch.testing.assert_close(equal, focal)


def test_the_record_of_class_balanced_focal_says_what_the_released_code_does():
    run = planned("class-balanced-focal", "pretrain")
    params = run.params
    assert (params.options.form, params.beta, params.options.gamma) == ("sigmoid", 0.9999, 1.0)
    assert params.reduction == "mean-of-weighted"
    assert params.defer == 0
    assert PRESETS["class-balanced-focal"].head(params.options, run).rare_bias
    assert balances("class-balanced-focal", "pretrain")
    assert not balances("class-balanced-focal", "pretrain", beta=0.0)


def test_class_balanced_focal_trains_from_the_command_line(kept, copy):
    bias = kept("class-balanced-focal")["classifier.bias"]
    assert bias.isfinite().all()
    # The bias began at -log 9 and is on its way.
    assert bias.mean().item() == pytest.approx(-2.197, abs=0.7)
    info = read_header(copy / "kept-class-balanced-focal.safetensors").info
    assert info["balanced"]
    assert info["method"] == "class-balanced-focal"


# Class-balanced fine-tuning.


def test_each_class_is_drawn_equally_often_and_the_whole_network_moves():
    defaults = PRESETS["class-balanced-finetuning"].defaults["finetune"]
    assert defaults["sampler"] == "class-aware"
    assert (defaults["data"], defaults["train"]) == ("images", "all")


def test_the_sampler_decides_whether_class_balanced_finetuning_balances():
    run = planned("class-balanced-finetuning")
    assert not PRESETS["class-balanced-finetuning"].balances(run.params.options, run)
    assert balances("class-balanced-finetuning", "finetune")
