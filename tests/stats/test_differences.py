import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ltcli.stats.differences import (
    VARIANCE_FLOOR,
    DifferenceTargets,
    class_moments,
    masked,
    moved,
    rarity,
    regression_losses,
)

C, D = 3, 4


def features_of(rng, labels):
    """Features that lie apart by class."""
    return torch.randn(len(labels), D, generator=rng) + 3 * labels[:, None]


def targets(samples=20, **changed):
    options = {"memory": 6, "momentum": 0.9, "min_set": 2, "include_self": True}
    return DifferenceTargets(samples, C, D, **{**options, **changed})


def naive(feature, same_class):
    """The paper's sums, one pair at a time."""
    differences = [other - feature for other in same_class]
    mean = sum(differences) / len(differences)
    return mean, sum((mean - difference) ** 2 for difference in differences) / len(differences)


def test_class_moments_by_hand():
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 7.0]])
    counts, means, variances = class_moments(features, torch.tensor([0, 0, 2]), 3)
    assert counts.tolist() == [2, 0, 1]
    assert means.tolist() == [[2, 0], [0, 0], [5, 7]]
    assert variances.tolist() == [[1, 0], [0, 0], [0, 0]]


def test_variances_of_features_far_from_zero_keep_their_digits(rng):
    features = torch.randn(500, D, generator=rng)
    labels = torch.zeros(500, dtype=torch.int64)
    _, _, near = class_moments(features, labels, 1)
    _, _, far = class_moments(features + 1000, labels, 1)
    torch.testing.assert_close(far, near, rtol=1e-3, atol=0)


def test_targets_are_the_sums_over_batch_and_memory(rng):
    found = targets(memory=6)
    first_labels, labels = torch.tensor([0, 1, 0, 2, 1, 0]), torch.tensor([0, 1, 1, 0])
    first, features = features_of(rng, first_labels), features_of(rng, labels)
    found.visit(torch.arange(6), first, first_labels)
    means, variances, usable = found.visit(torch.arange(6, 10), features, labels)
    pool, pool_labels = torch.cat([first, features]), torch.cat([first_labels, labels])
    assert usable.all()
    for i in range(4):
        mean, variance = naive(features[i], list(pool[pool_labels == labels[i]]))
        torch.testing.assert_close(means[i], mean)
        torch.testing.assert_close(variances[i], variance)


def test_a_sample_moved_by_its_mean_is_the_mean_of_its_set_and_variances_are_one_per_class(rng):
    labels = torch.tensor([0, 1, 0, 1, 0, 2, 2])
    features = features_of(rng, labels)
    means, variances, _ = targets().visit(torch.arange(7), features, labels)
    for c in range(C):
        own = features[labels == c]
        torch.testing.assert_close((features + means)[labels == c], own.mean(0).expand(len(own), D))
        expected = own.var(0, correction=0).expand(len(own), D)
        torch.testing.assert_close(variances[labels == c], expected)


def test_without_itself_a_sample_has_the_others_of_its_class(rng):
    found = targets(include_self=False, memory=6)
    first_labels, labels = torch.tensor([0, 1, 0, 2, 1, 0]), torch.tensor([0, 1, 1, 2])
    first, features = features_of(rng, first_labels), features_of(rng, labels)
    found.visit(torch.arange(6), first, first_labels)
    means, variances, usable = found.visit(torch.arange(6, 10), features, labels)
    # Class 2 has one other feature only.
    assert usable.tolist() == [True, True, True, False]
    for i in range(3):
        others = [*first[first_labels == labels[i]]]
        others += [features[j] for j in range(4) if j != i and labels[j] == labels[i]]
        mean, variance = naive(features[i], others)
        torch.testing.assert_close(means[i], mean)
        torch.testing.assert_close(variances[i], variance, rtol=1e-4, atol=1e-5)


def test_without_itself_no_copy_of_a_sample_is_in_its_set(rng):
    # Row 0 is in the memory twice and in the batch twice.
    bank, of_class = features_of(rng, torch.zeros(5)), torch.zeros(5, dtype=torch.int64)
    found = targets(include_self=False, memory=20)
    for rows in ([0, 1, 2], [0, 3]):
        found.visit(torch.tensor(rows), bank[rows], of_class[rows])
    fresh = targets(include_self=False, memory=20, momentum=0.0)
    fresh.restore(found.tensors())
    rows = torch.tensor([0, 4, 0])
    means, variances, usable = fresh.visit(rows, bank[rows], of_class[rows])
    assert usable.all()
    for place in (0, 2):
        mean, variance = naive(bank[0], [bank[1], bank[2], bank[3], bank[4]])
        torch.testing.assert_close(means[place], mean)
        torch.testing.assert_close(variances[place], variance, rtol=1e-4, atol=1e-5)


def test_a_class_of_one_image_has_no_set_without_it(rng):
    found = targets(include_self=False, memory=20)
    feature, labels = features_of(rng, torch.ones(1)), torch.ones(1, dtype=torch.int64)
    for _ in range(4):
        assert not found.visit(torch.tensor([7]), feature, labels)[2].any()


def test_without_memory_the_batch_alone_counts(rng):
    labels = torch.tensor([0, 0, 1, 1])
    found = targets(memory=0)
    found.visit(torch.arange(4), features_of(rng, labels), labels)
    assert found.tensors()["memory"].shape == (0, D)
    features = features_of(rng, labels)
    means, variances, _ = found.visit(torch.arange(4, 8), features, labels)
    alone = targets(memory=0).visit(torch.arange(4), features, labels)
    assert means.equal(alone[0])
    assert variances.equal(alone[1])


@pytest.mark.parametrize("size", [1, 3, 4, 6, 100])
def test_the_memory_keeps_the_last_features_and_drops_the_oldest_first(rng, size):
    found, shown, shown_labels = targets(memory=size), torch.zeros(0, D), torch.zeros(0)
    for start in (0, 4, 8):
        labels = torch.randint(C, (4,), generator=rng)
        features = features_of(rng, labels)
        found.visit(torch.arange(start, start + 4), features, labels)
        shown, shown_labels = torch.cat([shown, features]), torch.cat([shown_labels, labels])
        state = found.tensors()
        assert len(state["memory"]) == min(size, len(shown))
        assert state["memory"].equal(shown[-size:])
        assert state["labels"].equal(shown_labels[-size:].to(torch.int64))


def test_moments_are_averaged_over_the_visits_of_each_sample(rng):
    labels, rows = torch.tensor([0, 0]), torch.tensor([5, 9])
    found, expected = targets(memory=0, momentum=0.75), None
    for _ in range(3):
        features = features_of(rng, labels)
        means, variances, _ = found.visit(rows, features, labels)
        now = torch.stack([features.mean(0) - features, features.var(0, correction=0).expand(2, D)])
        expected = now if expected is None else 0.75 * expected + 0.25 * now
        torch.testing.assert_close(torch.stack([means, variances]), expected)
    assert found.tensors()["seen"].nonzero().flatten().tolist() == [5, 9]
    # Another sample starts from what it sees itself.
    means, _, _ = found.visit(torch.tensor([1, 2]), features, labels)
    torch.testing.assert_close(means, features.mean(0) - features)


def test_a_set_that_is_too_small_is_neither_used_nor_remembered(rng):
    labels = torch.tensor([0, 0, 0, 1, 1])
    features = features_of(rng, labels)
    found = targets(min_set=3, memory=0)
    _, _, usable = found.visit(torch.arange(5), features, labels)
    assert usable.tolist() == [True, True, True, False, False]
    assert found.tensors()["seen"][:5].tolist() == [True, True, True, False, False]
    alone = targets(min_set=1, memory=0).visit(torch.tensor([0]), features[:1], labels[:1])
    assert alone[2].all()
    assert alone[0].eq(0).all()
    assert alone[1].eq(0).all()


def test_a_visit_in_too_small_a_set_does_not_end_the_average(rng):
    both, alone = torch.tensor([0, 0]), torch.tensor([0, 1])
    found, rows = targets(min_set=2, memory=0, momentum=0.75), torch.tensor([5, 9])
    first, last = features_of(rng, both), features_of(rng, both)
    found.visit(rows, first, both)
    assert not found.visit(rows, features_of(rng, alone), alone)[2].any()
    means, _, _ = found.visit(rows, last, both)
    before, now = first.mean(0) - first, last.mean(0) - last
    torch.testing.assert_close(means, 0.75 * before + 0.25 * now)


def test_targets_go_on_from_what_they_told(rng):
    batches = []
    for start in (0, 4, 8, 4):
        labels = torch.randint(C, (4,), generator=rng)
        batches.append((torch.arange(start, start + 4), features_of(rng, labels), labels))
    whole, broken, other = targets(), targets(), targets()
    for batch in batches[:2]:
        whole.visit(*batch)
        broken.visit(*batch)
    other.restore({name: tensor.clone() for name, tensor in broken.tensors().items()})
    for batch in batches[2:]:
        for one, two in zip(whole.visit(*batch), other.visit(*batch), strict=True):
            assert one.equal(two)


def test_squared_errors_by_hand():
    mean, variance = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 1.0]])
    parts = regression_losses(
        mean, variance, torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 3.0]]), "mse"
    )
    assert [part.tolist() for part in parts] == [[2.5], [2.0]]


def test_a_channel_without_variance_is_measured_by_the_floor():
    none, mean = torch.zeros(1, 1), torch.full((1, 1), 1e-3)
    of_mean, of_variance = regression_losses(mean, none, none, none, "kl")
    assert of_mean.item() == pytest.approx(0.5)
    assert of_variance.item() == 0


def test_the_divergence_is_that_of_gaussians(rng):
    mean, target = torch.randn(2, 5, D, generator=rng)
    variance, target_variance = torch.rand(2, 5, D, generator=rng) + 0.1
    of_mean, of_variance = regression_losses(mean, variance, target, target_variance, "kl")
    expected = kl_divergence(
        Normal(target, (target_variance + VARIANCE_FLOOR).sqrt()),
        Normal(mean, (variance + VARIANCE_FLOOR).sqrt()),
    ).mean(1)
    torch.testing.assert_close(of_mean + of_variance, expected)
    none, rest = regression_losses(target, variance, target, target_variance, "kl")
    assert none.eq(0).all()
    torch.testing.assert_close(rest, of_variance)


@pytest.mark.parametrize("form", ["mse", "kl"])
def test_no_error_is_no_loss_and_a_dead_channel_is_finite(rng, form):
    mean, variance = torch.randn(5, D, generator=rng), torch.rand(5, D, generator=rng)
    variance[:, 0] = 0
    parts = regression_losses(mean, variance, mean, variance, form)
    torch.testing.assert_close(torch.stack(parts), torch.zeros(2, 5), rtol=0, atol=1e-6)
    predicted = torch.rand(5, D, generator=rng).requires_grad_()
    sum(part.sum() for part in regression_losses(mean, predicted, -mean, variance, form)).backward()
    assert predicted.grad.isfinite().all()
    assert predicted.grad.abs().sum() > 0


def test_rarity_of_cifar_10_lt_100():
    counts = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
    table = [0.1, 0.1292, 0.1669, 0.2155, 0.2784, 0.3594, 0.4642, 0.5998, 0.7762, 1.0]
    torch.testing.assert_close(
        rarity(counts), torch.tensor(table, dtype=torch.float64), rtol=0, atol=5e-5
    )


def test_a_class_without_images_is_not_the_rarest():
    assert rarity(torch.tensor([4, 0, 1])).tolist() == [0.5, 1.0, 1.0]


def test_moved_by_hand():
    moved_by = moved(
        torch.tensor([[1.0, 1.0]]),
        torch.tensor([[0.5, -1.0]]),
        torch.tensor([[4.0, 0.0]]),
        torch.tensor([0.5]),
        torch.tensor([[-1.0, 9.0]]),
    )
    assert moved_by.tolist() == [[1 + (2 * -1 + 0.5) / 2, 1 - 0.5]]


@pytest.mark.parametrize("what", ["no factor", "no difference"])
def test_without_factor_or_difference_nothing_moves(rng, what):
    features, mean, noise = torch.randn(3, 5, D, generator=rng)
    variance, factors = torch.rand(5, D, generator=rng), torch.rand(5, generator=rng)
    if what == "no factor":
        factors = torch.zeros(5)
    else:
        mean, variance = torch.zeros(5, D), torch.zeros(5, D)
    assert moved(features, mean, variance, factors, noise).equal(features)


def test_the_mask_at_its_ends_is_all_or_nothing_even_for_a_draw_of_zero(rng):
    features, changed = torch.randn(2, 5, D, generator=rng)
    draws = torch.rand(5, D, generator=rng)
    draws[0, 0] = 0
    assert masked(features, changed, draws, 0.0).equal(features)
    assert masked(features, changed, draws, 1.0).equal(changed)
    half = masked(features, changed, draws, 0.5)
    assert half.equal(torch.where(draws >= 0.5, features, changed))


@pytest.mark.parametrize("t", [0.3, 0.5, 1.0])
def test_moments_of_an_augmented_feature(rng, t):
    count, strength = 200_000, 1.2
    features = torch.tensor([1.0, -0.5]).expand(count, 2).double()
    mean = torch.tensor([0.8, 0.0]).expand(count, 2).double()
    variance = torch.tensor([0.3, 1.5]).expand(count, 2).double()
    noise = torch.randn(count, 2, generator=rng).double()
    draws = torch.rand(count, 2, generator=rng)
    factors = torch.full((count,), strength).double()
    made = masked(features, moved(features, mean, variance, factors, noise), draws, t)
    expected = features[0] + t * strength * mean[0]
    spread = t * strength**2 * variance[0] + t * (1 - t) * (strength * mean[0]) ** 2
    error = 4 * (spread / count).sqrt()
    assert ((made.mean(0) - expected).abs() < error).all()
    # The fourth moment of these mixtures is at most 10 times the squared variance.
    assert ((made.var(0) - spread).abs() < 4 * spread * math.sqrt(10 / count)).all()
