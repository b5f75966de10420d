import math

import torch
from torch.nn import functional as F

from ltcli.artifacts.store import open_artifact
from ltcli.data.samplers import class_aware
from ltcli.methods.crt import METHOD
from ltcli.models.network import build_classifier
from tests.methods.conftest import balances, planned


def test_the_stage_is_a_fresh_classifier_trained_on_class_aware_draws(chain):
    # The same thing by hand: SGD with momentum and weight decay, cosine over two epochs.
    with open_artifact(chain / "dump-features.safetensors") as bank:
        features, labels = bank.tensor("train.features"), bank.tensor("train.labels")
    weight = build_classifier(64, 10, 0).weight.detach().clone().requires_grad_()
    bias = torch.zeros(10, requires_grad=True)
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for epoch in range(2):
        lr = 0.05 * (1 + math.cos(math.pi * epoch / 2))
        order = class_aware(labels, 10, seed=0, epoch=epoch, length=len(labels))
        for rows in order.split(128):
            loss = F.cross_entropy(features[rows] @ weight.T + bias, labels[rows])
            gradients = torch.autograd.grad(loss, (weight, bias))
            with torch.no_grad():
                for i, value in enumerate((weight, bias)):
                    speed[i] = 0.9 * speed[i] + gradients[i] + 5e-4 * value
                    value -= lr * speed[i]
    with open_artifact(chain / "finetune-crt.safetensors") as model:
        made = model.load("classifier.*")
    torch.testing.assert_close(made["weight"], weight.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made["bias"], bias.detach(), rtol=1e-4, atol=1e-4)
    assert made["scales"].equal(torch.ones(10))


def test_the_record_says_what_the_paper_says():
    run = planned("crt")
    head = METHOD.head(run.params.options, run)
    assert head.start == "fresh"
    assert head.trainable == ("weight", "bias")
    assert run.params.sampler == "class-aware"
    assert balances("crt", "finetune")
    # Re-trained on the data as they are, a classifier follows their prior.
    assert not balances("crt", "finetune", sampler="instance-balanced")
