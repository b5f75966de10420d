import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from ltcli.methods.meta_weight_net import METHOD, Options, make_steps
from tests.methods.conftest import ALL_HELD_OUT, HELD_OUT


def losses_of(case, batch):
    logits = case.network.classifier(case.inputs(batch))
    return F.cross_entropy(logits, case.labels[batch.rows], reduction="none")


def held_out_loss(case, losses, weights):
    classifier = case.network.classifier
    theta = [classifier.weight, classifier.bias]
    slopes = torch.autograd.grad((weights * losses).sum(), theta, create_graph=True)
    w, b = (p - 0.05 * g for p, g in zip(theta, slopes, strict=True))
    x = case.held_out(ALL_HELD_OUT)
    return F.cross_entropy(classifier.scales * (x @ w.T + b), HELD_OUT)


def weights_of(network, losses, parameters=None):
    x = losses.detach().unsqueeze(1)
    values = network(x) if parameters is None else functional_call(network, parameters, (x,))
    return values.squeeze(1) / values.sum()


def exact(steps):
    """The same steps with a weighting network in float64."""
    steps.state.network.double()
    for slots in steps.state._optimizer.state.values():
        slots["momentum_buffer"] = slots["momentum_buffer"].double()
    return steps


def test_the_weighting_network_moves_as_by_double_backward(make_run, batch):
    case = make_run("meta-weight-net")
    options = Options(meta_lr=10.0, width=7)
    steps = exact(make_steps(options, case))
    network = steps.state.network
    losses = losses_of(case, batch)
    names = [name for name, _ in network.named_parameters()]
    value = held_out_loss(case, losses, weights_of(network, losses))
    slopes = torch.autograd.grad(value, list(network.parameters()), retain_graph=True)
    # The first step of Nesterov's momentum of 0.9 is 1.9 times the plain one.
    moved = {
        name: (p - 10.0 * 1.9 * g).detach()
        for name, p, g in zip(names, network.parameters(), slopes, strict=True)
    }
    expected = (weights_of(network, losses, moved) * losses).sum()
    plain = (weights_of(network, losses) * losses).sum()
    assert abs(float((expected - plain).detach())) > 1e-6
    mine = steps.step(batch)
    for name, tensor in steps.state.tensors().items():
        if not name.endswith("momentum"):
            torch.testing.assert_close(tensor, moved[name], rtol=0, atol=1e-10)
    assert float(mine.detach()) == pytest.approx(float(expected.detach()), abs=1e-10)


def test_a_constant_network_gives_the_mean(make_run, batch):
    case = make_run("meta-weight-net")
    steps = exact(make_steps(Options(meta_lr=0.0), case))
    torch.nn.init.zeros_(steps.state.network[2].weight)
    expected = losses_of(case, batch).mean()
    slope = torch.autograd.grad(expected, case.network.classifier.weight)[0]
    moved = case.network.classifier.weight.detach() - 0.05 * slope
    mine = steps.step(batch)
    assert float(mine.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
    torch.testing.assert_close(case.network.classifier.weight.detach(), moved, rtol=0, atol=1e-12)


def test_weights_are_between_0_and_1_and_sum_to_1(make_run, rng):
    weigher = make_steps(Options(), make_run("meta-weight-net")).state
    weights = weigher.weights(5 * torch.rand(50, generator=rng)).detach()
    assert 0 < float(weights.min()) < float(weights.max()) < 1
    assert float(weights.sum()) == pytest.approx(1, abs=1e-6)


def test_the_network_goes_on_after_a_restart(make_run, batch):
    def run(stop):
        case = make_run("meta-weight-net")
        steps = exact(make_steps(Options(meta_lr=10.0), case))
        for number in range(4):
            if number == stop:
                kept = {name: tensor.clone() for name, tensor in steps.state.tensors().items()}
                steps = exact(make_steps(Options(meta_lr=10.0), case))
                steps.state.restore(kept)
            steps.step(batch)
        return steps.state.tensors()

    through, resumed = run(None), run(2)
    assert set(through) == set(resumed)
    assert through["0.weight.momentum"].abs().max() > 0
    for name, tensor in through.items():
        assert torch.equal(tensor, resumed[name]), name


def test_the_record_says_what_the_paper_says():
    assert METHOD.defaults["pretrain"] == {"schedule": "mwn"}
    assert (Options().width, Options().meta_lr) == (100, 1e-5)


def test_a_classifier_that_is_not_linear_is_refused(ltcli, copy):
    assert ltcli("finetune", "--method", "ncm", "-d", copy).code == 0
    model = copy / "finetune-ncm.safetensors"
    done = ltcli("finetune", "--method", "meta-weight-net", "--model", model, "-d", copy)
    assert done.code == 3
    assert done.lines[0] == f"error: {model}: classifier must be linear, got cosine"
