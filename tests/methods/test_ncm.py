import math

import torch

from ltcli.models.classifier import Classifier
from tests.methods.conftest import solved, solving_run


def means_of(features, labels, **given):
    """The classifier of the class means, and the options that were chosen."""
    counts = torch.bincount(labels, minlength=3)
    train = features, labels
    return solved(solving_run("ncm", Classifier(features.shape[1], 3), counts, train, **given))


def test_naive_twin(rng):
    features, labels = torch.randn(30, 3, generator=rng), torch.arange(30) % 3
    probes = torch.randn(12, 3, generator=rng)
    classifier, chosen = means_of(features, labels, scale=16.0)
    assert chosen == {}
    with torch.no_grad():
        logits = classifier(probes)
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
    one, other = (means_of(f, labels)[0] for f in (features, stretched))
    torch.testing.assert_close(one.weight.data, other.weight.data)


def test_the_scale_changes_no_prediction(rng):
    features, labels = torch.randn(30, 3, generator=rng), torch.arange(30) % 3
    probes = torch.randn(50, 3, generator=rng)
    one, other = (means_of(features, labels, scale=s)[0] for s in (1.0, 64.0))
    assert one(probes).argmax(1).equal(other(probes).argmax(1))
    torch.testing.assert_close(64 * one(probes), other(probes))


def test_repeating_the_images_of_a_class_changes_nothing(rng):
    features, labels = torch.randn(30, 3, generator=rng), torch.arange(30) % 3
    head = labels == 0
    more = torch.cat([features, features[head]]), torch.cat([labels, labels[head]])
    one, other = means_of(features, labels)[0], means_of(*more)[0]
    torch.testing.assert_close(one.weight.data, other.weight.data)
