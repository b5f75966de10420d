import torch

from ltcli.methods import balances
from ltcli.methods.focal_drw import METHOD
from ltcli.stats.class_weights import effective_number_weights

COUNTS = [60, 20, 4]


def test_before_the_switch_it_is_the_focal_loss_bit_for_bit(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    base, deferred = objective("focal", COUNTS), objective("focal-drw", COUNTS)
    for epoch in (0, 1, 159):
        assert deferred(logits, labels, epoch).equal(base(logits, labels, epoch))


def test_from_the_switch_on_it_is_the_weighted_loss(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    weights = effective_number_weights(torch.tensor(COUNTS), 0.9999).float()
    losses = torch.stack(
        [(1 - z.softmax(0)[y]) * -z.log_softmax(0)[y] for z, y in zip(logits, labels, strict=True)]
    )
    expected = (weights[labels] * losses).sum() / weights[labels].sum()
    deferred = objective("focal-drw", COUNTS)
    for epoch in (160, 161, 199):
        torch.testing.assert_close(deferred(logits, labels, epoch), expected)
    assert abs(deferred(logits, labels, 159) - expected) > 0.01


def test_the_record_says_what_the_released_code_does(options):
    params = options("focal-drw", "pretrain")
    assert (params.beta, params.defer, params.reduction) == (0.9999, 160, "weighted-mean")
    assert params.sampler == "instance-balanced"
    assert (params.form, params.gamma) == ("softmax", 1.0)
    assert balances(METHOD, params)


def test_a_run_is_that_of_the_focal_loss_until_the_switch_and_no_longer(kept):
    # Of two epochs the second one has the weights.
    base, deferred = kept("focal"), kept("focal-drw")
    moved = [name for name in base if not name.endswith(("epoch", "classifier.scales"))]
    assert all(deferred[name][0].equal(base[name][0]) for name in moved)
    assert not deferred["classifier.weight"][1].equal(base["classifier.weight"][1])
