import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ltcli.methods.range_loss import METHOD, Options, make_steps
from ltcli.stats import metric


def plain_loss(case, batch):
    logits = case.network.classifier(case.inputs(batch))
    return F.cross_entropy(logits, case.labels[batch.rows])


def test_a_step_is_that_of_the_sum(make_run, batch):
    case = make_run("range-loss")
    x, labels = case.inputs(batch), case.labels[batch.rows]
    narrow = metric.range_within(x, labels, 4, 2)
    apart = metric.range_between(x, labels, 4, 9.0)
    assert float(narrow) > 0
    assert float(apart) > 0
    expected = plain_loss(case, batch) + 0.3 * narrow + 0.2 * apart
    options = Options(within=0.3, between=0.2, centre_margin=9.0)
    mine = make_steps(options, case).step(batch)
    assert float(mine.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)


def test_without_weights_it_is_cross_entropy(make_run, batch):
    case = make_run("range-loss")
    expected = plain_loss(case, batch)
    mine = make_steps(Options(within=0.0, between=0.0), case).step(batch)
    assert float(mine.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)


def test_the_backbone_learns_from_it(make_run, batch):
    case = make_run("range-loss", whole=True)
    still = dataclasses.replace(case, reduce=lambda values, *_: 0 * values.sum())
    before = [p.detach().clone() for p in case.network.backbone.parameters()]
    make_steps(Options(), still).step(batch)
    after = case.network.backbone.parameters()
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_the_record_moves_the_whole_network():
    assert METHOD.stages == ("pretrain", "finetune")
    assert METHOD.defaults["finetune"]["train"] == "all"


def test_a_frozen_backbone_is_refused(ltcli, copy):
    done = ltcli("finetune", "--method", "range-loss", "--train", "classifier", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: train must be all for range-loss, got classifier",
        "hint: its loss is a function of the features, which only the backbone changes",
    ]


def test_fine_tuning_moves_the_whole_network(ltcli, copy):
    done = ltcli("finetune", "--method", "range-loss", "--epochs", "1", "-d", copy)
    assert done.code == 0
