import contextlib

import numpy as np
import pytest
import torch

from ltcli.core.errors import DataError
from ltcli.stats import running_moments
from ltcli.stats.quadratic import Diagonal, Full
from ltcli.stats.running_moments import Estimator


def released_update(counts, means, covariances, features, labels):
    """One step of the released estimator, [B, C, D] tensors and all."""
    B, D = features.shape
    C = len(counts)
    member = torch.nn.functional.one_hot(labels, C).to(features.dtype)
    spread = features[:, None, :].expand(B, C, D) * member[:, :, None]
    amount = member.sum(0)
    safe = amount.clamp(min=1)
    average = spread.sum(0) / safe[:, None]
    centred = spread - average * member[:, :, None]
    variance = torch.einsum("bcd,bce->cde", centred, centred) / safe[:, None, None]
    weight = amount / (amount + counts)
    weight[weight.isnan()] = 0
    w = weight[:, None, None]
    shift = means - average
    outer = shift[:, :, None] * shift[:, None, :]
    return (
        counts + amount,
        means * (1 - weight[:, None]) + average * weight[:, None],
        covariances * (1 - w) + variance * w + w * (1 - w) * outer,
    )


def stream(features, labels, num_classes, batch):
    state = running_moments.start(num_classes, features.shape[1], dtype=features.dtype)
    for i in range(0, len(features), batch):
        state = running_moments.update(state, features[i : i + batch], labels[i : i + batch])
    return state


def test_two_batches_by_hand():
    # 0 and 2, then 5: mean 7/3, variance (49 + 1 + 64) / 27 = 38/9.
    state = running_moments.start(1, 1, dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.int64)
    state = running_moments.update(state, torch.tensor([[0.0], [2.0]]), zero)
    assert state.means.item() == pytest.approx(1)
    assert state.covariances[0].item() == pytest.approx(1)
    state = running_moments.update(state, torch.tensor([[5.0]]), zero[:1])
    assert state.counts.item() == 3
    assert state.means.item() == pytest.approx(7 / 3)
    assert state.covariances[0].item() == pytest.approx(38 / 9)


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_one_pass_gives_the_population_covariance(rng, batch, mean):
    features = torch.randn(500, 5, generator=rng, dtype=torch.float64) + mean
    labels = torch.randint(0, 4, (500,), generator=rng)
    state = stream(features, labels, 5, batch)
    for c in range(4):
        own = features[labels == c].numpy()
        expected = torch.from_numpy(np.cov(own, rowvar=False, bias=True))
        torch.testing.assert_close(state.covariances[c], expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(state.means[c], torch.from_numpy(own.mean(0)))
    assert state.counts.tolist() == torch.bincount(labels, minlength=5).tolist()


def test_every_step_is_that_of_the_released_estimator(rng):
    counts = torch.zeros(6, dtype=torch.float64)
    means = torch.zeros(6, 3, dtype=torch.float64)
    covariances = torch.zeros(6, 3, 3, dtype=torch.float64)
    state = running_moments.start(6, 3, dtype=torch.float64)
    for _ in range(5):
        features = torch.randn(8, 3, generator=rng, dtype=torch.float64) + 3
        labels = torch.randint(0, 6, (8,), generator=rng)
        counts, means, covariances = released_update(counts, means, covariances, features, labels)
        state = running_moments.update(state, features, labels)
        torch.testing.assert_close(state.counts.double(), counts)
        torch.testing.assert_close(state.means, means)
        torch.testing.assert_close(state.stacked(), covariances)


def test_absent_classes_are_untouched_and_nothing_is_nan(rng):
    before = stream(torch.randn(40, 3, generator=rng), torch.arange(40) % 4, 6, 10)
    after = running_moments.update(
        before, torch.randn(5, 3, generator=rng), torch.tensor([2, 0, 2, 5, 0])
    )
    for c in (1, 3, 4):
        assert torch.equal(after.covariances[c], before.covariances[c])
        assert torch.equal(after.means[c], before.means[c])
        assert after.counts[c] == before.counts[c]
    assert after.stacked().isfinite().all()
    assert after.means.isfinite().all()
    assert after.counts.tolist() == [12, 10, 12, 10, 0, 1]


def test_an_update_leaves_the_state_before_it_alone(rng):
    before = stream(torch.randn(12, 3, generator=rng), torch.arange(12) % 3, 3, 6)
    kept = (before.counts.clone(), before.means.clone(), before.stacked())
    running_moments.update(before, torch.randn(6, 3, generator=rng), torch.arange(6) % 3)
    for now, then in zip((before.counts, before.means, before.stacked()), kept, strict=True):
        assert torch.equal(now, then)


def test_the_order_within_a_batch_does_not_matter(rng):
    features = torch.randn(30, 4, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, 5, (30,), generator=rng)
    order = torch.randperm(30, generator=rng)
    one, other = stream(features, labels, 5, 30), stream(features[order], labels[order], 5, 30)
    torch.testing.assert_close(one.stacked(), other.stacked())


def test_no_gradient_is_kept_and_autocast_costs_no_precision(rng):
    features = torch.randn(16, 8, generator=rng, requires_grad=True)
    labels = torch.arange(16) % 3
    plain = running_moments.update(running_moments.start(3, 8), features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = running_moments.update(running_moments.start(3, 8), features, labels)
    assert not plain.stacked().requires_grad
    assert not plain.means.requires_grad
    assert torch.equal(mixed.stacked(), plain.stacked())
    assert torch.equal(mixed.means, plain.means)


def test_float32_keeps_its_digits_at_mean_1000(rng):
    features = torch.randn(2000, 2, generator=rng) + 1000
    state = stream(features, torch.zeros(2000, dtype=torch.int64), 1, 50)
    expected = np.cov(features.double().numpy(), rowvar=False, bias=True)
    torch.testing.assert_close(
        state.covariances[0].double(), torch.from_numpy(expected), rtol=0, atol=1e-4
    )


def test_an_empty_batch_changes_nothing():
    state = running_moments.start(2, 3)
    assert running_moments.update(state, torch.zeros(0, 3), torch.zeros(0).long()) is state


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_the_classes_is_refused(label):
    state = running_moments.start(2, 1)
    with pytest.raises(DataError, match=rf"labels must be in 0 \.\.\. 1, got {label}"):
        running_moments.update(state, torch.zeros(2, 1), torch.tensor([0, label]))


# The estimator of a run.


def batches(rng, dim=3):
    labels = [torch.tensor([0, 0, 1, 3]), torch.tensor([3, 3, 3]), torch.tensor([1, 2, 0, 0, 0])]
    return [(torch.randn(len(y), dim, generator=rng) + 2, y) for y in labels]


def test_the_estimator_holds_the_running_moments(rng):
    estimator = Estimator(4, 3, "full")
    state = running_moments.start(4, 3)
    for features, labels in batches(rng):
        estimator.update(features.requires_grad_(), labels)
        state = running_moments.update(state, features, labels)
    assert torch.stack(tuple(estimator.covariances.matrices)).equal(state.stacked())
    assert estimator.means.equal(state.means)
    assert estimator.tensors()["counts"].equal(state.counts)
    assert not estimator.means.requires_grad


def test_variances_are_the_diagonals_of_the_covariances(rng):
    full, diagonal = Estimator(4, 3, "full"), Estimator(4, 3, "diagonal")
    for features, labels in batches(rng):
        full.update(features, labels)
        diagonal.update(features, labels)
        matrices = torch.stack(tuple(full.covariances.matrices))
        variances = diagonal.covariances.variances
        torch.testing.assert_close(variances, matrices.diagonal(dim1=1, dim2=2))
        assert diagonal.means.equal(full.means)


def test_variances_of_classes_absent_from_a_batch_are_untouched(rng):
    estimator = Estimator(4, 3, "diagonal")
    first, second, _ = batches(rng)
    estimator.update(*first)
    before = estimator.covariances
    kept = before.variances.clone()
    estimator.update(*second)
    after = estimator.covariances
    assert after.variances[:3].equal(kept[:3])
    assert not after.variances[3].equal(kept[3])
    assert before.variances.equal(kept)


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_a_restored_estimator_goes_on_bit_for_bit(rng, form):
    one, other = Estimator(4, 3, form), Estimator(4, 3, form)
    first, second, third = batches(rng)
    one.update(*first)
    one.update(*second)
    saved = {name: tensor.clone() for name, tensor in one.tensors().items()}
    assert saved.keys() == {"counts", "means", "covariances"}
    assert saved["covariances"].shape == ((4, 3, 3) if form == "full" else (4, 3))
    other.restore(saved)
    one.update(*third)
    other.update(*third)
    for name, tensor in one.tensors().items():
        assert other.tensors()[name].equal(tensor)
    # What was handed out is not written to.
    assert not saved["means"].equal(other.means)


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_covariances_can_be_overwritten_and_the_next_update_starts_from_them(rng, form):
    estimator = Estimator(2, 2, form)
    estimator.update(torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.tensor([0, 0]))
    variances = torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    new = Diagonal(variances) if form == "diagonal" else Full(torch.diag_embed(variances))
    estimator.replace(new)
    assert estimator.means.tolist() == [[1, 2], [0, 0]]
    assert estimator.tensors()["counts"].tolist() == [2, 0]
    # A third sample at the mean: two thirds of what was written are left.
    estimator.update(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    found = estimator.tensors()["covariances"]
    found = found.diagonal(dim1=1, dim2=2) if form == "full" else found
    torch.testing.assert_close(found, torch.tensor([[20 / 3, 40 / 3], [30.0, 40.0]]))


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_with_labels_on_the_cpu_an_update_does_not_wait_for_the_device(form, monkeypatch):
    # The meta device has no numbers: whatever needs one from it fails. It has no autocast either.
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_more: contextlib.nullcontext())
    estimator = Estimator(4, 3, form, "meta")
    for labels in (torch.tensor([2, 0, 2]), torch.tensor([3])):
        estimator.update(torch.empty(len(labels), 3, device="meta"), labels)
    assert estimator.tensors()["counts"].tolist() == [1, 0, 2, 1]
    assert estimator.tensors()["covariances"].device.type == "meta"
