import pytest
import torch

from ltcli.data.batches import ImageBatches
from ltcli.engine.infer import applied, backbone_maps, features_of
from ltcli.models.network import build_network, place

CPU = torch.device("cpu")


def network_of(name, rng, device=CPU):
    """A network whose batch-norms have statistics and factors of their own."""
    network = build_network(name, 3, seed=0)
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
    network, images = network_of(name, rng), torch.randn(5, 3, 8, 8, generator=rng)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        expected = network.backbone.maps(images)
        made = backbone_maps(network)(images)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())


def test_features_are_the_backbones_in_eval_mode_for_any_number_of_images(rng):
    network = network_of("resnet20", rng)
    for count in (1, 128, 129, 300):
        images = images_of(count, rng)
        with torch.no_grad():
            expected = network.backbone(images.plain(slice(0, count)))
        made = features_of(network, images, torch.float32)
        assert made.dtype == torch.float32
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def test_no_images_have_no_features(rng):
    made = features_of(network_of("resnet20", rng), images_of(0, rng), torch.float32)
    assert made.shape == (0, 64)


def test_a_batch_does_not_depend_on_its_neighbours(rng):
    network, images = network_of("resnet20", rng), images_of(140, rng)
    whole = features_of(network, images, torch.float32)
    maps_of = backbone_maps(network)
    with torch.inference_mode():
        for row in (0, 127, 128, 139):
            alone = maps_of(images.plain(slice(row, row + 1))).mean((2, 3))
            torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-4)


def test_bfloat16_is_within_two_percent_of_float32(rng):
    network, images = network_of("resnet20", rng), images_of(64, rng)
    exact = features_of(network, images, torch.float32)
    coarse = features_of(network, images, torch.bfloat16)
    assert 0 < error(coarse, exact) < 2e-2


def test_rows_come_in_order_and_on_the_cpu():
    rows = torch.arange(1000)
    made = applied(lambda part: part[:, None].double(), rows.split(128), CPU, torch.float32)
    assert made.dtype == torch.float32
    assert made.flatten().tolist() == rows.tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gives_the_features_of_a_cpu(rng, dtype):
    device = torch.device("cuda")
    network = network_of("resnet20", rng)
    on_cpu, on_gpu = (images_of(1100, rng.manual_seed(1), where) for where in (CPU, device))
    exact = features_of(network, on_cpu, torch.float32)
    made = features_of(place(network, device), on_gpu, dtype)
    assert made.device == CPU
    assert error(made, exact) < 2e-2
