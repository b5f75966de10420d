import numpy as np
import pytest
import torch
from PIL import Image

from ltcli.compute.seeds import derive
from ltcli.data.batches import (
    Augmentation,
    Batch,
    FeatureBatches,
    ImageBatches,
    augmentation_draws,
    resized,
)

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CPU = torch.device("cpu")


@pytest.fixture
def images(rng):
    # Neither square nor symmetric, so that no axis can be taken for another.
    return torch.randint(256, (7, 6, 9, 3), generator=rng, dtype=torch.uint8)


def naive(image, draw, padding, pad_mode, flip):
    """Crop, flip and normalise one image with numpy."""
    height, width = image.shape[:2]
    border = [(padding, padding), (padding, padding), (0, 0)]
    padded = np.pad(image.numpy(), border, mode=pad_mode)
    top, left = int(draw[0]) % (2 * padding + 1), int(draw[1]) % (2 * padding + 1)
    crop = padded[top : top + height, left : left + width]
    if flip and int(draw[2]) % 2:
        crop = crop[:, ::-1]
    values = (crop / 255.0 - np.array(MEAN)) / np.array(STD)
    return values.transpose(2, 0, 1)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
def test_augmentation_is_a_crop_a_flip_and_a_normalisation(images, pad_mode, padding, flip):
    batches = ImageBatches(images, MEAN, STD, CPU, Augmentation(padding, pad_mode, flip))
    rows = torch.arange(70) % 7
    draws = augmentation_draws(70, seed=0, epoch=0)
    made = batches.augmented(rows, draws)
    assert made.dtype == torch.float32
    for i in range(70):
        expected = naive(images[rows[i]], draws[i], padding, pad_mode, flip)
        np.testing.assert_allclose(made[i].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
def test_borders_are_made_a_few_images_at_a_time(images, pad_mode, monkeypatch):
    monkeypatch.setattr("ltcli.data.batches._BLOCK", 3)  # of seven
    batches = ImageBatches(images, MEAN, STD, CPU, Augmentation(2, pad_mode))
    draws = augmentation_draws(7, seed=0, epoch=0)
    made = batches.augmented(torch.arange(7), draws)
    for i in range(7):
        expected = naive(images[i], draws[i], 2, pad_mode, True)
        np.testing.assert_allclose(made[i].numpy(), expected, atol=1e-5)


def test_without_padding_and_flip_augmentation_does_nothing(images):
    batches = ImageBatches(images, MEAN, STD, CPU, Augmentation(flip=False))
    rows = torch.tensor([3, 3, 0])
    made = batches.augmented(rows, augmentation_draws(3, seed=0, epoch=0))
    assert made.equal(batches.plain(rows))


def test_plain_images_are_only_normalised(images):
    batches = ImageBatches(images, MEAN, STD, CPU, Augmentation(padding=2))
    values = (images.double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    made = batches.plain(torch.tensor([2, 5]))
    torch.testing.assert_close(made.double(), values[[2, 5]].permute(0, 3, 1, 2), rtol=0, atol=1e-5)
    assert batches.plain(slice(2, 6)).equal(batches.plain(torch.arange(2, 6)))
    assert batches.plain(slice(0, 0)).shape == (0, 3, 6, 9)


def test_batches_lie_in_channels_last_memory(images):
    batches = ImageBatches(images, MEAN, STD, CPU, Augmentation(padding=4))
    draws = augmentation_draws(7, seed=0, epoch=0)
    for made in (batches.plain(slice(0, 7)), batches.augmented(torch.arange(7), draws)):
        assert made.is_contiguous(memory_format=torch.channels_last)


def test_a_reflected_border_is_never_wider_than_the_image(images):
    # Six rows can be reflected by five at most.
    wide = ImageBatches(images, MEAN, STD, CPU, Augmentation(8, "reflect"))
    narrow = ImageBatches(images, MEAN, STD, CPU, Augmentation(5, "reflect"))
    draws = augmentation_draws(7, seed=0, epoch=0)
    rows = torch.arange(7)
    assert wide.augmented(rows, draws).equal(narrow.augmented(rows, draws))


def test_making_batches_leaves_the_images_alone(images):
    before = images.clone()
    batches = ImageBatches(images, MEAN, STD, CPU, Augmentation(padding=4))
    first = batches.plain(slice(0, 7)).clone()
    batches.augmented(torch.arange(7), augmentation_draws(7, seed=0, epoch=0))
    assert images.equal(before)
    assert batches.plain(slice(0, 7)).equal(first)


def test_draws_are_functions_of_seed_and_epoch_alone():
    first = augmentation_draws(100, seed=3, epoch=5)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert augmentation_draws(100, seed=3, epoch=5).equal(first)
    assert torch.get_rng_state().equal(before)
    for seed, epoch in ((3, 6), (4, 5), (5, 3)):
        assert not augmentation_draws(100, seed=seed, epoch=epoch).equal(first)


def test_streams_of_other_names_draw_other_numbers_for_the_same_epoch_and_position():
    names = ("augment", "augment second", "augment meta")
    draws = [augmentation_draws(100, seed=3, epoch=5, stream=name) for name in names]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert (one != other).all()


def test_the_training_batches_draw_the_numbers_that_they_always_drew():
    generator = torch.Generator().manual_seed(derive("augment", 3, 5))
    expected = torch.randint(2**31, (100, 3), generator=generator)
    for stream in ({}, {"stream": "augment"}):
        assert augmentation_draws(100, seed=3, epoch=5, **stream).equal(expected)
    # torch 2.15.0.
    assert expected[0].tolist() == [1890946800, 954049463, 323204497]


def test_draws_of_a_shorter_epoch_are_the_first_of_a_longer_one():
    long = augmentation_draws(1000, seed=0, epoch=0)
    for count in (0, 1, 5, 6, 17, 999):
        assert augmentation_draws(count, seed=0, epoch=0).equal(long[:count])


def test_every_offset_and_both_sides_come_equally_often():
    draws = augmentation_draws(9000, seed=0, epoch=0)
    for column, size in ((0, 9), (1, 9), (2, 2)):
        shares = (draws[:, column] % size).bincount(minlength=size) / 9000
        # Four standard errors.
        error = 4 * (1 / size * (1 - 1 / size) / 9000) ** 0.5
        assert (shares - 1 / size).abs().max() < error


def test_batches_in_order_are_all_the_plain_images(images):
    batches = ImageBatches(images, MEAN, STD, CPU, Augmentation(padding=2))
    for size in (1, 3, 7, 100):
        made = list(batches.in_order(slice(0, 7), size))
        assert [len(batch) for batch in made[:-1]] == [size] * (len(made) - 1)
        assert torch.cat(made).equal(batches.plain(slice(0, 7)))
    empty = ImageBatches(images[:0], MEAN, STD, CPU)
    assert [batch.shape for batch in empty.in_order(slice(0, 0), 5)] == [(0, 3, 6, 9)]


def test_what_is_drawn_depends_on_seed_epoch_and_position(images):
    rows = torch.arange(70) % 7
    for seed in (0, 5):
        batches = ImageBatches(images, MEAN, STD, CPU, Augmentation(padding=4, seed=seed))
        for epoch in (0, 1):
            whole = batches.augmented(rows, augmentation_draws(70, seed=seed, epoch=epoch))
            # Beyond the size too: an epoch may be longer than the images are many.
            for first in (0, 64, 33):
                made = batches.drawn(Batch(epoch, 0, first, rows[first:]))
                assert made.equal(whole[first:])


def test_streams_that_take_turns_do_not_disturb_each_other(images):
    batches = ImageBatches(images, MEAN, STD, CPU, Augmentation(padding=4, seed=5))
    rows = torch.arange(70) % 7
    for epoch in (0, 1, 0):
        for first in (0, 40):
            made = {}
            for stream in ("augment", "augment meta"):
                draws = augmentation_draws(70, seed=5, epoch=epoch, stream=stream)[first:]
                made[stream] = batches.drawn(Batch(epoch, 0, first, rows[first:], stream))
                assert made[stream].equal(batches.augmented(rows[first:], draws))
            assert not made["augment"].equal(made["augment meta"])


def test_embeddings_are_drawn_as_they_are(rng):
    features = torch.randn(7, 4, generator=rng)
    batches = FeatureBatches(features, CPU)
    assert torch.cat(list(batches.in_order(slice(0, 7), 3))).equal(features)
    rows = torch.tensor([6, 0, 6])
    for stream in ("augment", "augment meta"):
        assert batches.drawn(Batch(3, 0, 9, rows, stream)).equal(features[rows])
    assert [len(batch) for batch in FeatureBatches(features[:0], CPU).in_order(slice(0, 0), 3)] == [
        0
    ]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(24, 17), (4, 5), (6, 9)], ids=str)
def test_images_of_another_size_are_resized_as_by_pil(images, size, interpolation):
    batches = ImageBatches(images, MEAN, STD, CPU, Augmentation(), size, interpolation)
    made = batches.plain(slice(0, 7))
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for image, found in zip(images, made, strict=True):
        whole = Image.fromarray(image.numpy()).resize(size[::-1], filters[interpolation])
        expected = torch.from_numpy(np.array(whole)).permute(2, 0, 1)
        mean, std = (255 * torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
        # PIL computes in whole numbers, and rounds a few of them otherwise.
        assert (found * std + mean - expected).abs().max() < 1.01
    assert [empty.shape for empty in batches.in_order(slice(0, 0), 3)] == [(0, 3, *size)]
    rows = torch.tensor([2, 4])
    assert batches.drawn(Batch(0, 0, 0, rows)).shape == (2, 3, *size)


def test_resized_images_are_whole_numbers_in_the_range_of_bytes(rng):
    # Black beside white, where a bicubic filter overshoots.
    images = 255 * torch.randint(2, (3, 3, 8, 8), generator=rng).float()
    made = resized(images, (30, 30), "bicubic")
    assert (made.min(), made.max()) == (0, 255)
    assert made.equal(made.round())
    assert resized(images, (8, 8), "bicubic") is images
