import torch

from ltcli.artifacts.header import read_header
from ltcli.methods import balances
from ltcli.methods.ce_drs import METHOD


def test_the_loss_is_cross_entropy_before_and_after_the_switch(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    base, deferred = objective("cross-entropy", [60, 20, 4]), objective("ce-drs", [60, 20, 4])
    for epoch in (0, 159, 160, 199):
        assert deferred(logits, labels, epoch).equal(base(logits, labels, epoch))


def test_the_record_says_what_the_released_code_does(options):
    params = options("ce-drs", "pretrain")
    assert (params.sampler, params.defer, params.beta) == ("class-aware", 160, 0)
    assert balances(METHOD, params)


def test_a_run_is_that_of_cross_entropy_until_the_switch_and_no_longer(kept, copy):
    # Of two epochs the second one has the sampler.
    base, deferred = kept("cross-entropy"), kept("ce-drs")
    moved = [name for name in base if not name.endswith(("epoch", "classifier.scales"))]
    assert all(deferred[name][0].equal(base[name][0]) for name in moved)
    weight = "classifier.weight"
    assert not deferred[weight][1].equal(base[weight][1])
    assert read_header(copy / "kept-ce-drs.safetensors").info["balanced"]
