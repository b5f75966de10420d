import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

from ltcli.compute.device import autocast
from ltcli.engine.tangent import directional_derivative
from ltcli.models import small_images
from ltcli.models.network import build_backbone


@pytest.fixture(params=["resnet20", "resnet10"])
def backbone(request, rng):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build_backbone(small_images.backbone(request.param)).double().train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # Away from one and zero, where factors and offsets would hide.
            layer.weight.data = 0.5 + torch.rand(layer.weight.shape, generator=rng).double()
            layer.bias.data = torch.randn(layer.bias.shape, generator=rng).double()
    return module


def direction_of(module, rng):
    return {
        name: torch.randn(parameter.shape, generator=rng).to(parameter.dtype)
        for name, parameter in module.named_parameters()
    }


def moved(module, direction, e, x):
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    parameters = {n: p.detach() + e * direction[n] for n, p in module.named_parameters()}
    return functional_call(module, {**parameters, **buffers}, (x,))


@pytest.mark.parametrize("training", [True, False])
def test_equals_central_differences(backbone, rng, training):
    backbone.train(training)
    x = torch.randn(4, 3, 8, 8, generator=rng).double()
    direction = direction_of(backbone, rng)
    e = 1e-7
    naive = (moved(backbone, direction, e, x) - moved(backbone, direction, -e, x)) / (2 * e)
    found = directional_derivative(backbone, direction, x)
    assert (found - naive).norm() < 1e-5 * naive.norm()
    assert not found.requires_grad


def test_equals_the_tangent_of_torch(backbone, rng):
    x = torch.randn(4, 3, 8, 8, generator=rng).double()
    direction = direction_of(backbone, rng)
    buffers = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    with torch.no_grad(), forward_ad.dual_level():
        dual = {
            name: forward_ad.make_dual(parameter.detach(), direction[name])
            for name, parameter in backbone.named_parameters()
        }
        output = functional_call(backbone, {**dual, **buffers}, (x,))
        naive = forward_ad.unpack_dual(output).tangent
    torch.testing.assert_close(directional_derivative(backbone, direction, x), naive)


def test_goes_through_attention(rng):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64, generator=rng)
    weights = dict(layer.named_parameters())
    direction = {
        name: torch.randn(weight.shape, dtype=torch.float64, generator=rng)
        for name, weight in weights.items()
    }
    tangent = directional_derivative(layer, direction, x)
    # <u, J v> by reverse mode.
    output = layer(x)
    u = torch.randn(output.shape, dtype=torch.float64, generator=rng)
    gradients = torch.autograd.grad((u * output).sum(), list(weights.values()))
    expected = sum((g * v).sum() for g, v in zip(gradients, direction.values(), strict=True))
    torch.testing.assert_close((u * tangent).sum(), expected)


def test_is_linear_in_the_direction(backbone, rng):
    x = torch.randn(2, 3, 8, 8, generator=rng).double()
    direction = direction_of(backbone, rng)
    twice = {name: 2 * tensor for name, tensor in direction.items()}
    once = directional_derivative(backbone, direction, x)
    torch.testing.assert_close(directional_derivative(backbone, twice, x), 2 * once)


def test_leaves_weights_and_buffers_as_they_were(backbone, rng):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    x = torch.randn(2, 3, 8, 8, generator=rng).double()
    directional_derivative(backbone, direction_of(backbone, rng), x)
    for name, tensor in backbone.state_dict().items():
        assert tensor.equal(before[name])


def test_half_precision_is_close_to_the_rounding_of_a_random_network(rng):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone(small_images.backbone("resnet20")).train()
    x = torch.randn(32, 3, 16, 16, generator=rng)
    direction = {n: 0.1 * t for n, t in direction_of(backbone, rng).items()}
    exact = directional_derivative(backbone, direction, x)
    with autocast(torch.device("cpu"), torch.bfloat16):
        half = directional_derivative(backbone, direction, x).float()
    assert torch.nn.functional.cosine_similarity(exact.flatten(), half.flatten(), dim=0) > 0.95
