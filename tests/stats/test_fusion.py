import pytest
import torch

from ltcli.models.classifier import Classifier
from ltcli.stats.fusion import activation_maps, fuse, masks

B, C, D, Y, X = 6, 4, 5, 3, 2
L = Y * X


@pytest.fixture
def maps(rng):
    return torch.rand(B, D, Y, X, generator=rng)


@pytest.fixture
def others(rng):
    return torch.rand(B, D, Y, X, generator=rng) - 2


def draws_of(rng, length=L):
    return torch.randint(2**31, (B, length), generator=rng)


def everywhere(batch=B):
    return torch.ones(batch, Y, X, dtype=torch.bool)


def test_two_positions_by_hand():
    # F = (1, 2) at the left, (3, 4) at the right; w = (10, 1): 12 and 34.
    maps = torch.tensor([[[[1.0, 3.0]], [[2.0, 4.0]]]])
    activations = activation_maps(maps, torch.tensor([[10.0, 1.0]]))
    assert activations.tolist() == [[[12.0, 34.0]]]
    specific, generic = masks(activations, 0.8, 0.2)
    assert specific.tolist() == [[[False, True]]]
    assert generic.tolist() == [[[True, False]]]


@pytest.mark.parametrize("form", ["linear", "cosine"])
def test_the_mean_activation_and_the_bias_are_the_logit(rng, maps, form):
    classifier = Classifier(D, C, form).requires_grad_(False)
    classifier.bias.copy_(torch.randn(C, generator=rng))
    classifier.scales.copy_(torch.rand(C, generator=rng) + 0.5)
    labels = torch.tensor([0, 1, 2, 3, 3, 0])
    features = maps.mean((2, 3))
    rows = classifier.scales[:, None] * classifier.weight
    lengths = torch.ones(B)
    if form == "cosine":
        lengths = classifier.weight.norm(dim=1)[labels] * features.norm(dim=1)
    means = activation_maps(maps, rows[labels]).mean((1, 2)) / lengths
    logits = means + (classifier.scales * classifier.bias)[labels]
    expected = classifier(features).gather(1, labels[:, None]).flatten()
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


def test_an_activation_map_is_that_of_its_own_image_and_class_position_by_position(rng, maps):
    weights = torch.randn(B, D, generator=rng)
    made = activation_maps(maps, weights)
    for b in range(B):
        for y in range(Y):
            for x in range(X):
                assert made[b, y, x].item() == pytest.approx(
                    sum(weights[b, d].item() * maps[b, d, y, x].item() for d in range(D)), abs=1e-6
                )


def test_masks_are_thresholds_on_each_image_scaled_to_its_own_range():
    # Binary fractions, so that a value at a threshold is exactly there, in neither set.
    scaled = torch.tensor([0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0])
    activations = torch.stack([scaled, 4 * scaled - 8, scaled.flip(0)]).unsqueeze(1)
    specific, generic = masks(activations, 0.75, 0.25)
    high = [False, False, False, False, False, True, True]
    low = [True, True, False, False, False, False, False]
    assert specific.squeeze(1).tolist() == [high, high, high[::-1]]
    assert generic.squeeze(1).tolist() == [low, low, low[::-1]]


def test_masks_do_not_depend_on_the_scale_and_offset_of_the_activations(rng):
    activations = torch.randn(B, Y, X, generator=rng).double()
    moved = masks(3 * activations + 5, 0.6, 0.4)
    for one, other in zip(masks(activations, 0.6, 0.4), moved, strict=True):
        assert one.equal(other)


def test_of_a_constant_map_every_position_is_specific_and_generic():
    for mask in masks(torch.full((2, Y, X), 3.0), 0.8, 0.2):
        assert mask.all()


def test_no_set_is_ever_empty(rng):
    activations = torch.randn(B, Y, X, generator=rng)
    specific, generic = masks(activations, 0.9999, 0.0001)
    assert specific.flatten(1).sum(1).tolist() == [1] * B
    assert generic.flatten(1).sum(1).tolist() == [1] * B
    assert specific.flatten(1).int().argmax(1).equal(activations.flatten(1).argmax(1))
    assert generic.flatten(1).int().argmax(1).equal(activations.flatten(1).argmin(1))


def test_thresholds_beyond_the_range_take_every_position(rng):
    specific, generic = masks(torch.randn(B, Y, X, generator=rng), -0.1, 1.1)
    assert specific.all()
    assert generic.all()


def naive(tail, donor, specific, generic, share, draws):
    """One fused feature, column by column."""
    of_tail = round(share * L)
    taken = []
    for position, draw in enumerate(draws):
        maps, mask = (tail, specific) if position < of_tail else (donor, generic)
        allowed = [(y, x) for y in range(Y) for x in range(X) if mask[y][x]]
        y, x = allowed[draw % len(allowed)]
        taken.append(maps[:, y, x])
    return sum(taken) / L


def test_it_is_what_a_loop_over_images_and_positions_gives(rng, maps, others):
    specific = torch.rand(B, Y, X, generator=rng) > 0.5
    generic = torch.rand(B, Y, X, generator=rng) > 0.5
    specific[:, 0, 0] = generic[:, 2, 1] = True
    # 0.25 and 0.75 of six positions are rounded to even, as Python does.
    shares = torch.tensor([0.0, 0.1, 0.25, 0.6, 0.75, 1.0])
    draws = draws_of(rng)
    made = fuse(maps, others, specific, generic, shares, draws).mean((2, 3))
    for b in range(B):
        parts = (maps[b], others[b], specific[b].tolist(), generic[b].tolist())
        expected = naive(*parts, shares[b].item(), draws[b].tolist())
        torch.testing.assert_close(made[b], expected)


def test_share_one_and_each_position_once_is_ordinary_pooling(maps, others):
    # Draw p means the p-th allowed position: here all are allowed, and each is drawn once.
    draws = torch.arange(L).expand(B, L)
    made = fuse(maps, others, everywhere(), everywhere(), torch.ones(B), draws)
    assert made.equal(maps)
    torch.testing.assert_close(made.mean((2, 3)), maps.mean((2, 3)), rtol=0, atol=1e-6)


def test_share_one_does_not_depend_on_the_donor_and_share_zero_not_on_the_tail(rng, maps, others):
    mask = everywhere()
    mask[:, 1] = False
    draws, other = draws_of(rng), torch.randn(B, D, Y, X, generator=rng)
    one, zero = torch.ones(B), torch.zeros(B)
    assert fuse(maps, others, mask, mask, one, draws).equal(
        fuse(maps, other, mask, ~mask, one, draws)
    )
    assert fuse(maps, others, mask, mask, zero, draws).equal(
        fuse(other, others, ~mask, mask, zero, draws)
    )
    assert not fuse(maps, others, mask, mask, zero, draws).equal(
        fuse(maps, other, mask, mask, zero, draws)
    )


def test_every_column_comes_from_the_allowed_columns_of_its_own_images(rng, maps, others):
    specific = torch.rand(B, Y, X, generator=rng) > 0.5
    generic = torch.rand(B, Y, X, generator=rng) > 0.5
    specific[:, 0, 0] = generic[:, 0, 0] = True
    shares = torch.rand(B, generator=rng)
    made = fuse(maps, others, specific, generic, shares, draws_of(rng)).flatten(2)
    for b in range(B):
        allowed = [maps[b, :, mask] for mask in [specific[b]]] + [others[b, :, generic[b]]]
        of_tail = round(shares[b].item() * L)
        for p in range(L):
            columns = allowed[p >= of_tail]
            assert (columns == made[b, :, p, None]).all(0).any()
    # Averages of such columns lie in their convex hull.
    both = torch.cat([maps, others]).flatten(2)
    assert (made.mean(2) <= both.amax((0, 2))).all()
    assert (made.mean(2) >= both.amin((0, 2))).all()


def test_each_allowed_position_is_drawn_equally_often(rng):
    # Four allowed positions of six, or the other two: within four standard errors.
    count = 4000
    maps = torch.arange(6.0).view(1, 1, 3, 2)
    mask = torch.tensor([[[True, False], [True, True], [False, True]]])
    draws = torch.randint(2**31, (count, L), generator=rng)
    made = fuse(
        maps.expand(count, -1, -1, -1),
        maps.expand(count, -1, -1, -1) + 10,
        mask.expand(count, -1, -1),
        ~mask.expand(count, -1, -1),
        torch.full((count,), 0.5),
        draws,
    ).flatten(1)
    for values, names in ((made[:, :3], [0.0, 2.0, 3.0, 5.0]), (made[:, 3:], [11.0, 14.0])):
        assert sorted(values.unique().tolist()) == names
        p = 1 / len(names)
        for name in names:
            share = (values == name).double().mean().item()
            assert abs(share - p) < 4 * (p * (1 - p) / values.numel()) ** 0.5
