import torch
from torch.nn import functional as F

from ltcli.methods import balances
from ltcli.methods.ldam_drw import METHOD
from ltcli.stats.class_weights import effective_number_weights

COUNTS = [1296, 256, 16]


def lowered(z, y):
    """One sample's loss, with margins 1/6, 1/4 and 1/2 of cosines times 30."""
    margin = 30 * torch.tensor([1 / 6, 1 / 4, 1 / 2])[y]
    return F.cross_entropy(z - margin * F.one_hot(y, 3), y)


def test_before_the_switch_it_is_ldam_bit_for_bit(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    base, deferred = objective("ldam", COUNTS), objective("ldam-drw", COUNTS)
    for epoch in (0, 1, 159):
        assert deferred(logits, labels, epoch).equal(base(logits, labels, epoch))


def test_from_the_switch_on_it_is_the_weighted_loss(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    weights = effective_number_weights(torch.tensor(COUNTS), 0.9999).float()
    losses = torch.stack([lowered(z, y) for z, y in zip(logits, labels, strict=True)])
    expected = (weights[labels] * losses).sum() / weights[labels].sum()
    deferred = objective("ldam-drw", COUNTS)
    for epoch in (160, 161, 199):
        torch.testing.assert_close(deferred(logits, labels, epoch), expected)
    assert abs(deferred(logits, labels, 159) - expected) > 0.01


def test_the_record_says_what_the_released_code_does(options):
    params = options("ldam-drw", "pretrain")
    assert (params.beta, params.defer, params.reduction) == (0.9999, 160, "weighted-mean")
    assert params.sampler == "instance-balanced"
    assert (params.max_margin, params.scale) == (0.5, 30.0)
    assert balances(METHOD, params)


def test_a_run_is_that_of_ldam_until_the_switch_and_no_longer(kept):
    # Of two epochs the second one has the weights.
    base, deferred = kept("ldam"), kept("ldam-drw")
    moved = [name for name in base if not name.endswith(("epoch", "classifier.scales", "bias"))]
    assert all(deferred[name][0].equal(base[name][0]) for name in moved)
    assert not deferred["classifier.weight"][1].equal(base["classifier.weight"][1])
