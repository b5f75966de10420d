import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from ltcli.models.borrowed import Borrowed, borrowed_map_size, build_borrowed, names, outline, takes
from ltcli.models.network import build_backbone, build_network, map_size, num_stages

# With and without maps; pooled by a module, by a function and by a mean; with a convolution last.
SMALL = {
    "resnet18": (512, True),
    "shufflenet_v2_x0_5": (1024, True),
    "mnasnet0_5": (1280, True),
    "squeezenet1_1": (512, True),
    "mobilenet_v2": (1280, True),
    "mobilenet_v3_small": (1024, False),
}
# Shapes alone, at the size of the images that they were published for.
LARGE = {
    "alexnet": (224, 4096),
    "googlenet": (224, 1024),
    "inception_v3": (299, 2048),
    "convnext_tiny": (224, 768),
    "vit_b_16": (224, 768),
    "densenet121": (224, 1024),
    "regnet_y_400mf": (224, 440),
}


def penultimate(name, backbone, images):
    """What the last layer of torchvision's own network gets, with the same weights."""
    whole = models.get_model(name).eval()
    apart = whole.load_state_dict(backbone.body.state_dict(), strict=False)
    assert {key.rpartition(".")[0] for key in apart.missing_keys} <= {backbone.head}
    seen = []
    whole.get_submodule(backbone.head).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        whole(images)
    return seen[0]


@pytest.mark.parametrize("name", SMALL)
def test_features_are_what_the_last_layer_gets(rng, name):
    side = 32 if name == "squeezenet1_1" else 8
    images = torch.randn(3, 3, side, side, generator=rng)
    backbone = build_backbone(f"torchvision.{name}", (side, side))
    dim, has_maps = SMALL[name]
    assert (backbone.feature_dim, backbone.has_maps, backbone.views) == (dim, has_maps, 1)
    with torch.no_grad():
        backbone.train()(images)  # batch-norm statistics of their own
        features = backbone.eval()(images)
        expected = penultimate(name, backbone, images)
        # SqueezeNet's last layer works on maps.
        expected = expected if expected.dim() == 2 else expected.mean((2, 3))
        torch.testing.assert_close(features, expected)
        if has_maps:
            maps = copy.deepcopy(backbone).maps(images)
            torch.testing.assert_close(maps.mean((2, 3)), features)
            size = map_size(f"torchvision.{name}", (side, side))
            assert maps.shape == (3, dim, *size)


def test_a_backbone_without_maps_says_so():
    name = "torchvision.mobilenet_v3_small"
    assert map_size(name, (64, 64)) is None
    with pytest.raises(ValueError, match="not the mean of feature maps"):
        outline(name, (64, 64)).maps(torch.empty(1, 3, 64, 64, device="meta"))


@pytest.mark.parametrize("name", LARGE)
def test_shapes_are_known_without_values(name):
    side, dim = LARGE[name]
    backbone = outline(f"torchvision.{name}", (side, side))
    assert backbone.feature_dim == dim
    assert takes(f"torchvision.{name}", (side, side))


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_network_is_a_backbone(name):
    side = 518 if "vit_h" in name else 384
    side = 224 if "maxvit" in name else side
    assert takes(name, (side, side))
    size = borrowed_map_size(name, (side, side))
    assert size is None or min(size) > 1


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_published_weights_get_the_images_that_they_were_trained_for(name):
    body = outline(f"torchvision.{name}", (224, 224)).body
    assert (body.transform_input, body.aux_logits) == (True, False)


def test_there_are_all_classification_networks_and_resnet10():
    known = names()
    assert len(known) == len(set(known)) >= 81
    assert {f"torchvision.{name}" for name in (*SMALL, *LARGE, "resnet10")} <= set(known)
    assert "torchvision.fcn_resnet50" not in known


def test_the_recipes_name_backbones_that_there_are():
    recipes = (Path(__file__).parents[2] / "recipes").rglob("*.sh")
    named = {name for path in recipes for name in re.findall(r"torchvision\.\w+", path.read_text())}
    assert named >= {"torchvision.resnet10", "torchvision.resnet50", "torchvision.resnet152"}
    assert named <= set(names())


@pytest.mark.parametrize("name", ["torchvision.fcn_resnet50", "torchvision.RESNET18", "resnet10x"])
def test_other_names_are_unknown(name):
    with pytest.raises(KeyError):
        build_borrowed(name, (224, 224))


def test_resnet10_is_resnet18_with_one_block_in_each_stage():
    small, large = (outline(f"torchvision.resnet{depth}", (224, 224)) for depth in (10, 18))
    second = re.compile(r"layer\d\.1\.")
    kept = {k: v.shape for k, v in large.state_dict().items() if not second.search(k)}
    assert {key: value.shape for key, value in small.state_dict().items()} == kept
    assert (small.feature_dim, num_stages("torchvision.resnet10")) == (512, 0)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("inception_v3", (75, 75), (74, 74)),
        ("alexnet", (63, 63), (62, 62)),
        ("vit_b_32", (64, 64), (48, 48)),
        ("vit_b_32", (32, 32), (32, 64)),
    ],
)
def test_images_of_the_wrong_size_are_noticed_without_values(name, good, bad):
    assert takes(f"torchvision.{name}", good)
    assert not takes(f"torchvision.{name}", bad)


def test_outlines_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    outline("torchvision.regnet_y_400mf", (32, 32))
    outline("torchvision.resnet18", (32, 32))
    assert torch.get_rng_state().equal(before)


def test_weights_are_a_function_of_the_seed_and_can_be_loaded_without_a_version():
    name = "torchvision.mnasnet0_5"
    one, again, other = (build_network(name, 3, seed) for seed in (1, 1, 2))
    state = dict(one.state_dict())
    assert all(again.state_dict()[key].equal(state[key]) for key in state)
    copy.deepcopy(other).load_state_dict(state)
    other.load_state_dict(state)
    assert all(other.state_dict()[key].equal(state[key]) for key in state)


class _Twisted(nn.Module):
    """Its way depends on the values: it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x if x.sum() > 0 else -x).flatten(1)


class _Scaled(nn.Module):
    """Something happens to the features after the pooling."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x.mean([2, 3])


class _Strips(nn.Module):
    """The mean is not over all positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean([2]).flatten(1)


@pytest.mark.parametrize("body", [_Twisted(), _Scaled(), _Strips()], ids=lambda m: type(m).__name__)
def test_maps_are_not_claimed_where_the_features_are_not_their_mean(body):
    assert not Borrowed(body, 3, "fc").has_maps


def test_the_mode_of_the_network_stays():
    assert Borrowed(_Scaled(), 3, "fc").body.training
