import pytest
import torch

from ltcli.data.foreground import with_moved_foreground


@pytest.fixture
def image():
    """One image of 8 x 8 whose foreground is a bright spot left of the middle."""
    x = torch.zeros(1, 3, 8, 8)
    x[:, :, 3:5, 1:3] = 1.0
    return x


def mask_of(x):
    return x[:, 0] > 0.5


def moved(x, kind, a, b):
    return with_moved_foreground(x, mask_of(x), torch.tensor([kind]), torch.tensor([[a, b]]))


def test_a_flip_puts_the_foreground_on_the_other_side_too(image):
    found = moved(image, 2, 0.5, 0.5)
    expected = torch.maximum(image, image.flip(3))
    torch.testing.assert_close(found, expected)


def test_a_shift_moves_it_by_up_to_a_quarter(image):
    # Draws of 0 look half a unit, a quarter of the side, to the left and above.
    found = moved(image, 1, 0.0, 0.0)
    expected = torch.maximum(image, torch.roll(image, (2, 2), (2, 3)))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(moved(image, 1, 0.5, 0.5), image)


def test_turning_by_nothing_at_full_size_changes_nothing(image):
    torch.testing.assert_close(moved(image, 0, 0.5, 0.5), image)


def test_turns_go_both_ways_and_keep_the_distance_to_the_middle(image):
    # The spot lies on the left: turned by 45 degrees it comes to lie above or below.
    rows = torch.arange(8.0) - 3.5
    heights = []
    for draw in (0.0, 1.0):
        found = moved(image, 0, draw, 0.5)[0, 0] - image[0, 0]
        weight = found.clamp(min=0)
        heights.append(float((weight.sum(1) * rows).sum() / weight.sum()))
    assert heights[0] == pytest.approx(-heights[1], abs=0.2)
    assert abs(heights[0]) > 0.8


def test_scaling_makes_it_larger_or_smaller(image):
    grown, shrunk = moved(image, 0, 0.5, 1.0), moved(image, 0, 0.5, 0.0)
    # A larger spot lies farther out; what it was before stays below a smaller one.
    assert float(grown.sum()) > float(image.sum())
    assert float(shrunk[..., 3:5, 2:3].sum()) > 0


def test_without_foreground_the_image_stays(image):
    found = with_moved_foreground(
        image, torch.zeros(1, 8, 8, dtype=torch.bool), torch.tensor([2]), torch.rand(1, 2)
    )
    assert torch.equal(found, image)


def test_every_image_is_moved_in_its_own_way(image):
    batch = image.repeat(3, 1, 1, 1)
    draws = torch.tensor([[0.0, 0.5], [0.0, 0.0], [0.5, 0.5]])
    kinds = torch.tensor([0, 1, 2])
    found = with_moved_foreground(batch, mask_of(batch), kinds, draws)
    for i in range(3):
        alone = moved(image, int(kinds[i]), *draws[i].tolist())
        torch.testing.assert_close(found[i : i + 1], alone)
