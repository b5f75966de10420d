import pytest

from ltcli.artifacts.header import read_header

# Shares and the loss of mixed labels: tests/stats/test_losses.py, tests/engine/test_steps.py.


def test_the_record_says_what_the_paper_says(options):
    params = options("remix", "pretrain")
    assert (params.mixup, params.mixed_labels) == (1.0, "remix")
    assert (params.remix_ratio, params.remix_below) == (3.0, 0.5)
    assert (params.beta, params.sampler) == (0, "instance-balanced")


@pytest.mark.parametrize("limit", [("--remix-ratio", "1e9"), ("--remix-below", "0")], ids=" ".join)
def test_at_both_limits_a_run_is_one_of_mixup_bit_for_bit(kept, limit):
    mixup = kept("cross-entropy", "--mixup", "1")
    one = kept("remix", *limit)
    assert one.keys() == mixup.keys()
    assert all(one[name].equal(mixup[name]) for name in one)


def test_a_run_is_another_one_than_mixups_and_takes_the_prior_out(kept, copy):
    mixup, one = kept("cross-entropy", "--mixup", "1"), kept("remix")
    weight = "classifier.weight"
    assert not one[weight][0].equal(mixup[weight][0])
    assert read_header(copy / "kept-remix.safetensors").info["balanced"]
    assert not read_header(copy / "kept-cross-entropy.safetensors").info["balanced"]


def test_without_mixup_it_is_refused(ltcli, copy):
    done = ltcli("pretrain", "--method", "remix", "--mixup", "0", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == ["error: pretrain: mixed-labels must be share without --mixup, got remix"]
    done = ltcli("pretrain", "--mixed-labels", "remix", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == ["error: pretrain: mixed-labels must be share without --mixup, got remix"]
