import math

import torch

from ltcli.methods.method import Trained
from ltcli.methods.ncm import Params, solve
from ltcli.models.classifier import Classifier

NOTHING, NONE = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)


def trained(features, labels, num_classes=3):
    counts = torch.bincount(labels, minlength=num_classes)
    classifier = Classifier(features.shape[1], num_classes)
    return Trained(classifier, counts, features, labels, NOTHING, NONE)


def test_naive_twin(rng):
    features, labels = torch.randn(30, 3, generator=rng), torch.arange(30) % 3
    probes = torch.randn(12, 3, generator=rng)
    solved, chosen = solve(Params(scale=16.0), trained(features, labels))
    assert chosen == {}
    with torch.no_grad():
        logits = solved(probes)
    for b in range(12):
        for c in range(3):
            mean = [0.0] * 3
            for f in features[labels == c].tolist():
                mean = [m + x / math.hypot(*f) / 10 for m, x in zip(mean, f, strict=True)]
            probe = probes[b].tolist()
            dot = sum(x * y for x, y in zip(mean, probe, strict=True))
            expected = 16 * dot / math.hypot(*mean) / math.hypot(*probe)
            assert math.isclose(logits[b, c].item(), expected, rel_tol=1e-4, abs_tol=1e-4)


def test_the_length_of_features_does_not_matter(rng):
    features, labels = torch.randn(30, 3, generator=rng), torch.arange(30) % 3
    stretched = features * (torch.rand(30, 1, generator=rng) * 100 + 0.01)
    one, other = (solve(Params(), trained(f, labels))[0] for f in (features, stretched))
    torch.testing.assert_close(one.weight.data, other.weight.data)


def test_the_scale_changes_no_prediction(rng):
    features, labels = torch.randn(30, 3, generator=rng), torch.arange(30) % 3
    probes = torch.randn(50, 3, generator=rng)
    one, other = (solve(Params(scale=s), trained(features, labels))[0] for s in (1.0, 64.0))
    assert one(probes).argmax(1).equal(other(probes).argmax(1))
    torch.testing.assert_close(64 * one(probes), other(probes))


def test_repeating_the_images_of_a_class_changes_nothing(rng):
    features, labels = torch.randn(30, 3, generator=rng), torch.arange(30) % 3
    head = labels == 0
    repeated = trained(torch.cat([features, features[head]]), torch.cat([labels, labels[head]]))
    one, other = solve(Params(), trained(features, labels))[0], solve(Params(), repeated)[0]
    torch.testing.assert_close(one.weight.data, other.weight.data)
