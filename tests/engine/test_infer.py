from types import SimpleNamespace

import pytest
import torch

from ltcli.data.batches import FeatureBatches, ImageBatches
from ltcli.engine.infer import _folded, applied, backbone_maps, batch_size, features_of
from ltcli.models import small_images, timm_networks
from ltcli.models.network import build_network, place

CPU = torch.device("cpu")
RESNET20 = small_images.backbone("resnet20")
# What a source must know of a split.
SPLIT = SimpleNamespace(info={"store": "images", "image_size": [8, 8]})


def of_timm(name):
    """The record of a network of timm."""
    return timm_networks.SOURCE.resolve(name, "", SPLIT)


def network_of(record, rng, device=CPU):
    """A network whose batch-norms have statistics and factors of their own."""
    network = build_network(record, 3, seed=0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=rng)
            module.bias.data.normal_(0, 0.2, generator=rng)
    with torch.no_grad():
        for _ in range(20):
            network.train()(torch.randn(16, 3, 8, 8, generator=rng))
    return place(network.eval(), device)


def images_of(count, rng, device=CPU):
    pixels = torch.randint(256, (count, 8, 8, 3), generator=rng, dtype=torch.uint8)
    return ImageBatches(pixels, (0.5,) * 3, (0.25,) * 3, device)


def error(made, expected):
    return ((made - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", ["resnet20", "resnet10"])
def test_folded_batch_norms_change_nothing_but_rounding(rng, name):
    network, images = (
        network_of(small_images.backbone(name), rng),
        torch.randn(5, 3, 8, 8, generator=rng),
    )
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        expected = network.backbone.maps(images)
        made = backbone_maps(network)(images)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("of", [of_timm("resnet10"), small_images.backbone("resnet20", "sla")])
def test_folded_features_are_those_of_the_backbone_in_eval_mode(rng, of):
    network, images = network_of(of, rng), images_of(5, rng)
    with torch.no_grad():
        expected = network.backbone(images.plain(slice(0, 5)))
    network.train()
    made = features_of(network, images, torch.float32)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert all(module.training for module in network.modules())
    convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in network.modules())
    folded = folded_modules(network)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in folded) == convolutions
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded)


def folded_modules(network):
    """The modules that the folded network works with."""
    graph = _folded(network.backbone)
    return [graph.get_submodule(n.target) for n in graph.graph.nodes if n.op == "call_module"]


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_networks_of_timm_have_the_features_of_their_backbone_folded_or_not(rng, name):
    record = of_timm(name)
    network = build_network(record, 3, 0).eval()
    pixels = torch.randint(256, (2, *record.image_size, 3), generator=rng, dtype=torch.uint8)
    images = ImageBatches(pixels, record.mean, record.std, CPU)
    with torch.no_grad():
        expected = network.backbone(images.plain(slice(0, 2)))
    made = features_of(network, images, torch.float32)
    assert made.shape == (2, record.feature_dim)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


class _Branches(torch.nn.Module):
    """Its way depends on the values: it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.bn(self.conv(x))
        return (x if x.sum() > 0 else -x).mean((2, 3))


def test_a_network_that_cannot_be_traced_works_as_it_is(rng):
    network = network_of(RESNET20, rng)
    network.backbone = _Branches()
    images = images_of(5, rng)
    expected = network.backbone.eval()(images.plain(slice(0, 5)))
    made = features_of(network.train(), images, torch.float32)
    torch.testing.assert_close(made, expected.detach())


def test_features_are_the_backbones_in_eval_mode_for_any_number_of_images(rng):
    network = network_of(RESNET20, rng)
    for count in (1, 128, 129, 300):
        images = images_of(count, rng)
        with torch.no_grad():
            expected = network.backbone(images.plain(slice(0, count)))
        made = features_of(network, images, torch.float32)
        assert made.dtype == torch.float32
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def test_no_images_have_no_features(rng):
    made = features_of(network_of(RESNET20, rng), images_of(0, rng), torch.float32)
    assert made.shape == (0, 64)


def test_a_batch_does_not_depend_on_its_neighbours(rng):
    network, images = network_of(RESNET20, rng), images_of(140, rng)
    whole = features_of(network, images, torch.float32)
    maps_of = backbone_maps(network)
    with torch.inference_mode():
        for row in (0, 127, 128, 139):
            alone = maps_of(images.plain(slice(row, row + 1))).mean((2, 3))
            torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-4)


def test_bfloat16_is_within_two_percent_of_float32(rng):
    network, images = network_of(RESNET20, rng), images_of(64, rng)
    exact = features_of(network, images, torch.float32)
    coarse = features_of(network, images, torch.bfloat16)
    assert 0 < error(coarse, exact) < 2e-2


def test_rows_come_in_order_and_on_the_cpu():
    rows = torch.arange(1000)
    made = applied(lambda part: part[:, None].double(), rows.split(128), CPU, torch.float32)
    assert made.dtype == torch.float32
    assert made.flatten().tolist() == rows.tolist()


def test_batches_of_large_images_are_smaller_where_memory_is_the_limit():
    # Tensors without values, for all devices but a CPU.
    elsewhere = torch.device("meta")
    sizes = {}
    for side in (8, 64, 96, 224, 1024):
        pixels = torch.empty(1, side, side, 3, dtype=torch.uint8)
        sizes[side] = batch_size(ImageBatches(pixels, (0.5,) * 3, (0.25,) * 3, elsewhere))
    assert sizes == {8: 1024, 64: 1024, 96: 455, 224: 128, 1024: 128}
    assert batch_size(FeatureBatches(torch.empty(5, 64), elsewhere)) == 1024
    assert batch_size(FeatureBatches(torch.empty(5, 64), CPU)) == 128


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gives_the_features_of_a_cpu(rng, dtype):
    device = torch.device("cuda")
    network = network_of(RESNET20, rng)
    on_cpu, on_gpu = (images_of(1100, rng.manual_seed(1), where) for where in (CPU, device))
    exact = features_of(network, on_cpu, torch.float32)
    made = features_of(place(network, device), on_gpu, dtype)
    assert made.device == CPU
    assert error(made, exact) < 2e-2
