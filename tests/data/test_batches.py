import numpy as np
import pytest
import torch

from ltcli.artifacts.store import open_artifact
from ltcli.data.batches import ImageBatches, augmentation_draws

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
    batches = ImageBatches(images, MEAN, STD, CPU, padding=padding, pad_mode=pad_mode, flip=flip)
    rows = torch.arange(70) % 7
    draws = augmentation_draws(70, seed=0, epoch=0)
    made = batches.augmented(rows, draws)
    assert made.dtype == torch.float32
    for i in range(70):
        expected = naive(images[rows[i]], draws[i], padding, pad_mode, flip)
        np.testing.assert_allclose(made[i].numpy(), expected, atol=1e-5)


def test_without_padding_and_flip_augmentation_does_nothing(images):
    batches = ImageBatches(images, MEAN, STD, CPU, padding=0, flip=False)
    rows = torch.tensor([3, 3, 0])
    made = batches.augmented(rows, augmentation_draws(3, seed=0, epoch=0))
    assert made.equal(batches.plain(rows))


def test_plain_images_are_only_normalised(images):
    batches = ImageBatches(images, MEAN, STD, CPU, padding=2)
    values = (images.double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    made = batches.plain(torch.tensor([2, 5]))
    torch.testing.assert_close(made.double(), values[[2, 5]].permute(0, 3, 1, 2), rtol=0, atol=1e-5)
    assert batches.plain(slice(2, 6)).equal(batches.plain(torch.arange(2, 6)))
    assert batches.plain(slice(0, 0)).shape == (0, 3, 6, 9)


def test_batches_lie_in_channels_last_memory(images):
    batches = ImageBatches(images, MEAN, STD, CPU)
    draws = augmentation_draws(7, seed=0, epoch=0)
    for made in (batches.plain(slice(0, 7)), batches.augmented(torch.arange(7), draws)):
        assert made.is_contiguous(memory_format=torch.channels_last)


def test_a_reflected_border_is_never_wider_than_the_image(images):
    # Six rows can be reflected by five at most.
    wide = ImageBatches(images, MEAN, STD, CPU, padding=8, pad_mode="reflect")
    narrow = ImageBatches(images, MEAN, STD, CPU, padding=5, pad_mode="reflect")
    draws = augmentation_draws(7, seed=0, epoch=0)
    rows = torch.arange(7)
    assert wide.augmented(rows, draws).equal(narrow.augmented(rows, draws))


def test_making_batches_leaves_the_images_alone(images):
    before = images.clone()
    batches = ImageBatches(images, MEAN, STD, CPU)
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


def test_a_part_of_a_split_comes_with_the_statistics_of_the_split(chain):
    with open_artifact(chain / "split.safetensors") as split:
        batches = ImageBatches.of_split(split, "val", CPU, padding=0)
        info, images = split.header.info, split.tensor("val.images")
    values = (images.double() / 255 - torch.tensor(info["mean"])) / torch.tensor(info["std"])
    made = batches.plain(slice(0, batches.size)).double()
    torch.testing.assert_close(made, values.permute(0, 3, 1, 2), rtol=0, atol=1e-5)
