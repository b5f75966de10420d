import pytest
import torch

from ltcli.data.samplers import (
    balanced,
    by_class,
    class_aware,
    class_probabilities,
    instance_balanced,
    order_of,
    random_batches,
    some_of_each,
)

COUNTS = [37, 12, 0, 4, 1]
CIFAR_10_AT_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
SAMPLERS = ["instance-balanced", "class-aware", "square-root", "reversed", "progressive"]
BY_CLASS = SAMPLERS[2:]


@pytest.fixture
def labels():
    ordered = torch.arange(5).repeat_interleave(torch.tensor(COUNTS))
    return ordered[torch.randperm(len(ordered), generator=torch.Generator().manual_seed(0))]


def test_instance_balanced_visits_every_sample_once():
    order = instance_balanced(1000, seed=0, epoch=0)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(1000))
    assert order.tolist() != list(range(1000))


def test_orders_are_functions_of_seed_and_epoch_alone(labels):
    for draw in (
        *(
            lambda name=name, **place: order_of(name, labels, 5, epochs=9, **place)
            for name in SAMPLERS
        ),
        lambda **place: instance_balanced(100, **place),
        lambda **place: class_aware(labels, 5, length=100, **place),
    ):
        first = draw(seed=3, epoch=5)
        torch.manual_seed(99)
        draw(seed=3, epoch=6)
        assert draw(seed=3, epoch=5).equal(first)
        assert not draw(seed=3, epoch=6).equal(first)
        assert not draw(seed=4, epoch=5).equal(first)
        assert not draw(seed=5, epoch=3).equal(first)


def test_drawing_leaves_the_global_generator_alone(labels):
    before = torch.get_rng_state()
    instance_balanced(100, seed=0, epoch=0)
    class_aware(labels, 5, seed=0, epoch=0, length=100)
    for name in SAMPLERS:
        order_of(name, labels, 5, seed=0, epoch=0, epochs=3)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("draws", [1, 4, 7])
def test_a_cycle_draws_every_class_that_has_images_equally_often(labels, draws):
    cycle = 4 * draws
    order = class_aware(labels, 5, seed=0, epoch=0, length=6 * cycle, draws_per_class=draws)
    assert order.dtype == torch.int64
    for drawn in labels[order].view(6, cycle):
        assert drawn.bincount(minlength=5).tolist() == [draws, draws, 0, draws, draws]
        blocks = drawn.view(4, draws)
        assert blocks.eq(blocks[:, :1]).all()


def test_classes_come_in_another_order_every_cycle(labels):
    order = class_aware(labels, 5, seed=0, epoch=0, length=16 * 50)
    classes = labels[order].view(50, 4, 4)[:, :, 0]
    assert len({tuple(row) for row in classes.tolist()}) > 10


def test_all_images_of_a_class_are_seen_before_any_repeats(labels):
    order = class_aware(labels, 5, seed=0, epoch=0, length=16 * 40)
    orders = []
    for label, count in enumerate(COUNTS):
        drawn = order[labels[order] == label].tolist()
        assert len(drawn) == (160 if count else 0)
        own = set(torch.where(labels == label)[0].tolist())
        for start in range(0, len(drawn), count or 1):
            one_pass = drawn[start : start + count]
            assert len(set(one_pass)) == len(one_pass)
            if len(one_pass) == count:
                assert set(one_pass) == own
                orders.append(tuple(one_pass))
    # Passes of the classes with 37 and 12 images: each one is shuffled anew.
    long_passes = [one for one in orders if len(one) > 4]
    assert len(set(long_passes)) == len(long_passes) == 160 // 37 + 160 // 12


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 54, 500])
def test_the_epoch_has_the_length_that_is_asked_for(labels, length):
    order = class_aware(labels, 5, seed=0, epoch=0, length=length)
    assert len(order) == length
    assert labels[order].bincount(minlength=5)[2] == 0


def test_one_class_alone_is_shuffled_whole():
    order = class_aware(torch.full((10,), 2), 3, seed=0, epoch=0, length=20)
    assert order[:10].sort().values.tolist() == order[10:].sort().values.tolist() == list(range(10))


def test_images_of_a_class_are_drawn_first_equally_often():
    labels = torch.tensor([0, 0, 0, 1])
    first = [class_aware(labels, 2, seed=0, epoch=e, length=8) for e in range(3000)]
    drawn = torch.stack([order[labels[order] == 0][0] for order in first]).bincount(minlength=4)
    # Binomial with n = 3000, p = 1/3: standard deviation 25.8.
    assert (drawn[:3] - 1000).abs().max() < 4 * 25.8


def test_an_imagenet_lt_epoch_is_drawn_in_one_go():
    counts = (1280 * 256 ** (-torch.arange(1000) / 999)).long()
    labels = torch.arange(1000).repeat_interleave(counts)
    order = class_aware(labels, 1000, seed=0, epoch=0, length=115_846)
    shares = labels[order].bincount(minlength=1000)
    assert (shares.min(), shares.max()) == (28 * 4, 29 * 4)


def test_some_of_each_class_are_distinct_and_random():
    labels = torch.tensor([0] * 50 + [1] * 9 + [2] * 2)
    drawn = some_of_each(labels, 3, 5, seed=0)
    assert labels[drawn].tolist() == [0] * 5 + [1] * 5 + [2] * 2
    assert len(set(drawn.tolist())) == 12
    assert drawn.equal(some_of_each(labels, 3, 5, seed=0))
    assert not drawn.equal(some_of_each(labels, 3, 5, seed=1))


def test_random_batches_are_subsets_drawn_anew_for_each_step_and_epoch():
    rows = torch.arange(100, 108)
    drawn = random_batches(rows, 5, 40, seed=0, epoch=3)
    assert drawn.shape == (40, 5)
    assert all(len(set(step)) == 5 and set(step) <= set(rows.tolist()) for step in drawn.tolist())
    assert len({tuple(sorted(step)) for step in drawn.tolist()}) > 20
    assert not drawn.equal(random_batches(rows, 5, 40, seed=0, epoch=4))
    assert not drawn.equal(random_batches(rows, 5, 40, seed=1, epoch=3))


def test_published_probabilities_of_the_reversed_sampler_of_cifar_10_at_100():
    published = [0.0040, 0.0067, 0.0112, 0.0187, 0.0312, 0.0520, 0.0867, 0.1447, 0.2424, 0.4024]
    found = class_probabilities(torch.tensor(CIFAR_10_AT_100), "reversed", 0.0)
    assert found.tolist() == pytest.approx(published, abs=1e-4)
    assert found.sum().item() == pytest.approx(1, rel=1e-12)


def test_square_root_and_progressive_by_hand():
    # Roots 4, 2, 0, 1 of 16, 4, 0, 1; a third of the way from n / 21 to 1 / 3.
    counts = torch.tensor([16, 4, 0, 1])
    found = class_probabilities(counts, "square-root", 0.5)
    assert found.tolist() == pytest.approx([4 / 7, 2 / 7, 0, 1 / 7])
    found = class_probabilities(counts, "progressive", 1 / 3)
    expected = [2 / 3 * n / 21 + 1 / 9 for n in (16, 4, 1)]
    assert found.tolist() == pytest.approx([*expected[:2], 0, expected[2]])


def test_progressive_begins_instance_balanced_and_ends_class_balanced():
    counts = torch.tensor(COUNTS)
    first, last = (class_probabilities(counts, "progressive", share) for share in (0.0, 1.0))
    torch.testing.assert_close(first, counts.double() / 54)
    torch.testing.assert_close(last, torch.tensor([0.25, 0.25, 0, 0.25, 0.25]).double())


@pytest.mark.parametrize("name", BY_CLASS)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_of_equal_counts_all_probabilities_are_equal(name, progress):
    found = class_probabilities(torch.tensor([7, 7, 7, 7]), name, progress)
    assert found.tolist() == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("name", BY_CLASS)
def test_classes_are_drawn_with_their_probabilities_and_images_uniformly_within(labels, name):
    counts = torch.tensor(COUNTS)
    probabilities = class_probabilities(counts, name, 0.7)
    drawn = by_class(labels, probabilities, seed=0, epoch=0, length=200_000)
    per_image = probabilities[labels] / counts[labels]
    shares = drawn.bincount(minlength=len(labels)) / len(drawn)
    error = (per_image * (1 - per_image) / len(drawn)).sqrt()
    assert ((shares - per_image).abs() < 4 * error).all()
    shares = labels[drawn].bincount(minlength=5) / len(drawn)
    error = (probabilities * (1 - probabilities) / len(drawn)).sqrt()
    assert ((shares - probabilities).abs() <= 4 * error).all()


def test_frequencies_of_the_reversed_sampler_of_cifar_10_at_100():
    labels = torch.arange(10).repeat_interleave(torch.tensor(CIFAR_10_AT_100))
    orders = [order_of("reversed", labels, 10, seed=0, epoch=e, epochs=20) for e in range(20)]
    assert all(len(order) == 12_406 for order in orders)
    drawn = labels[torch.cat(orders)].bincount(minlength=10) / (20 * 12_406)
    inverse = 1 / torch.tensor(CIFAR_10_AT_100).double()
    p = inverse / inverse.sum()
    assert ((drawn - p).abs() < 4 * (p * (1 - p) / (20 * 12_406)).sqrt()).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_order_is_as_long_as_the_data_and_has_no_empty_class(labels, name):
    for epoch in range(3):
        order = order_of(name, labels, 5, seed=1, epoch=epoch, epochs=3)
        assert order.dtype == torch.int64
        assert order.shape == labels.shape
        assert not labels[order].eq(2).any()


def test_orders_by_name_are_those_of_the_functions(labels):
    place = {"seed": 3, "epoch": 4}
    plain = order_of("instance-balanced", labels, 5, epochs=9, **place)
    assert plain.equal(instance_balanced(54, **place))
    aware = order_of("class-aware", labels, 5, epochs=9, **place)
    assert aware.equal(class_aware(labels, 5, length=54, **place))
    # The fifth of nine epochs is half of the way.
    for name in BY_CLASS:
        probabilities = class_probabilities(torch.tensor(COUNTS), name, 0.5)
        expected = by_class(labels, probabilities, length=54, **place)
        assert order_of(name, labels, 5, epochs=9, **place).equal(expected)


def test_the_first_and_the_last_epoch_are_the_ends_of_progressive(labels):
    counts = torch.tensor(COUNTS)
    for epochs, epoch, progress in ((9, 0, 0.0), (9, 8, 1.0), (1, 0, 0.0)):
        order = order_of("progressive", labels, 5, seed=0, epoch=epoch, epochs=epochs)
        probabilities = class_probabilities(counts, "progressive", progress)
        expected = by_class(labels, probabilities, seed=0, epoch=epoch, length=54)
        assert order.equal(expected)


@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 0, 2], [3, 3, 1, 1], [5]], ids=str)
def test_balanced_rows_have_every_class_as_often_as_the_largest(labels):
    labels = torch.tensor(labels)
    rows = balanced(labels)
    assert rows[: len(labels)].tolist() == list(range(len(labels)))
    largest = int(labels.bincount().max())
    assert set(labels[rows].bincount().tolist()) <= {0, largest}
    # No sample comes twice before all of its class have come.
    times = rows.bincount()
    for c in labels.unique():
        of_class = times[labels == c]
        assert of_class.max() - of_class.min() <= 1
