import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from ltcli.engine.infer import backbone_maps
from ltcli.models import small_images
from ltcli.models.classifier import Classifier
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


@pytest.fixture
def images(rng):
    return torch.randn(3, 3, 16, 16, generator=rng)


@pytest.mark.parametrize("more", ["bbn", "sla", "ride2", "ride3"])
@pytest.mark.parametrize("plain", ["resnet20", "resnet10"])
def test_features_are_the_means_of_maps_of_the_stated_size(images, plain, more):
    record = small_images.backbone(plain, more, image_size=(16, 16))
    with torch.no_grad():
        backbone = build_backbone(record).eval()
        maps = backbone.maps(images)
        assert maps.shape == (3, record.feature_dim, *record.map_size)
        torch.testing.assert_close(backbone(images), maps.mean((2, 3)))
        # The folded form that the stages run is the same.
        network = build_network(record, 4, seed=0).train()
        network.backbone(images)
        network.eval()
        folded = backbone_maps(network)(images)
        torch.testing.assert_close(folded, network.backbone.maps(images), rtol=1e-4, atol=1e-4)


def test_dimensions_by_hand():
    dims = {("resnet32", "bbn"): 128, ("resnet32", "sla"): 256, ("resnet32", "ride3"): 144}
    dims |= {("resnet18", "ride2"): 768}
    assert {of: small_images.backbone(*of).feature_dim for of in dims} == dims


@pytest.mark.parametrize(
    ("name", "variant"),
    [("resnet20", "x"), ("resnet20", "ride1"), ("resnet20", "ride"), ("x", "bbn"), ("", "bbn")],
)
def test_other_names_are_not_known(name, variant):
    with pytest.raises(KeyError):
        small_images.backbone(name, variant)


@pytest.mark.parametrize("variant", ["bbn", "ride3", ""])
def test_early_and_late_maps_join(images, variant):
    record = small_images.backbone("resnet20", variant)
    backbone = build_backbone(record).eval()
    for stages in range(record.stages + 1):
        found = backbone.late(backbone.early(images, stages), stages)
        torch.testing.assert_close(found, backbone.maps(images))


def test_experts_share_the_first_stage_alone(images):
    backbone = build_backbone(small_images.backbone("resnet20", "ride3")).eval()
    before = backbone(images)
    with torch.no_grad():
        next(backbone.experts[1].parameters()).mul_(2)
    after = backbone(images)
    changed = [not torch.equal(before[:, i : i + 48], after[:, i : i + 48]) for i in (0, 48, 96)]
    assert changed == [False, True, False]
    with torch.no_grad():
        next(backbone.stages.parameters()).mul_(2)
    third = backbone(images)
    assert all(not torch.equal(after[:, i : i + 48], third[:, i : i + 48]) for i in (0, 48, 96))


def test_views_are_quarter_turns(images):
    backbone = build_backbone(small_images.backbone("resnet20", "sla")).eval()
    both = backbone(images), backbone(torch.rot90(images, 1, (2, 3)))
    # Turning the image moves the parts round.
    torch.testing.assert_close(both[1][:, :192], both[0][:, 64:])
    torch.testing.assert_close(both[1][:, 192:], both[0][:, :64])
    torch.testing.assert_close(both[0][:, :64], backbone.of_view(images))
    assert [small_images.backbone("resnet20", variant).views for variant in ("sla", "")] == [4, 1]


def test_maps_of_turned_views_lie_on_one_another(images):
    backbone = build_backbone(small_images.backbone("resnet20", "sla")).eval()
    maps, plain = backbone.maps(images), build_backbone(small_images.backbone("resnet20")).eval()
    plain.load_state_dict(backbone.state_dict())
    for quarter in range(4):
        turned = plain.maps(torch.rot90(images, quarter, (2, 3)))
        back = torch.rot90(turned, -quarter, (2, 3))
        torch.testing.assert_close(maps[:, 64 * quarter : 64 * (quarter + 1)], back)
    torch.testing.assert_close(backbone(images), maps.mean((2, 3)))


def test_no_stages_of_experts_and_turned_images_can_come_last():
    variants = ("", "bbn", "ride3", "sla")
    assert [small_images.backbone("resnet20", one).stages for one in variants] == [3, 3, 0, 0]
    assert small_images.backbone("resnet18").stages == 4


def test_logits_of_experts_are_the_mean_of_cosines(rng):
    classifier = Classifier(6, 4, "experts3")
    classifier.scales.data.fill_(7.0)
    features = torch.randn(5, 6, generator=rng)
    expected = torch.zeros(5, 4)
    for part in range(3):
        f, w = features[:, 2 * part : 2 * part + 2], classifier.weight[:, 2 * part : 2 * part + 2]
        expected += 7 * torch.cosine_similarity(f.unsqueeze(1), w.unsqueeze(0), dim=2) / 3
    torch.testing.assert_close(classifier(features), expected)
    assert classifier.each(features).shape == (3, 5, 4)


def test_one_expert_is_a_cosine_classifier(rng):
    features = torch.randn(5, 6, generator=rng)
    classifier = Classifier(6, 4, "cosine")
    torch.testing.assert_close(classifier.each(features)[0], classifier(features))
