import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltcli.stats.adjustment import Point, best, for_costs, for_prior, for_tau, log_prior, trade_off

CIFAR_10_AT_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
LOG_PRIOR = [-0.9087, -1.4206, -1.9326, -2.4440, -2.9567, -3.4675, -3.9792, -4.4915, -5.0071]
LOG_PRIOR += [-5.5139]
SHARES = st.lists(st.floats(1e-3, 1), min_size=2, max_size=6)


def exact(values):
    return torch.tensor(values, dtype=torch.float64)


def share(values):
    return exact(values) / sum(values)


def test_published_log_prior_of_cifar_10_at_100():
    prior = log_prior(torch.tensor(CIFAR_10_AT_100))
    assert prior.tolist() == pytest.approx(LOG_PRIOR, abs=1e-4)
    assert prior.double().exp().sum().item() == pytest.approx(1)


def test_another_prior_by_hand():
    # p(c|x) = (0.9, 0.1) under (3/4, 1/4): likelihoods in the ratio (0.9 * 4 / 3) : (0.1 * 4)
    # = 3 : 1, so under (1/4, 3/4) both classes are equally probable.
    logits = exact([0.9, 0.1]).log() + for_prior(share([1, 3]), share([3, 1]))
    torch.testing.assert_close(logits.softmax(0), exact([0.5, 0.5]), rtol=1e-6, atol=0)


def test_another_prior_is_bayes_rule_in_a_world_where_all_is_known(rng):
    # Three classes, seven possible images: likelihoods are known, posteriors follow.
    likelihood = torch.rand(3, 7, generator=rng, dtype=torch.float64)
    likelihood /= likelihood.sum(1, keepdim=True)
    old, new = share([60, 30, 10]), share([1, 2, 5])

    def posterior(prior):
        joint = prior.unsqueeze(1) * likelihood
        return (joint / joint.sum(0)).T

    logits = posterior(old).log() + for_prior(new, old)
    torch.testing.assert_close(logits.softmax(1), posterior(new), rtol=1e-6, atol=1e-9)


@given(SHARES)
def test_the_same_prior_changes_nothing(values):
    assert for_prior(share(values), share(values)).eq(0).all()


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=6))
def test_tau_1_is_the_uniform_prior_and_tau_0_is_nothing(counts):
    classes = torch.tensor(counts)
    uniform = for_prior(share([1] * len(counts)), share(counts))
    apart = for_tau(classes, 1.0) - uniform
    torch.testing.assert_close(apart, apart[:1].expand(len(counts)), rtol=0, atol=1e-5)
    assert for_tau(classes, 0.0).eq(0).all()


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(0.01, 100), min_size=4, max_size=4))
def test_costs_choose_the_class_of_the_least_expected_cost(seed, costs):
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    chosen = (logits + for_costs(exact(costs))).argmax(1)
    shares = logits.softmax(1)
    for row, mine in zip(shares.tolist(), chosen.tolist(), strict=True):
        expected = [sum(costs[c] * row[c] for c in range(4) if c != j) for j in range(4)]
        assert expected[mine] <= min(expected) * (1 + 1e-5)


def test_costs_by_hand():
    # Missing class 1 costs nine times as much: it is chosen from a probability of 1/10 on.
    shift = for_costs(exact([2.0, 18.0]))
    for probability, chosen in ((0.11, 1), (0.09, 0)):
        logits = exact([1 - probability, probability]).log()
        assert int((logits + shift).argmax()) == chosen


def naive_point(logits, labels, counts, tau):
    """The same in plain Python: accuracies by group of classes, and the log-loss."""
    total = sum(counts)
    right, loss = {}, {}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        z = [v - tau * math.log(n / total) for v, n in zip(row, counts, strict=True)]
        right.setdefault(label, []).append(z.index(max(z)) == label)
        loss.setdefault(label, []).append(math.log(sum(map(math.exp, z))) - z[label])
    mean = {c: sum(hits) / len(hits) for c, hits in right.items()}
    names = ["few" if n < 20 else "many" if n > 100 else "medium" for n in counts]
    groups = {}
    for name in ("many", "medium", "few"):
        members = [mean[c] for c in mean if names[c] == name]
        groups[name] = sum(members) / len(members) if members else None
    losses = [sum(each) / len(each) for each in loss.values()]
    return Point(tau, sum(mean.values()) / len(mean), **groups, log_loss=sum(losses) / len(losses))


def test_the_trade_off_counts_every_class_the_same(rng):
    # Class 4 has no validation sample; there is no class of medium size among the others.
    counts = [500, 200, 12, 3, 50]
    labels = torch.tensor([0] * 12 + [1] * 7 + [2] * 3 + [3])
    logits = 2 * torch.randn(23, 5, generator=rng)
    logits[:, 0] += 2
    points = trade_off(logits, labels, torch.tensor(counts))
    assert [point.tau for point in points] == [step / 20 for step in range(41)]
    for point in points[::8]:
        expected = naive_point(logits, labels, counts, point.tau)
        assert point.medium is None
        for name in ("balanced", "many", "few", "log_loss"):
            assert getattr(point, name) == pytest.approx(getattr(expected, name), rel=1e-5)
    # From head to tail as tau grows.
    assert points[-1].few > points[0].few


def point(tau, balanced=0.0, groups=(0.0, None, 0.0), log_loss=0.0):
    return Point(tau, balanced, *groups, log_loss)


def test_each_target_has_its_own_best_point():
    points = [
        point(0.0, 0.6, (0.9, None, 0.2), 0.9),
        point(1.0, 0.7, (0.8, None, 0.3), 0.5),
        point(1.5, 0.6, (0.5, None, 0.6), 0.7),
        point(2.0, 0.5, (0.4, None, 0.7), 0.4),
    ]
    targets = ("balanced-accuracy", "worst-group", "log-loss")
    assert [best(points, target).tau for target in targets] == [1.0, 1.5, 2.0]


def test_of_equally_good_taus_the_one_nearest_to_1_is_taken_and_then_the_smaller():
    assert best([point(t) for t in (0.0, 0.5, 0.9, 1.2, 2.0)], "balanced-accuracy").tau == 0.9
    assert best([point(t) for t in (2.0, 1.1, 0.9, 0.0)], "balanced-accuracy").tau == 0.9
    # The last digit of a mean is no difference.
    near = [point(1.0, 0.1 + 0.2), point(1.5, 0.3 + 1e-15)]
    assert best(near, "balanced-accuracy").tau == 1.0
