import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from ltcli.models import small_images
from ltcli.models.network import build_backbone, build_network
from ltcli.models.resnet import ResNet


def count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(("num_classes", "published"), [(10, 464_154), (100, 470_004)])
def test_resnet32_has_the_published_number_of_parameters(num_classes, published):
    network = build_network(small_images.backbone("resnet32"), num_classes, seed=0)
    assert count(network) == published
    # The fixed factors of the classifier come on top.
    assert sum(p.numel() for p in network.parameters()) == published + num_classes


@pytest.mark.parametrize(
    ("name", "dim", "side"),
    [("resnet20", 64, 8), ("resnet32", 64, 8), ("resnet10", 512, 4), ("resnet18", 512, 4)],
)
def test_feature_dimension_and_map_size(name, dim, side):
    record = small_images.backbone(name)
    backbone = build_backbone(record).eval()
    assert (record.feature_dim, record.map_size) == (dim, (side, side))
    images = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert backbone.maps(images).shape == (1, dim, side, side)
        assert backbone(images).shape == (1, dim)


@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet20", 20), ("resnet44", 44), ("resnet56", 56), ("resnet110", 110), ("resnet34", 34)],
)
def test_the_name_is_the_number_of_layers_with_weights(name, layers):
    backbone = build_backbone(small_images.backbone(name))
    threes = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(threes) + 1 == layers


def test_option_a_shortcuts_subsample_and_add_zero_channels_on_either_side(rng):
    shortcut = build_backbone(small_images.backbone("resnet20")).stages[1][0].shortcut
    assert list(shortcut.parameters()) == []
    x = torch.randn(2, 16, 8, 8, generator=rng)
    expected = np.zeros((2, 32, 4, 4), np.float32)
    for i in range(4):
        for j in range(4):
            expected[:, 8:24, i, j] = x[:, :, 2 * i, 2 * j]
    np.testing.assert_array_equal(shortcut(x).numpy(), expected)


def test_shortcuts_of_equal_shapes_are_the_identity():
    for stage in build_backbone(small_images.backbone("resnet20")).stages:
        assert all(isinstance(block.shortcut, nn.Identity) for block in stage[1:])


def test_resnet18_is_that_of_torchvision_with_a_small_stem(rng):
    other = resnet18(num_classes=10)
    other.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    other.maxpool = nn.Identity()
    network = build_network(small_images.backbone("resnet18"), 10, seed=0)
    assert count(network) == count(other)
    state, own = other.state_dict(), network.state_dict()
    names = [name for name in own if name != "classifier.scales"]
    for name, value in zip(names, state.values(), strict=True):
        assert own[name].shape == value.shape, name
        own[name] = value
    network.load_state_dict(own)
    images = torch.randn(2, 3, 16, 16, generator=rng)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), other.eval()(images))


def test_one_block_by_hand():
    # Identity convolutions and batch-norms: a block doubles what is positive.
    backbone = ResNet((3,), (1,), projection=False).eval()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30
    images = torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), torch.tensor([[2.0, 0.0, 6.0]]))


def test_convolutions_start_kaiming_normal():
    torch.manual_seed(0)
    weight = build_backbone(small_images.backbone("resnet10")).stages[3][0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
