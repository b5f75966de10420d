import math
import typing

import pytest

from ltcli.engine.schedules import SCHEDULES, learning_rate, ramp
from ltcli.stages.pretrain import Params

EPOCHS = (0, 4, 5, 158, 159, 160, 178, 179, 180, 199)
_SHARP = (0.02, 0.1, 0.1, 0.1, 0.1, 1e-3, 1e-3, 1e-3, 1e-5, 1e-5)
_GENTLE = (0.02, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 1e-3, 1e-3)
_METASAUG = (0.1, 0.1, 0.1, 0.1, 1e-3, 1e-3, 1e-3, 1e-5, 1e-5, 1e-5)


@pytest.mark.parametrize(
    ("name", "rates"),
    [("ldam", _SHARP), ("metasaug", _METASAUG), ("mislas", _GENTLE), ("gcl", _GENTLE)],
)
def test_golden_learning_rates(name, rates):
    made = [learning_rate(SCHEDULES[name], 200, epoch) for epoch in EPOCHS]
    # Decimal fractions are not exact in binary: 0.1 * 0.01 is one unit from 1e-3.
    assert made == pytest.approx(list(rates), rel=1e-15)


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "phases"),
    [
        ("ldam", 200, 128, {5: 0.1, 159: 0.1, 160: 1e-3, 179: 1e-3, 180: 1e-5, 199: 1e-5}),
        ("metasaug", 200, 100, {0: 0.1, 158: 0.1, 159: 1e-3, 178: 1e-3, 179: 1e-5, 199: 1e-5}),
        ("mwn", 100, 100, {0: 0.1, 78: 0.1, 79: 0.01, 88: 0.01, 89: 1e-3, 99: 1e-3}),
        ("mislas", 200, 128, {5: 0.1, 159: 0.1, 160: 0.01, 179: 0.01, 180: 1e-3, 199: 1e-3}),
        ("bbn", 200, 128, {5: 0.1, 118: 0.1, 119: 1e-3, 158: 1e-3, 159: 1e-5, 199: 1e-5}),
        ("gcl", 200, 64, {5: 0.1, 159: 0.1, 160: 0.01, 179: 0.01, 180: 1e-3, 199: 1e-3}),
        ("fsa", 300, 128, {0: 0.1, 149: 0.1, 150: 0.01, 299: 0.01}),
    ],
)
def test_published_phases(name, epochs, batch, phases):
    schedule = SCHEDULES[name]
    assert (schedule.epochs, schedule.batch_size) == (epochs, batch)
    for epoch, rate in phases.items():
        assert learning_rate(schedule, epochs, epoch) == pytest.approx(rate, rel=1e-15)


@pytest.mark.parametrize("name", ["ldam", "mislas", "bbn", "gcl"])
def test_warm_up_is_linear_over_five_epochs(name):
    rates = [learning_rate(SCHEDULES[name], 200, epoch) for epoch in range(6)]
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1], rel=1e-15)


def test_weight_decay_momentum_and_border_of_each_recipe():
    table = {
        name: (s.weight_decay, s.nesterov, s.pad_mode)
        for name, s in SCHEDULES.items()
        if name not in ("cosine", "fsa")
    }
    plain, nesterov = (2e-4, False, "constant"), (5e-4, True, "reflect")
    assert table == {
        **dict.fromkeys(("ldam", "mislas", "gcl"), plain),
        **dict.fromkeys(("metasaug", "mwn"), nesterov),
        "bbn": (2e-4, True, "constant"),
    }


@pytest.mark.parametrize(
    ("name", "epochs", "phases"),
    [
        ("ldam", 50, {39: 0.1, 40: 1e-3, 44: 1e-3, 45: 1e-5, 49: 1e-5}),
        ("ldam", 400, {319: 0.1, 320: 1e-3, 359: 1e-3, 360: 1e-5}),
        ("fsa", 20, {9: 0.1, 10: 0.01}),
        ("mwn", 10, {7: 0.1, 8: 0.01, 9: 1e-3}),
    ],
)
def test_milestones_move_in_proportion_when_the_run_is_longer_or_shorter(name, epochs, phases):
    for epoch, rate in phases.items():
        assert learning_rate(SCHEDULES[name], epochs, epoch) == pytest.approx(rate, rel=1e-15)


def test_cosine_starts_at_the_base_rate_after_warm_up_and_falls_to_almost_nothing():
    rates = [learning_rate(SCHEDULES["cosine"], 105, epoch) for epoch in range(105)]
    assert rates[:6] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert rates[55] == pytest.approx(0.05)
    assert rates[104] == pytest.approx(0.05 * (1 + math.cos(math.pi * 0.99)))
    assert rates[5:] == sorted(set(rates[5:]), reverse=True)


def test_a_run_shorter_than_its_warm_up_still_has_a_rate():
    for schedule in SCHEDULES.values():
        for epochs in (1, 2, 5):
            assert all(learning_rate(schedule, epochs, epoch) > 0 for epoch in range(epochs))


def test_pretrain_offers_every_recipe():
    assert set(typing.get_args(typing.get_type_hints(Params)["schedule"])) == set(SCHEDULES)


def test_an_augmentation_grows_linearly_towards_its_full_strength():
    # t / T of the released code of RISDA: epochs 160 to 199 of 200, here 0 to 39 of 40 from 0.8.
    assert [ramp(0.0, t, 4) for t in range(4)] == [0, 0.25, 0.5, 0.75]
    assert [ramp(0.8, t, 40) for t in (0, 39)] == pytest.approx([160 / 200, 199 / 200])
    assert ramp(1.0, 3, 7) == 1
