import pytest
import torch

from ltcli.engine.infer import backbone_maps
from ltcli.models import small_images
from ltcli.models.classifier import Classifier
from ltcli.models.network import build_backbone, build_network


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
