import pytest
import torch

from ltcli.artifacts.header import read_header
from ltcli.methods import balances
from ltcli.methods.class_balanced_focal import METHOD
from ltcli.methods.focal import Params, head
from ltcli.stats.class_weights import effective_number_weights

COUNTS = [60, 20, 4]


def test_it_is_the_weighted_sum_over_classes_divided_by_the_number_of_images(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    weights = effective_number_weights(torch.tensor(COUNTS), 0.9999).float()
    total = 0.0
    for row, y in zip(logits.sigmoid(), labels.tolist(), strict=True):
        for c in range(3):
            right = row[c] if c == y else 1 - row[c]
            total += weights[y] * (1 - right) ** 0.5 * -right.log()
    value = objective("class-balanced-focal", COUNTS, gamma=0.5)(logits, labels)
    torch.testing.assert_close(value, total / 8)


def test_without_weights_or_with_equal_counts_it_is_the_focal_loss(rng, objective):
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    focal = objective("focal", COUNTS, form="sigmoid")(logits, labels)
    without = objective("class-balanced-focal", COUNTS, beta=0.0)(logits, labels)
    equal = objective("class-balanced-focal", [7, 7, 7])(logits, labels)
    torch.testing.assert_close(without, focal)
    torch.testing.assert_close(equal, focal)


def test_the_record_says_what_the_released_code_does(options):
    params = options("class-balanced-focal", "pretrain")
    assert (params.form, params.beta, params.gamma) == ("sigmoid", 0.9999, 1.0)
    assert params.reduction == "mean-of-weighted"
    assert params.defer == 0
    assert head(Params(form=params.form)).rare_bias
    assert balances(METHOD, params)
    assert not balances(METHOD, options("class-balanced-focal", "pretrain", beta=0.0))


def test_it_trains_from_the_command_line(kept, copy):
    weight = kept("class-balanced-focal")["classifier.bias"]
    assert weight.isfinite().all()
    # The bias began at -log 9 and is on its way.
    assert weight.mean().item() == pytest.approx(-2.197, abs=0.7)
    info = read_header(copy / "kept-class-balanced-focal.safetensors").info
    assert info["balanced"]
    assert info["method"] == "class-balanced-focal"
