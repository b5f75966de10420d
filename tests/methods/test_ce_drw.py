import torch
from torch.nn import functional as F

from ltcli.methods import balances
from ltcli.methods.ce_drw import METHOD
from ltcli.stats.class_weights import effective_number_weights

COUNTS = [60, 20, 4]


def test_before_the_switch_it_is_cross_entropy_bit_for_bit(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    base, deferred = objective("cross-entropy", COUNTS), objective("ce-drw", COUNTS)
    for epoch in (0, 1, 159):
        assert deferred(logits, labels, epoch).equal(base(logits, labels, epoch))


def test_from_the_switch_on_it_is_the_weighted_loss(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    weights = effective_number_weights(torch.tensor(COUNTS), 0.9999).float()
    losses = torch.stack([F.cross_entropy(z, y) for z, y in zip(logits, labels, strict=True)])
    expected = (weights[labels] * losses).sum() / weights[labels].sum()
    deferred = objective("ce-drw", COUNTS)
    for epoch in (160, 161, 199):
        torch.testing.assert_close(deferred(logits, labels, epoch), expected)
    assert abs(deferred(logits, labels, 159) - expected) > 0.01


def test_the_record_says_what_the_released_code_does(options):
    params = options("ce-drw", "pretrain")
    assert (params.beta, params.defer, params.reduction) == (0.9999, 160, "weighted-mean")
    assert params.sampler == "instance-balanced"
    assert balances(METHOD, params)


def test_a_run_is_that_of_cross_entropy_until_the_switch_and_no_longer(kept):
    # Of two epochs the second one has the weights.
    base, deferred = kept("cross-entropy"), kept("ce-drw")
    moved = [name for name in base if not name.endswith(("epoch", "classifier.scales"))]
    assert all(deferred[name][0].equal(base[name][0]) for name in moved)
    assert not deferred["classifier.weight"][1].equal(base["classifier.weight"][1])


def test_the_switch_moves_in_proportion_to_the_epochs(ltcli, kept):
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
