"""Simultaneous intervals and the smallest detectable difference: by hand, limits, a naive twin."""

import math
from statistics import NormalDist

import pytest
import torch

from ltcli.core.errors import ParamError
from ltcli.stats.intervals import resampled_rows
from ltcli.stats.simultaneous import differences, student


def draw(rng, share, images=400, runs=1):
    return torch.rand(runs, images, generator=rng) < share


def judged(*rows, level=0.95, resamples=2000, seed=0):
    return differences(rows, resampled_rows(rows, resamples=resamples, seed=seed), level)


def first_right(count, images=10):
    return (torch.arange(images) < count).unsqueeze(0)


def facts(found):
    return pytest.approx([found.value, *found.interval, found.detectable], abs=1e-12)


def test_by_hand():
    # Two rows against the first; d = 0.1 and -0.2. Deviations of row 1: -0.1, 0.1, 0, 0, of
    # standard deviation sqrt(0.005); of row 2: 0.1, 0.1, -0.1, -0.1, of 0.1. So T is sqrt 2,
    # sqrt 2, 1, 1, and its median lies half-way between.
    rows = [first_right(count) for count in (5, 6, 3)]
    moved = torch.tensor([[-0.1, 0.1], [0.1, 0.1], [0.0, -0.1], [0.0, -0.1]], dtype=torch.float64)
    base = torch.tensor([[0.5], [0.4], [0.6], [0.5]], dtype=torch.float64)
    resampled = torch.cat([base, base + torch.tensor([0.1, -0.2]) + moved], dim=1)
    first, second = differences(rows, resampled.split(1, dim=1), 0.5)
    critical = (math.sqrt(2) + 1) / 2
    assert first.value == pytest.approx(0.1)
    half = critical * math.sqrt(0.005)
    assert first.interval == pytest.approx((0.1 - half, 0.1 + half))
    assert second.interval == pytest.approx((-0.2 - critical * 0.1, -0.2 + critical * 0.1))
    assert second.detectable == pytest.approx((critical + 0.841621) * 0.1, rel=1e-6)
    assert not first.tie
    assert not second.tie


def test_a_loop_over_resamples_finds_the_same(rng):
    rows = [draw(rng, share) for share in (0.7, 0.72, 0.6)]
    means = torch.cat(resampled_rows(rows, resamples=300, seed=3), dim=1)
    d = [float(row.double().mean() - rows[0].double().mean()) for row in rows[1:]]
    spread = []
    for k in (1, 2):
        moved = [float(means[r, k] - means[r, 0]) for r in range(300)]
        centre = sum(moved) / 300
        spread.append(math.sqrt(sum((x - centre) ** 2 for x in moved) / 300))
    largest = sorted(
        max(abs(float(means[r, k] - means[r, 0]) - d[k - 1]) / spread[k - 1] for k in (1, 2))
        for r in range(300)
    )
    place = 0.9 * 299
    below = int(place)
    critical = largest[below] + (place - below) * (largest[below + 1] - largest[below])
    for k, found in enumerate(judged(*rows, level=0.9, resamples=300, seed=3)):
        assert found.value == pytest.approx(d[k])
        assert found.interval[0] == pytest.approx(d[k] - critical * spread[k])
        assert found.interval[1] == pytest.approx(d[k] + critical * spread[k])


def test_one_row_has_the_normal_interval_of_paired_images(rng):
    # b is a but for 60 images of 4,000 that only a gets right, and 20 that only b does.
    a = draw(rng, 0.7, images=4000)
    b = a.clone()
    b[0, a[0].nonzero().flatten()[:60]] = False
    b[0, (~a[0]).nonzero().flatten()[:20]] = True
    (found,) = judged(a, b, resamples=8000)
    error = math.sqrt((80 / 4000 - 0.01**2) / 4000)
    assert found.value == pytest.approx(-0.01)
    low, high = found.interval
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.03)
    assert found.detectable == pytest.approx((1.96 + 0.8416) * error, rel=0.03)
    assert not found.tie


def test_pairing_takes_the_images_out_of_a_difference(rng):
    a = draw(rng, 0.7, images=1000)
    b = a.clone()
    b[0, a[0].nonzero().flatten()[:20]] = False
    (paired,) = judged(a, b)
    (apart,) = judged(a, draw(rng, 0.7, images=1000))
    assert paired.detectable < apart.detectable / 3


def test_independent_rows_have_the_critical_value_of_sidak(rng):
    # A first row that is always right and equally hard others: K independent differences.
    first = torch.ones(1, 2000, dtype=torch.bool)
    rows = [draw(rng, 0.7, images=2000) for _ in range(8)]
    found = judged(first, *rows, resamples=8000)
    sidak = NormalDist().inv_cdf((1 + 0.95 ** (1 / 8)) / 2)
    for row, one in zip(rows, found, strict=True):
        p = row.double().mean().item()
        half = (one.interval[1] - one.interval[0]) / 2
        assert half == pytest.approx(sidak * math.sqrt(p * (1 - p) / 2000), rel=0.04)


def test_copies_of_a_row_cost_nothing(rng):
    # Perfectly correlated differences are one difference: Holm and Bonferroni would pay for five.
    a, b = draw(rng, 0.7), draw(rng, 0.75)
    (alone,) = judged(a, b)
    for found in judged(a, b, b, b, b, b):
        assert [found.value, *found.interval, found.detectable] == facts(alone)


def test_more_rows_make_wider_intervals_and_larger_detectable_differences(rng):
    a, b = draw(rng, 0.7), draw(rng, 0.75)
    (alone,) = judged(a, b)
    among = judged(a, b, *[draw(rng, 0.7) for _ in range(6)])[0]
    assert among.value == alone.value
    assert among.interval[0] < alone.interval[0] < alone.interval[1] < among.interval[1]
    assert among.detectable > alone.detectable


def test_the_order_of_the_rows_does_not_matter(rng):
    a, b, c = (draw(rng, share) for share in (0.7, 0.75, 0.65))
    for one, other in zip(judged(a, b, c), reversed(judged(a, c, b)), strict=True):
        assert [one.value, *one.interval, one.detectable] == facts(other)


def test_swapping_two_rows_turns_the_sign(rng):
    a, b = draw(rng, 0.7), draw(rng, 0.6)
    (there,), (back,) = judged(a, b), judged(b, a)
    assert back.value == -there.value
    low, high = there.interval
    assert back.interval == pytest.approx((-high, -low))
    assert back.detectable == pytest.approx(there.detectable)


def test_a_higher_level_contains_a_lower_one(rng):
    rows = [draw(rng, 0.7) for _ in range(4)]
    for narrow, wide in zip(judged(*rows, level=0.5), judged(*rows, level=0.99), strict=True):
        assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]


def test_four_times_the_images_show_half_the_difference(rng):
    small, large = ((draw(rng, 0.8, images=n), draw(rng, 0.8, images=n)) for n in (1000, 4000))
    (few,), (many,) = judged(*small, resamples=8000), judged(*large, resamples=8000)
    assert few.detectable / many.detectable == pytest.approx(2, rel=0.1)


def test_equal_predictions_tie_and_say_nothing_of_what_could_be_shown(rng):
    a, b = draw(rng, 0.6), draw(rng, 0.9)
    same, other = judged(a, a, b)
    assert (same.value, same.interval, same.detectable) == (0, (0, 0), None)
    assert same.tie
    (alone,) = judged(a, b)
    assert [other.value, *other.interval, other.detectable] == facts(alone)
    (nothing,) = judged(a, a)
    assert nothing == same


def test_a_seed_means_nothing_across_rows(rng):
    several = draw(rng, 0.6, runs=4)
    (found,) = judged(several, several)
    assert found.value == 0
    assert found.interval[0] < 0 < found.interval[1]


def test_few_seeds_by_hand():
    # Seeds of 0.4 and 0.6 against one run of 0.5: v / S = 0.02 / 2. With the 0.01 of the images
    # that is 0.02, and 0.02^2 / (0.01^2 / 1) are 4 degrees of freedom.
    one = first_right(5)
    two = torch.cat([first_right(4), first_right(6)])
    moved = torch.tensor([[0.1], [-0.1], [0.1], [-0.1]], dtype=torch.float64)
    scores = [torch.full((4, 1), 0.5, dtype=torch.float64), 0.5 + moved.expand(4, 2)]
    (found,) = differences([one, two], scores, 0.95)
    # T is 1 in every resample, less than the normal quantile.
    half = student(1.959964, 4) * math.sqrt(0.02)
    assert found.interval == pytest.approx((-half, half), rel=1e-6)
    assert found.detectable == pytest.approx(half + 0.841621 * math.sqrt(0.02), rel=1e-6)
    (turned,) = differences([two, one], scores[::-1], 0.95)
    assert turned == found


def test_three_seeds_have_two_degrees_of_freedom():
    # Without a spread over images all is of the seeds 0.4, 0.5, 0.6: v / S = 0.01 / 3.
    one = first_right(5)
    three = torch.cat([first_right(count) for count in (4, 5, 6)])
    scores = [torch.full((4, runs), 0.5, dtype=torch.float64) for runs in (1, 3)]
    (found,) = differences([one, three], scores, 0.95)
    half = student(1.959964, 2) * math.sqrt(0.01 / 3)
    assert found.interval == pytest.approx((-half, half), rel=1e-6)


def test_few_images_of_a_class_by_hand():
    # d is 1, 0, 0 in class 0 and 1, 0 in class 1, of 5 images: s^2 of 1/3 and 1/2, parts
    # u = 3 / 3 / 25 and 2 / 2 / 25. So s_k^2 is 0.08 and f = 0.08^2 / (0.04^2 / 2 + 0.04^2) = 8/3.
    reference, row = torch.tensor([[0, 0, 0, 0, 1]]), torch.tensor([[1, 0, 0, 1, 1]])
    moved = math.sqrt(0.08) * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    scores = [torch.full((2, 1), 0.2, dtype=torch.float64), 0.6 + moved]
    strata = torch.tensor([0, 0, 0, 1, 1])
    (found,) = differences([reference, row], scores, 0.95, strata)
    half = student(1.959964, 8 / 3) * math.sqrt(0.08)
    assert 0.4 + half > 1
    assert found.interval == (pytest.approx(0.4 - half, rel=1e-6), 1.0)
    # In another order of the images, too.
    order = torch.tensor([3, 0, 4, 2, 1])
    (mixed,) = differences([reference[:, order], row[:, order]], scores, 0.95, strata[order])
    assert mixed.interval == pytest.approx(found.interval)


def test_rounding_is_no_difference():
    # All right in class 0, of 3 images, against all right in class 1, of 21: half each.
    strata = torch.tensor([0] * 3 + [1] * 21)
    worth = torch.tensor([4.0] * 3 + [4 / 7] * 21, dtype=torch.float64)
    rows = [(worth * (strata == c)).unsqueeze(0) for c in (0, 1)]
    assert 0 < abs(float(rows[1].mean() - rows[0].mean())) < 1e-15
    (found,) = differences(rows, resampled_rows(rows, strata=strata), 0.95, strata)
    assert (found.value, found.interval, found.tie, found.detectable) == (0, (0, 0), True, None)


def test_seeds_that_agree_are_one_seed(rng):
    a, b = draw(rng, 0.7), draw(rng, 0.75)
    (alone,), (three,) = judged(a, b), judged(a.expand(3, 400), b.expand(3, 400))
    assert [three.value, *three.interval, three.detectable] == facts(alone)


@pytest.mark.parametrize(
    ("freedom", "quantile", "within"),
    [(2, 4.3027, 0.05), (4, 2.7764, 0.006), (10, 2.2281, 0.001), (1e9, 1.959964, 1e-6)],
)
def test_students_quantiles_are_those_of_the_tables(freedom, quantile, within):
    assert student(1.959964, freedom) == pytest.approx(quantile, rel=within)


def test_students_quantiles_are_finite_at_the_edges():
    assert student(0, 5) == 0
    assert math.isfinite(student(5, 0.01))


def test_always_right_against_always_wrong_is_certain():
    right = torch.ones(1, 50, dtype=torch.bool)
    (found,) = judged(~right, right)
    assert (found.value, found.interval, found.tie) == (1, (1, 1), False)


def test_a_level_outside_its_range_is_refused(rng):
    with pytest.raises(ParamError, match=r"^bootstrap: level must be between 0 and 1, got 95$"):
        judged(draw(rng, 0.5), draw(rng, 0.5), level=95, resamples=10)


def test_no_difference_lies_beyond_all_and_nothing():
    reference = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    seeds = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    (found,) = judged(reference, seeds)
    assert found.interval == (-1.0, 1.0)
    assert found.detectable is None
