import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from ltcli.compute.device import seed_layers
from ltcli.methods import bilevel as shared
from ltcli.methods.options import Base, base_loss
from tests.methods.conftest import ALL_HELD_OUT, HELD_OUT


def logits_of(case, parameters, x):
    """Logits with other parameters, by name; buffers stay as they are."""
    state = {**parameters, **{name: b.clone() for name, b in case.network.named_buffers()}}

    def part(name):
        return {n.removeprefix(name): t for n, t in state.items() if n.startswith(name)}

    features = functional_call(case.network.backbone, part("backbone."), (x,))
    return functional_call(case.network.classifier, part("classifier."), (features,))


def losses_at(case, parameters, batch, base):
    logits = logits_of(case, parameters, case.inputs(batch))
    return base(logits, case.labels[batch.rows], batch)


def held_out_loss(case, parameters):
    return F.cross_entropy(logits_of(case, parameters, case.held_out(ALL_HELD_OUT)), HELD_OUT)


def by_double_backward(case, batch, base, weights):
    """dM/dw of the weights in a virtual step on sum_i w_i l_i, through the step itself."""
    weights = weights.clone().requires_grad_()
    theta = {n: p for n, p in case.network.named_parameters() if p.requires_grad}
    fixed = {n: p for n, p in case.network.named_parameters() if not p.requires_grad}
    value = (weights * losses_at(case, {**theta, **fixed}, batch, base)).sum()
    slopes = torch.autograd.grad(value, list(theta.values()), create_graph=True)
    rate = case.optimizer.param_groups[0]["lr"]
    virtual = {n: p - rate * g for (n, p), g in zip(theta.items(), slopes, strict=True)}
    return torch.autograd.grad(held_out_loss(case, {**virtual, **fixed}), weights)[0]


def found(case, batch, base, weights):
    """The same in closed form."""
    x = case.inputs(batch)
    features = case.features_of(x)
    labels = case.labels[batch.rows]

    def virtual(f):
        return (weights * base(case.network.classifier(f), labels, batch)).sum()

    held_out = case.held_out(ALL_HELD_OUT), HELD_OUT
    loss = virtual if weights.abs().sum() > 0 else None
    tangents = shared.behind_virtual_step(loss, features, x, held_out, case, batch)
    agreed = shared.alignments(lambda z: base(z, labels, batch), features, case, tangents)
    return -case.optimizer.param_groups[0]["lr"] * agreed


@pytest.mark.parametrize("name", ["ce", "focal", "ldam"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("size", [0.0, 0.5])
def test_alignments_are_the_derivatives_by_the_weights_of_a_virtual_step(
    make_run, batch, name, whole, size, rng
):
    case = make_run("l2rw", whole=whole)
    base = base_loss(Base(base=name, gamma=1.5), case.class_counts)
    weights = size * torch.rand(12, generator=rng, dtype=case.network.classifier.weight.dtype)
    expected = by_double_backward(case, batch, base, weights)
    assert expected.abs().max() > 1e-5
    tolerance = 2e-3 * float(expected.abs().max()) if whole else 1e-12
    torch.testing.assert_close(found(case, batch, base, weights), expected, rtol=0, atol=tolerance)


def test_without_a_step_they_are_inner_products_of_gradients(make_run, batch):
    case = make_run("l2rw")
    base = base_loss(Base(), case.class_counts)
    theta = {n: p for n, p in case.network.named_parameters() if p.requires_grad}
    fixed = {n: p for n, p in case.network.named_parameters() if not p.requires_grad}
    v = torch.autograd.grad(held_out_loss(case, {**theta, **fixed}), list(theta.values()))
    mine = found(case, batch, base, torch.zeros(12, dtype=torch.float64)) / -0.05
    for i in range(12):
        one = losses_at(case, {**theta, **fixed}, batch, base)[i]
        g = torch.autograd.grad(one, list(theta.values()))
        product = sum(float((a * b).sum()) for a, b in zip(g, v, strict=True))
        assert float(mine[i].detach()) == pytest.approx(product, abs=1e-12)


def test_they_are_finite_differences_of_the_held_out_loss(make_run, batch):
    case = make_run("l2rw")
    base = base_loss(Base(), case.class_counts)
    weights = torch.full((12,), 0.3, dtype=torch.float64)
    theta = {n: p for n, p in case.network.named_parameters() if p.requires_grad}
    fixed = {n: p for n, p in case.network.named_parameters() if not p.requires_grad}

    def measured(w):
        value = (w * losses_at(case, {**theta, **fixed}, batch, base)).sum()
        slopes = torch.autograd.grad(value, list(theta.values()))
        virtual = {n: p - 0.05 * g for (n, p), g in zip(theta.items(), slopes, strict=True)}
        return float(held_out_loss(case, {**virtual, **fixed}).detach())

    mine = found(case, batch, base, weights)
    for i in range(12):
        step = torch.zeros(12, dtype=torch.float64)
        step[i] = 1e-5
        slope = (measured(weights + step) - measured(weights - step)) / 2e-5
        assert float(mine[i].detach()) == pytest.approx(slope, abs=1e-8)


def test_what_dropout_takes_from_the_features_it_takes_from_their_derivative(make_run, batch):
    case = make_run("l2rw", whole=True)
    case.network.backbone = torch.nn.Sequential(case.network.backbone, torch.nn.Dropout(0.5))
    held_out = case.held_out(ALL_HELD_OUT), HELD_OUT
    with torch.random.fork_rng():
        seed_layers(torch.device("cpu"), case.seed, batch.epoch, batch.step)
        x = case.inputs(batch)
        features = case.features_of(x)
        found = shared.behind_virtual_step(None, features, x, held_out, case, batch).features
    dropped = features == 0
    assert 0.4 < dropped.double().mean() < 0.6
    assert found[dropped].eq(0).all()
    assert found[~dropped].ne(0).all()


def test_nothing_but_the_step_moves_the_network(make_run, batch):
    case = make_run("l2rw", whole=True)
    before = {n: t.clone() for n, t in case.network.state_dict().items()}
    base = base_loss(Base(), case.class_counts)
    x = case.inputs(batch)
    case.features_of(x)
    once = {n: t.clone() for n, t in case.network.state_dict().items()}
    case.network.load_state_dict(before)
    found(case, batch, base, torch.ones(12))
    for name, tensor in case.network.state_dict().items():
        # The running statistics took in the training batch, once.
        assert torch.equal(tensor, once[name]), name
