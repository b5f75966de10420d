"""Many classes in one product, as on a GPU, against each class by itself."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Loads forward mode without the warnings that torch has of its own parts, as every user does.
import ltcli.engine.tangent  # noqa: F401
from ltcli.stats import chunks as module
from ltcli.stats import running_moments
from ltcli.stats.chunks import batched, chunks, padded
from ltcli.stats.meta_covariance import Tangents, covariance_gradient
from ltcli.stats.quadratic import Diagonal, Factor, Full, LowRank, by_sample

C, D = 7, 5
LABELS = {
    "repeated": [2, 0, 2, 2, 5, 0, 1, 6],
    "one class": [3, 3, 3, 3],
    "one without rows": [1],
    "all": list(range(C)),
}


class Count(TorchDispatchMode):
    """The number of operations."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += 1
        return func(*args, **(kwargs or {}))


def both(monkeypatch, function, budget):
    alone = function()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_BATCHED", ("cpu",))
        patch.setattr(module, "_BUDGET", budget)
        return alone, function()


def covariances(form, rng, most=4):
    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    if form == "diagonal":
        return Diagonal(draw(C, D).square())
    sizes = [3, 0, 1, most, 2, 4, most]
    rows = draw(sum(sizes), D)
    if form in ("full", "stacked"):
        matrices = [part.T @ part for part in rows.split(sizes)]
        return Full(torch.stack(matrices) if form == "stacked" else matrices)
    factor = Factor(rows, torch.tensor([0, *sizes]).cumsum(0).tolist())
    if form == "mixed":
        return factor.mixed(draw(C, C).square() * (draw(C, C) > 0), [0, 1, 6])
    return LowRank(factor, Diagonal(draw(C, D).square())) if form == "low-rank" else factor


@pytest.mark.parametrize("budget", [1, 2 * C * D, 2**26])
@pytest.mark.parametrize("most", [3, 40])  # products with the rows, and matrices
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("form", ["full", "stacked", "diagonal", "factor", "low-rank", "mixed"])
def test_the_quadratic_term(monkeypatch, rng, form, labels, most, budget):
    known, labels = covariances(form, rng, most), torch.tensor(labels)
    weight = torch.randn(C, D, generator=rng, dtype=torch.float64).requires_grad_()
    upstream = torch.randn(len(labels), C, generator=rng, dtype=torch.float64)

    def term():
        values = by_sample(weight, known, labels)
        return values, *torch.autograd.grad((values * upstream).sum(), weight)

    alone, together = both(monkeypatch, term, budget)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    assert together[0][range(len(labels)), labels].abs().max() == 0


@pytest.mark.parametrize("budget", [1, 2 * C * D, 2**26])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_the_gradient_of_the_covariances(monkeypatch, rng, form, labels, budget):
    known, labels = covariances(form, rng), torch.tensor(labels)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    features, weight, bias = draw(len(labels), D), draw(C, D), draw(C)
    tangents = Tangents(draw(C, D), draw(C), draw(len(labels), D))
    alone, together = both(
        monkeypatch,
        lambda: covariance_gradient(
            lambda z: torch.nn.functional.cross_entropy(z, labels),
            *(features, labels, weight, bias, known, tangents),
            classes=labels.unique(),
            strength=0.7,
            rate=0.3,
        ),
        budget,
    )
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("budget", [1, 2 * C * D, 2**26])
@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_running_moments(monkeypatch, rng, form, budget):
    batches = [
        (torch.randn(len(labels), D, generator=rng, dtype=torch.float64), torch.tensor(labels))
        for labels in LABELS.values()
    ]

    def stream():
        state = running_moments.start(C, D, form, dtype=torch.float64)
        for features, labels in batches:
            state = running_moments.update(state, features, labels)
        return state.means, state.stacked()

    alone, together = both(monkeypatch, stream, budget)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


def test_the_number_of_operations_does_not_grow_with_the_classes(monkeypatch, rng):
    monkeypatch.setattr(module, "_BATCHED", ("cpu",))
    found = []
    for count in (10, 100):
        labels = torch.arange(count)
        weight = torch.randn(count, D, generator=rng).requires_grad_()
        features = torch.randn(count, D, generator=rng)
        state = running_moments.start(count, D)
        with Count() as update:
            state = running_moments.update(state, features, labels)
        with Count() as term:
            by_sample(weight, Full(state.covariances), labels).sum().backward()
        found.append((update.number, term.number))
    assert found[0] == found[1]
    # Views and work on the CPU are counted too.
    assert max(found[1]) < 100


def test_chunks_fit_the_budget_and_have_at_least_one_class(monkeypatch):
    monkeypatch.setattr(module, "_BUDGET", 10)
    assert [(some.start, some.stop) for some in chunks(5, 4)] == [(0, 2), (2, 4), (4, 5)]
    assert len(list(chunks(3, 99))) == 3


def test_missing_rows_are_zero():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    made = padded(rows, [[(1, 2.0)], [], [(0, 1.0), (1, 1.0)]])
    assert made.tolist() == [[[6, 8], [0, 0]], [[0, 0], [0, 0]], [[1, 2], [3, 4]]]


def test_only_gpus_of_nvidia_share_products():
    assert [batched(torch.device(name)) for name in ("cpu", "mps", "cuda")] == [False, False, True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("form", ["full", "stacked", "diagonal", "factor", "low-rank", "mixed"])
def test_the_quadratic_term_on_a_gpu_is_that_of_a_cpu(rng, form):
    known, labels = covariances(form, rng), torch.tensor(LABELS["repeated"])
    weight = torch.randn(C, D, generator=rng, dtype=torch.float64)
    expected = by_sample(weight, known, labels)
    torch.testing.assert_close(by_sample(weight.cuda(), on_gpu(known), labels).cpu(), expected)


def on_gpu(known):
    if isinstance(known, Diagonal):
        return Diagonal(known.variances.cuda())
    if isinstance(known, Full):
        stacked = isinstance(known.matrices, torch.Tensor)
        return Full(known.matrices.cuda() if stacked else [m.cuda() for m in known.matrices])
    if isinstance(known, LowRank):
        return LowRank(on_gpu(known.directions), on_gpu(known.rest))
    return Factor(known.rows.cuda(), known.offsets, known.mixtures)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_running_moments_on_a_gpu_are_those_of_a_cpu(rng, form):
    states = {
        device: running_moments.start(C, D, form, dtype=torch.float64, device=device)
        for device in ("cpu", "cuda")
    }
    for labels in LABELS.values():
        features = torch.randn(len(labels), D, generator=rng, dtype=torch.float64)
        for device, state in states.items():
            states[device] = running_moments.update(
                state, features.to(device), torch.tensor(labels)
            )
    torch.testing.assert_close(states["cuda"].means.cpu(), states["cpu"].means)
    torch.testing.assert_close(states["cuda"].stacked().cpu(), states["cpu"].stacked())
