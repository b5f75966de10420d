import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.core.params import NoOptions
from ltcli.engine.optimizers import SGD
from ltcli.methods.sla import METHOD, make_steps
from ltcli.models import small_images
from ltcli.models.network import build_network, load_network


@pytest.fixture
def case(make_run):
    """A backbone of four views on 24 images."""
    run = make_run("sla", whole=True)
    network = build_network(small_images.backbone("resnet20", "sla"), 4, 0).train()
    network.classifier.scales.data.fill_(0.25)
    network.classifier.train_only("weight")
    moving = [p for p in network.parameters() if p.requires_grad]
    return dataclasses.replace(run, network=network, optimizer=SGD(moving, lr=0.05))


def test_a_step_is_cross_entropy_of_class_and_rotation(case, batch):
    x, labels, weight = case.inputs(batch), case.labels[batch.rows], case.network.classifier.weight
    turned = torch.cat([torch.rot90(x, r, (2, 3)) for r in range(4)])
    features = case.network.backbone.of_view(turned)
    logits = torch.stack(
        [features @ weight[c, 64 * q : 64 * q + 64] for c in range(4) for q in range(4)], dim=1
    )
    target = torch.tensor([4 * int(y) + r for r in range(4) for y in labels])
    expected = F.cross_entropy(logits, target)
    mine = make_steps(NoOptions(), case).step(batch)
    assert float(mine.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_a_test_image_gets_the_mean_over_its_views_of_their_own_logits(case, batch):
    steps = make_steps(NoOptions(), case)
    for _ in range(3):
        steps.step(batch)
    network, x = case.network.eval(), case.inputs(batch)
    biases = steps.state.tensors()["biases"]
    assert biases.abs().min() > 0
    expected = torch.zeros(12, 4)
    for r in range(4):
        features = network.backbone.of_view(torch.rot90(x, r, (2, 3)))
        expected += features @ network.classifier.weight[:, 64 * r : 64 * r + 64].T / 4
        expected += biases[:, r] / 4
    torch.testing.assert_close(network(x), expected)


def test_biases_go_on_after_a_restart(case, batch):
    steps = make_steps(NoOptions(), case)
    steps.step(batch)
    kept = {name: tensor.clone() for name, tensor in steps.state.tensors().items()}
    steps.step(batch)
    assert not torch.equal(steps.state.tensors()["biases"], kept["biases"])
    steps.state.restore(kept)
    assert torch.equal(steps.state.tensors()["biases"], kept["biases"])


def test_it_trains_and_every_later_stage_takes_it(ltcli, copy):
    out, bank = copy / "sla.safetensors", copy / "bank.safetensors"
    options = ("--method", "sla", "--backbone", "resnet20", "--epochs", "2")
    assert ltcli("pretrain", *options, "--out", out, "-d", copy).code == 0
    info = read_header(out).info
    assert (info["backbone"]["variant"], info["balanced"]) == ("sla", False)
    with open_artifact(out) as model:
        assert load_network(model, torch.device("cpu")).classifier.weight.shape == (10, 256)
    assert ltcli("dump-features", "--model", out, "--out", bank, "-d", copy).code == 0
    tuned = copy / "tuned.safetensors"
    use = ("--model", out, "--features", bank, "--out", tuned, "-d", copy)
    assert ltcli("finetune", "--method", "logit-adjustment", *use).code == 0
    scores = copy / "evaluate-sla.safetensors"
    assert ltcli("evaluate", "--model", tuned, "--out", scores, "-d", copy).code == 0
    assert read_header(scores).info["backbone"]["views"] == 4


def test_the_record_says_what_the_code_says():
    defaults = METHOD.defaults["pretrain"]
    assert (defaults["milestones"], defaults["factors"]) == ((100, 150), (0.1, 0.01))
    assert defaults["weight_decay"] == 1e-4
