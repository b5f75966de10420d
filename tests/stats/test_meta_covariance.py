import pytest
import torch
from torch.nn import functional as F

# Loads forward mode without the warnings that torch has of its own parts, as every user does.
import ltcli.engine.tangent  # noqa: F401
from ltcli.data.batches import Batch
from ltcli.methods.options import Base, base_loss
from ltcli.stats.class_weights import effective_number_weights
from ltcli.stats.meta_covariance import Tangents, covariance_gradient
from ltcli.stats.quadratic import Diagonal, Full

C, D, B = 4, 3, 8
COUNTS = torch.tensor([60, 20, 9, 4])
LABELS = torch.tensor([0, 0, 0, 1, 1, 3, 3, 0])  # no sample of class 2
CLASSES = torch.tensor([0, 1, 3])
STRENGTH, RATE = 0.7, 0.3
BASES = ["ce", "focal", "ldam"]


@pytest.fixture
def problem(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    roots = draw(C, D, D)
    return {
        "x": draw(B, 5),
        "body": draw(5, D),
        "weight": draw(C, D),
        "bias": draw(C),
        "sigma": roots @ roots.transpose(1, 2),
        "held_x": draw(6, 5),
        "held_y": torch.tensor([0, 1, 2, 3, 2, 3]),
    }


def features(x, body):
    return torch.tanh(x @ body)


def base(name):
    """The weighted mean of base losses, of logits."""
    losses = base_loss(Base(base=name, gamma=1.5), COUNTS)
    weights = effective_number_weights(COUNTS, 0.9999)[LABELS]
    batch = Batch(0, 0, 0, LABELS)
    return lambda z: (weights * losses(z, LABELS, batch)).sum() / weights.sum()


def augmented(loss, f, weight, bias, sigma):
    """L by the definition: one sample and one class at a time."""
    rows = []
    for i, y in enumerate(LABELS):
        apart = weight - weight[y]
        spread = sigma[y] if sigma.dim() == 3 else sigma[y].diag()
        q = torch.stack([a @ spread @ a for a in apart])
        rows.append(weight @ f[i] + bias + 0.5 * STRENGTH * q)
    return loss(torch.stack(rows))


def held_out_loss(problem, loss, sigma, *, whole):
    """M behind the virtual step, differentiable in sigma."""
    names = ["weight", "bias", "body"] if whole else ["weight", "bias"]
    p = {name: problem[name].clone().requires_grad_() for name in ("weight", "bias", "body")}
    value = augmented(loss, features(problem["x"], p["body"]), p["weight"], p["bias"], sigma)
    grads = torch.autograd.grad(value, [p[name] for name in names], create_graph=True)
    moved = p | {n: p[n] - RATE * g for n, g in zip(names, grads, strict=True)}
    f = features(problem["held_x"], moved["body"])
    return F.cross_entropy(f @ moved["weight"].T + moved["bias"], problem["held_y"]), moved


def closed_form(problem, loss, sigma, *, whole, strength=STRENGTH, rate=RATE):
    value, moved = held_out_loss(problem, loss, sigma, whole=whole)
    v = torch.autograd.grad(value, [moved["weight"], moved["bias"], moved["body"]])
    f, tangent = torch.func.jvp(lambda b: features(problem["x"], b), (problem["body"],), (v[2],))
    return covariance_gradient(
        loss,
        f,
        LABELS,
        problem["weight"],
        problem["bias"],
        Full(sigma) if sigma.dim() == 3 else Diagonal(sigma),
        Tangents(v[0], v[1], tangent if whole else None),
        classes=CLASSES,
        strength=strength,
        rate=rate,
    )


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("form", ["full", "diagonal"])
@pytest.mark.parametrize("name", BASES)
def test_equals_double_backward(problem, name, form, whole):
    sigma = problem["sigma"] if form == "full" else problem["sigma"].diagonal(dim1=1, dim2=2)
    sigma = sigma.clone().requires_grad_()
    value, _ = held_out_loss(problem, base(name), sigma, whole=whole)
    (naive,) = torch.autograd.grad(value, sigma)
    found = closed_form(problem, base(name), sigma, whole=whole)
    torch.testing.assert_close(found.detach(), naive[CLASSES], rtol=1e-9, atol=1e-14)
    assert naive[2].abs().max() == 0  # class 2 is not in the batch


@pytest.mark.parametrize("name", BASES)
def test_equals_central_differences(problem, name):
    sigma, e = problem["sigma"], 1e-5
    found = closed_form(problem, base(name), sigma.requires_grad_(), whole=True).detach()
    sigma = sigma.detach()
    for u, i, j in ((0, 0, 1), (1, 2, 2), (2, 1, 0)):
        step = torch.zeros_like(sigma)
        step[CLASSES[u], i, j] = e
        above, _ = held_out_loss(problem, base(name), sigma + step, whole=True)
        below, _ = held_out_loss(problem, base(name), sigma - step, whole=True)
        naive = (above - below) / (2 * e)
        assert abs(float(found[u, i, j] - naive.detach())) < 1e-8


def test_is_symmetric_and_in_general_indefinite(problem):
    zero = torch.zeros(C, D, D, dtype=torch.float64, requires_grad=True)
    found = closed_form(problem, base("ce"), zero, whole=True).detach()
    torch.testing.assert_close(found, found.transpose(1, 2))
    values = torch.linalg.eigvalsh(found)
    assert values.min() < 0
    assert values.max() > 0


@pytest.mark.parametrize("zero", ["strength", "rate"])
def test_is_zero_without_strength_or_rate(problem, zero):
    sigma = problem["sigma"].clone().requires_grad_()
    found = closed_form(problem, base("ce"), sigma, whole=True, **{zero: 0.0})
    assert found.abs().max() == 0


def test_variances_keep_their_digits_where_all_class_vectors_share_a_large_part(problem):
    sigma = problem["sigma"].diagonal(dim1=1, dim2=2).clone()
    exact = closed_form(problem, base("ce"), sigma, whole=True)
    # What all vectors share adds one number to all logits of a sample, and so nothing.
    far = problem | {"weight": problem["weight"] + 1000}
    value, moved = held_out_loss(problem, base("ce"), sigma, whole=True)
    v = torch.autograd.grad(value, [moved["weight"], moved["bias"], moved["body"]])
    x = problem["x"]
    f, tangent = torch.func.jvp(lambda b: features(x, b), (problem["body"],), (v[2],))
    found = covariance_gradient(
        base("ce"),
        f.float(),
        LABELS,
        far["weight"].float(),
        problem["bias"].float(),
        Diagonal(sigma.float()),
        Tangents(v[0].float(), v[1].float(), tangent.float()),
        classes=CLASSES,
        strength=STRENGTH,
        rate=RATE,
    )
    torch.testing.assert_close(found.double(), exact.double(), rtol=1e-2, atol=1e-4)
