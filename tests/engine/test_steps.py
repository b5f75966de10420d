import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ltcli.compute.seeds import derive
from ltcli.data.batches import Augmentation, ImageBatches, augmentation_draws
from ltcli.data.samplers import order_of
from ltcli.engine.optimizers import SGD
from ltcli.engine.steps import (
    Batch,
    Mixing,
    labels_on_host,
    mixed_loss,
    mixture,
    plain_step,
    second_batches,
)
from ltcli.models import small_images
from ltcli.models.classifier import Classifier
from ltcli.models.network import build_network

CPU = torch.device("cpu")
B, C, D = 6, 4, 5


def mean(values, _labels, _batch, shares=None):
    """The mean loss of samples that all weigh the same."""
    return values.mean() if shares is None else (shares * values).sum() / shares.sum()


def cross_entropies(logits, labels, _batch):
    return F.cross_entropy(logits, labels, reduction="none")


@pytest.fixture
def data(rng):
    return torch.randn(20, D, generator=rng), torch.arange(20) % C


def batch_of(rows, epoch=0, step=0):
    return Batch(epoch, step, 0, torch.as_tensor(rows))


def one_step(data, batch, *, mixup, seed=0, lr=0.1):
    """One step of a fresh linear layer, and the layer."""
    features, labels = data
    torch.manual_seed(0)
    layer = nn.Linear(D, C)
    step = plain_step(
        layer,
        SGD(layer.parameters(), lr=lr),
        cross_entropies,
        mean,
        lambda batch: features[batch.rows],
        labels,
        dtype=torch.float32,
        mixing=Mixing(mixup, seed) if mixup else None,
    )
    return step(batch), layer


def test_a_step_is_one_step_of_gradient_descent(data):
    features, labels = data
    rows = torch.tensor([3, 1, 7, 7])
    loss, layer = one_step(data, batch_of(rows), mixup=0.0)
    torch.manual_seed(0)
    twin = nn.Linear(D, C)
    expected = F.cross_entropy(twin(features[rows]), labels[rows])
    gradient = torch.autograd.grad(expected, twin.weight)[0]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(layer.weight.detach(), twin.weight.detach() - 0.1 * gradient)


def test_gradients_do_not_pile_up(data):
    features, labels = data
    layer = nn.Linear(D, C)
    step = plain_step(
        layer,
        SGD(layer.parameters(), lr=0.0),
        cross_entropies,
        mean,
        lambda batch: features[batch.rows],
        labels,
        dtype=torch.float32,
    )
    step(batch_of([0, 1]))
    first = layer.weight.grad.clone()
    step(batch_of([0, 1]))
    torch.testing.assert_close(layer.weight.grad, first)


def test_mixup_with_a_share_of_1_is_cross_entropy(data):
    # A tiny alpha puts all the mass of the Beta distribution on 0 and 1.
    step = next(s for s in range(50) if mixture(B, 1e-4, 0, batch_of([], step=s))[0] == 1)
    batch = batch_of(range(B), step=step)
    loss, layer = one_step(data, batch, mixup=1e-4)
    plain, twin = one_step(data, batch, mixup=0.0)
    assert loss.equal(plain)
    assert layer.weight.equal(twin.weight)


def test_mixup_with_oneself_is_cross_entropy(data):
    # A batch of one image can only be mixed with itself.
    batch = batch_of([3])
    assert 0 < mixture(1, 1.0, 0, batch)[0] < 1
    loss, layer = one_step(data, batch, mixup=1.0)
    plain, twin = one_step(data, batch, mixup=0.0)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(layer.weight, twin.weight)


@pytest.mark.parametrize("step", range(3))
def test_mixup_is_cross_entropy_with_soft_labels(data, step):
    features, labels = data
    batch = batch_of(range(B), epoch=2, step=step)
    loss, _ = one_step(data, batch, mixup=1.0, seed=5)
    share, partner = mixture(B, 1.0, 5, batch)
    x, y = features[:B], F.one_hot(labels[:B], C).float()
    torch.manual_seed(0)
    logits = nn.Linear(D, C)(share * x + (1 - share) * x[partner])
    soft = share * y + (1 - share) * y[partner]
    torch.testing.assert_close(loss, -(soft * logits.log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize("step", range(3))
def test_each_image_can_have_shares_of_its_labels_and_weights_of_its_own(data, step):
    # A naive loop: image by image, label by label.
    features, labels = data
    batch = batch_of(range(B), epoch=2, step=step)
    weights = torch.tensor([0.1, 0.5, 1.0, 2.4])

    def shares_of(share, own, other):
        return torch.where(own < other, 1.0, share)

    def weighted(values, labels, _batch, shares):
        return (shares * weights[labels] * values).sum() / (shares * weights[labels]).sum()

    torch.manual_seed(0)
    layer = nn.Linear(D, C)
    found = mixed_loss(
        layer, cross_entropies, weighted, features[:B], labels[:B], batch, Mixing(1.0, 5, shares_of)
    )
    share, partner = mixture(B, 1.0, 5, batch)
    total, weight = 0.0, 0.0
    for i, j in enumerate(partner.tolist()):
        logs = layer(share * features[i] + (1 - share) * features[j]).log_softmax(0)
        one, other = labels[i].item(), labels[j].item()
        of_one = 1.0 if one < other else share
        total -= of_one * weights[one] * logs[one] + (1 - of_one) * weights[other] * logs[other]
        weight += of_one * weights[one] + (1 - of_one) * weights[other]
    torch.testing.assert_close(found, total / weight)


def test_losses_and_their_mean_know_the_epoch_and_step(data):
    features, labels = data
    seen = []

    def loss(logits, y, batch):
        seen.append(batch)
        return cross_entropies(logits, y, batch)

    def reduce(values, y, batch, shares=None):
        seen.append(batch)
        return mean(values, y, batch, shares)

    layer = nn.Linear(D, C)
    for mixing in (None, Mixing(1.0, 0)):
        optimizer = SGD(layer.parameters(), lr=0.1)
        inputs = lambda batch: features[batch.rows]  # noqa: E731
        made = (layer, optimizer, loss, reduce, inputs, labels)
        step = plain_step(*made, dtype=torch.float32, mixing=mixing)
        batch = batch_of([0, 1], epoch=3, step=7)
        step(batch)
        assert seen
        assert all(one is batch for one in seen)
        seen.clear()


def test_mixing_is_a_function_of_seed_epoch_and_step():
    draws = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            for step in (0, 1):
                share, partner = mixture(B, 1.0, seed, batch_of([], epoch, step))
                assert 0 <= share <= 1
                assert sorted(partner.tolist()) == list(range(B))
                draws[seed, epoch, step] = share
                again, _ = mixture(B, 1.0, seed, batch_of([], epoch, step))
                assert again == share
    assert len(set(draws.values())) == 8


def test_shares_follow_the_beta_distribution():
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)); four standard errors.
    for alpha in (0.2, 1.0):
        shares = torch.tensor([mixture(2, alpha, 0, batch_of([], step=s))[0] for s in range(2000)])
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(shares.mean() - 0.5) < 4 * (variance / 2000) ** 0.5
        assert shares.var().item() == pytest.approx(variance, rel=0.1)


def test_labels_on_the_host_are_those_of_the_rows_of_the_step():
    labels = torch.arange(20) % C
    orders = [torch.randperm(20, generator=torch.Generator().manual_seed(e)) for e in range(2)]
    asked = []

    def order(epoch):
        asked.append(epoch)
        return orders[epoch]

    on_host = labels_on_host(order, labels)
    for epoch, rows in enumerate(orders):
        for step, part in enumerate(rows.split(B)):
            # A last row that fit left out must not be there either.
            part = part[:1] if step == 3 else part
            found = on_host(Batch(epoch, step, step * B, part))
            assert found.equal(labels[part])
    assert asked == [0, 1]


def test_augmented_images_take_the_draws_of_their_position_in_the_epoch(rng):
    pixels = torch.randint(256, (20, 8, 8, 3), generator=rng, dtype=torch.uint8)
    images = ImageBatches(pixels, (0.5,) * 3, (0.2,) * 3, CPU, Augmentation(padding=4, seed=3))
    inputs = images.drawn
    order = torch.randperm(20, generator=rng)
    for epoch in (0, 1, 0):
        whole = images.augmented(order, augmentation_draws(20, seed=3, epoch=epoch))
        for size in (4, 7, 20):
            parts = [
                inputs(Batch(epoch, first // size, first, order[first : first + size]))
                for first in range(0, 20, size)
            ]
            assert torch.cat(parts).equal(whole)


def test_a_frozen_backbone_keeps_weights_and_buffers_bit_for_bit(rng):
    network = build_network(small_images.backbone("resnet20"), C, seed=0).eval()
    images = torch.randn(8, 3, 8, 8, generator=rng)
    before = {name: tensor.clone() for name, tensor in network.backbone.state_dict().items()}
    classifier = network.classifier
    classifier.train_only("weight", "bias")
    step = plain_step(
        classifier,
        SGD([classifier.weight, classifier.bias], lr=0.1, weight_decay=0.1),
        cross_entropies,
        mean,
        lambda batch: network.backbone(images[batch.rows]).detach(),
        torch.arange(8) % C,
        dtype=torch.float32,
    )
    weight, scales = classifier.weight.clone(), classifier.scales.clone()
    for number in range(3):
        step(batch_of(range(8), step=number))
    after = network.backbone.state_dict()
    assert all(after[name].equal(before[name]) for name in before)
    assert not classifier.weight.equal(weight)
    assert classifier.scales.equal(scales)


def test_a_training_step_moves_batch_norm_statistics(rng):
    network = build_network(small_images.backbone("resnet20"), C, seed=0).train()
    images = torch.randn(8, 3, 8, 8, generator=rng)
    before = network.backbone.bn1.running_mean.clone()
    step = plain_step(
        network,
        SGD(network.parameters(), lr=0.1),
        cross_entropies,
        mean,
        lambda batch: images[batch.rows],
        torch.arange(8) % C,
        dtype=torch.float32,
    )
    step(batch_of(range(8)))
    assert not network.backbone.bn1.running_mean.equal(before)
    assert network.classifier.scales.eq(1).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_a_step_on_a_gpu_costs_what_it_costs_on_a_cpu(rng, dtype, mixup):
    features, labels = torch.randn(20, D, generator=rng), torch.arange(20) % C
    expected, _ = one_step((features, labels), batch_of(range(B)), mixup=mixup)
    torch.manual_seed(0)
    twin, layer = nn.Linear(D, C), Classifier(D, C)
    layer.weight.data, layer.bias.data = twin.weight.data, twin.bias.data
    layer.cuda()
    step = plain_step(
        layer,
        SGD([layer.weight, layer.bias], lr=0.1),
        cross_entropies,
        mean,
        lambda batch: features[batch.rows].cuda(),
        labels.cuda(),
        dtype=dtype,
        mixing=Mixing(mixup, 0) if mixup else None,
    )
    before = layer.weight.detach().clone()
    loss = step(batch_of(range(B)))
    assert loss.is_cuda
    assert not layer.weight.equal(before)
    assert layer.weight.isfinite().all()
    assert layer.weight.dtype == torch.float32
    within = 1e-5 if dtype == torch.float32 else 0.05
    assert loss.item() == pytest.approx(expected.item(), abs=within)


def test_second_batches_are_no_copies_of_first_ones_by_the_same_sampler():
    labels = torch.arange(40) % 4
    second = second_batches(labels, 4, "class-aware", seed=3, epochs=2)
    rows = second(Batch(0, 0, 0, torch.arange(40))).rows
    first = order_of("class-aware", labels, 4, seed=3, epoch=0, epochs=2)
    assert len(rows) == 40
    assert not rows.equal(first[:40])


def test_an_image_in_both_batches_of_a_step_is_augmented_twice(rng):
    labels = torch.arange(40) % 4
    second = second_batches(labels, 4, "class-aware", seed=3, epochs=2)
    order = order_of("class-aware", labels, 4, seed=derive("second", 3), epoch=1, epochs=2)
    batch = Batch(1, 2, 20, order[20:30])
    found = second(batch)
    assert (found.epoch, found.step, found.first) == (1, 2, 20)
    assert found.rows.equal(batch.rows)
    assert (batch.stream, found.stream) == ("augment", "augment second")
    pixels = torch.randint(256, (40, 8, 8, 3), generator=rng, dtype=torch.uint8)
    images = ImageBatches(pixels, (0.5,) * 3, (0.2,) * 3, CPU, Augmentation(padding=4, seed=3))
    inputs, draws = images.drawn, {}
    for one in (batch, found):
        draws[one.stream] = augmentation_draws(40, seed=3, epoch=1, stream=one.stream)[20:30]
        assert inputs(one).equal(images.augmented(one.rows, draws[one.stream]))
    assert (draws["augment"] != draws["augment second"]).all()


@pytest.mark.parametrize("form", ["linear", "cosine"])
@pytest.mark.parametrize("mixing", [None, Mixing(1.0, 0)])
def test_logits_are_float32_in_every_precision(rng, form, mixing):
    network = build_network(small_images.backbone("resnet20"), 3, seed=0, form=form)
    seen = []
    network.backbone.register_forward_hook(lambda *made: seen.append(made[2].dtype))
    network.classifier.register_forward_hook(lambda *made: seen.append(made[2].dtype))
    images, labels = torch.randn(6, 3, 8, 8, generator=rng), torch.arange(6) % 3
    step = plain_step(
        network,
        SGD(network.parameters(), lr=0.1),
        lambda logits, y, _batch: F.cross_entropy(logits, y, reduction="none"),
        lambda losses, _y, _batch, _shares=None: losses.mean(),
        lambda batch: images[batch.rows],
        labels,
        dtype=torch.bfloat16,
        mixing=mixing,
    )
    step(Batch(0, 0, 0, torch.arange(6)))
    assert seen == [torch.bfloat16, torch.float32]
