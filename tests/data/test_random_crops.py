import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from ltcli.data.batches import Augmentation
from ltcli.data.random_crops import augmented, random_box

SHAPES = [(375, 500), (500, 333), (20, 30), (1, 60), (60, 1), (1, 1), (2, 3), (75, 100), (100, 134)]


def noise(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def photograph(rng, height, width):
    """Smooth areas with edges and the noise of a camera."""
    coarse = Image.fromarray(noise(rng, height // 16, width // 16))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)


def steps(size, interpolation, augmentation):
    """The same changes by torchvision, for images of Pillow and tensors alike."""
    how = v2.InterpolationMode(interpolation)
    made = [v2.RandomResizedCrop(size, (augmentation.least_area, 1), interpolation=how)]
    if augmentation.flip:
        made.append(v2.RandomHorizontalFlip())
    if augmentation.jitter:
        made.append(v2.ColorJitter(*[augmentation.jitter] * 3))
    return v2.Compose(made)


@pytest.mark.parametrize("least_area", [0.08, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_part_is_drawn_as_by_torchvision_number_for_number(shape, least_area):
    crop = v2.RandomResizedCrop(8, scale=(least_area, 1.0))
    with torch.random.fork_rng():
        for seed in range(40):
            torch.manual_seed(seed)
            box = crop.make_params([torch.empty(3, *shape)])
            draws = torch.Generator().manual_seed(seed)
            rows, columns = random_box(*shape, least_area, draws)
            assert (rows.start, rows.stop) == (box["top"], box["top"] + box["height"])
            assert (columns.start, columns.stop) == (box["left"], box["left"] + box["width"])
            # Flip and jitter go on in the same stream.
            assert draws.get_state().equal(torch.get_rng_state())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "changes", [{}, {"flip": False}, {"jitter": 0.4}, {"jitter": 1.5}], ids=str
)
def test_changes_are_torchvision_s_on_tensors(interpolation, changes):
    augmentation, size = Augmentation(**{"least_area": 0.2, **changes}), (24, 18)
    twin = steps(size, interpolation, augmentation)
    pixels = torch.from_numpy(noise(np.random.default_rng(0), 50, 61))
    with torch.random.fork_rng():
        for seed in range(20):
            torch.manual_seed(seed)
            expected = twin(pixels.permute(2, 0, 1))
            made = augmented(pixels, seed, augmentation, size, interpolation)
            assert made.equal(expected)


def test_the_global_stream_stays_where_it_is_and_a_seed_gives_one_image():
    pixels = torch.from_numpy(noise(np.random.default_rng(0), 50, 61))
    how = (Augmentation(jitter=0.4), (16, 16), "bilinear")
    before = torch.get_rng_state()
    made = augmented(pixels, 3, *how)
    torch.rand(1)
    assert made.equal(augmented(pixels, 3, *how))
    assert not made.equal(augmented(pixels, 4, *how))
    torch.set_rng_state(before)
    augmented(pixels, 5, *how)
    assert torch.get_rng_state().equal(before)


def test_the_whole_image_in_its_own_size_keeps_its_pixels_channels_last():
    pixels = torch.from_numpy(noise(np.random.default_rng(0), 20, 20))
    augmentation = Augmentation(least_area=1.0, flip=False)
    # No other part has the whole area: when none fits, the image is taken.
    made = augmented(pixels, 0, augmentation, (20, 20), "bicubic")
    assert made.equal(pixels.permute(2, 0, 1))
    assert made.permute(1, 2, 0).is_contiguous()


# Tensors and Pillow resize with the same two passes of the same antialiased filter, in whole
# numbers: 16-bit weights here and 22-bit weights there, so that the last digit may differ, after
# each pass once. Newer Pillow starts with the columns where they shrink more than the rows. That
# moves the rounding between the passes for bilinear, and for bicubic the clipping, too: of noise,
# whose edges overshoot, it clips other pixels, so that noise is compared rows first.
BOUNDS = [
    # image, filter, rows first, largest difference, largest mean difference of one crop, of 255
    (photograph, "bilinear", False, 1, 0.3),
    (noise, "bilinear", False, 1, 0.3),
    (photograph, "bicubic", False, 4, 0.35),
    (noise, "bicubic", True, 2, 0.02),
]


@pytest.mark.parametrize(("image", "interpolation", "rows_first", "largest", "mean"), BOUNDS)
def test_pixels_are_those_of_pillow_but_for_rounding(
    image, interpolation, rows_first, largest, mean
):
    rng = np.random.default_rng(0)
    how = Image.Resampling[interpolation.upper()]
    augmentation = Augmentation(least_area=0.08, flip=False)
    for seed in range(60):
        height, width = rng.integers(32, 300, 2).tolist()
        size = tuple(rng.integers(16, 200, 2).tolist())
        pixels = image(rng, height, width)
        rows, columns = random_box(height, width, 0.08, torch.Generator().manual_seed(seed))
        part = Image.fromarray(np.ascontiguousarray(pixels[rows, columns]))
        if rows_first:
            part = part.resize((size[1], part.height), how)
        expected = torch.from_numpy(np.array(part.resize(size[::-1], how))).permute(2, 0, 1)
        made = augmented(torch.from_numpy(pixels), seed, augmentation, size, interpolation)
        difference = (made.int() - expected.int()).abs()
        assert difference.max() <= largest
        assert difference.float().mean() <= mean


def test_jittered_pixels_are_those_of_pillow_but_for_rounding():
    # Pillow rounds after each of three changes, tensors are cut off: less than 2 for each, and
    # later changes stretch it.
    rng, size, augmentation = np.random.default_rng(0), (24, 30), Augmentation(jitter=0.4)
    twin = v2.Compose([steps(size, "bilinear", augmentation), v2.PILToTensor()])
    with torch.random.fork_rng():
        for seed in range(60):
            pixels = noise(rng, 50, 61)
            torch.manual_seed(seed)
            expected = twin(Image.fromarray(pixels)).int()
            made = augmented(torch.from_numpy(pixels), seed, augmentation, size, "bilinear").int()
            assert (made - expected).abs().max() <= 6
            assert (made - expected).float().abs().mean() <= 1
