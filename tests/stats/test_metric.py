import pytest
import torch

from ltcli.stats.metric import lifted, range_between, range_within, squared_distances


def points(*places):
    return torch.tensor(places, dtype=torch.float64)


def test_squared_distances_by_hand():
    found = squared_distances(points((0, 0), (3, 4)), points((0, 0), (3, 0)))
    torch.testing.assert_close(found, points((0, 9), (25, 16)))


@pytest.mark.parametrize(("side", "expected"), [(1.0, 1.0), (2.0, 4.0)])
def test_equal_distances_have_themselves_as_harmonic_mean(side, expected):
    # A triangle of equal sides: two of its three distances count, squared.
    triangle = side * points((0, 0), (1, 0), (0.5, 0.75**0.5))
    found = range_within(triangle, torch.zeros(3, dtype=torch.int64), 1, 2)
    assert float(found) == pytest.approx(expected)


def test_only_the_largest_ranges_of_a_class_count_and_classes_add_up():
    features = points((0,), (1,), (3,), (10,), (12,), (50,))
    labels = torch.tensor([0, 0, 0, 2, 2, 1])
    # Class 0: 9 and 4 of (1, 9, 4); class 2: 4 alone; class 1 has one sample.
    expected = 2 / (1 / 9 + 1 / 4) + 4
    assert float(range_within(features, labels, 4, 2)) == pytest.approx(expected)
    assert float(range_within(features, labels, 4, 1)) == pytest.approx(9 + 4)
    assert float(range_within(features, labels, 4, 9)) == pytest.approx(3 / (1 + 1 / 9 + 1 / 4) + 4)


def naive_within(features, labels, k):
    total = 0.0
    for c in set(labels.tolist()):
        own = features[labels == c]
        found = sorted(
            (float((own[i] - own[j]).square().sum()) for i in range(len(own)) for j in range(i)),
            reverse=True,
        )[:k]
        total += len(found) / sum(1 / d for d in found) if found else 0.0
    return total


def test_ranges_are_those_of_a_loop(rng):
    features = torch.randn(40, 6, generator=rng, dtype=torch.float64)
    labels = torch.randint(7, (40,), generator=rng)
    assert float(range_within(features, labels, 9, 3)) == pytest.approx(
        naive_within(features, labels, 3)
    )


def test_centres_that_are_near_cost_what_they_lack():
    features = points((0, 0), (0, 2), (0, 1.5), (9, 9))
    labels = torch.tensor([0, 0, 3, 1])
    # Centres (0, 1), (0, 1.5) and (9, 9).
    assert float(range_between(features, labels, 5, 1.0)) == pytest.approx(0.75)
    assert float(range_between(features, labels, 5, 0.2)) == 0
    assert float(range_between(features[:2], labels[:2], 5, 1.0)) == 0


def naive_lifted(features, labels, margin):
    n, total, pairs = len(labels), 0.0, 0
    d = [[float((a - b).norm()) for b in features] for a in features]
    for i in range(n):
        for j in range(i + 1, n):
            if labels[i] != labels[j]:
                continue
            others = [k for k in range(n) if labels[k] != labels[i]]
            if not others:
                continue
            pushed = sum(torch.tensor(margin - d[e][k]).exp() for e in (i, j) for k in others)
            total += max(0.0, float(pushed.log()) + d[i][j]) ** 2
            pairs += 1
    return total / (2 * pairs) if pairs else 0.0


def test_the_lifted_loss_is_that_of_a_loop(rng):
    features = torch.randn(20, 4, generator=rng, dtype=torch.float64)
    labels = torch.randint(5, (20,), generator=rng)
    found = lifted(features, labels, 1.0)
    assert float(found) == pytest.approx(naive_lifted(features, labels, 1.0), rel=1e-5)
    # Far from each other, pairs cost nothing: the logarithm pulls below zero.
    far = 100 * torch.eye(5, dtype=torch.float64)[labels]
    assert float(lifted(far, labels, 1.0)) == 0


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [0, 0, 1]])
def test_losses_and_gradients_are_finite_where_samples_coincide_or_others_lack(labels):
    labels = torch.tensor(labels)
    for loss in (
        lambda f: lifted(f, labels, 1.0),
        lambda f: range_within(f, labels, 3, 2),
        lambda f: range_between(f, labels, 3, 1.0),
    ):
        features = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
        value = loss(features)
        value.backward()
        assert value.isfinite()
        assert features.grad.isfinite().all()
        if len(set(labels.tolist())) == 1 and loss(features) is not None:
            assert float(lifted(features.detach(), labels, 1.0)) == 0


def test_gradients_are_those_of_finite_differences(rng):
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    start = torch.randn(6, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    for loss in (
        lambda f: lifted(f, labels, 1.0),
        lambda f: range_within(f, labels, 3, 2),
        lambda f: range_between(f, labels, 3, 50.0),
    ):
        assert torch.autograd.gradcheck(loss, (start,))
