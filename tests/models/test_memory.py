import pytest
import torch

from ltcli.models.classifier import Classifier
from ltcli.models.memory import Memory


def memory(rng):
    made = Memory(3, 4)
    made.centroids.data = torch.randn(4, 3, generator=rng)
    return made


def test_features_are_enriched_by_the_formula(rng):
    made = memory(rng)
    features = torch.randn(5, 3, generator=rng)
    for i in range(5):
        f, m = features[i], made.centroids
        o = (made.hallucinator.weight @ f + made.hallucinator.bias).softmax(0)
        e = (made.selector.weight @ f + made.selector.bias).tanh()
        r = 10 / min(float((f - m[c]).norm().detach()) for c in range(4))
        v = r * (f + e * (o @ m))
        torch.testing.assert_close(made(features)[i], v / (1 + v.norm()), rtol=1e-4, atol=1e-5)


def test_without_a_concept_directions_stay(rng):
    made = memory(rng)
    torch.nn.init.zeros_(made.selector.weight)
    torch.nn.init.zeros_(made.selector.bias)
    features = torch.randn(5, 3, generator=rng)
    cosines = torch.cosine_similarity(made(features), features)
    torch.testing.assert_close(cosines, torch.ones(5))


def test_what_is_far_from_every_centroid_is_short(rng):
    made = memory(rng)
    torch.nn.init.zeros_(made.selector.weight)
    torch.nn.init.zeros_(made.selector.bias)
    # At a distance r from the centroids, of length l: 10 l / r, squashed.
    near, far = made.centroids[:1].detach() + 0.01, torch.full((1, 3), 1e4)
    assert float(made(near).norm().detach()) > 0.9
    assert float(made(far).norm().detach()) == pytest.approx(10 / 11, rel=1e-2)
    assert made(made.centroids.detach()).isfinite().all()


def test_logits_are_inner_products_with_vectors_of_length_one(rng):
    classifier = Classifier(3, 4, "memory")
    classifier.memory.centroids.data = torch.randn(4, 3, generator=rng)
    classifier.scales.data.fill_(16.0)
    features = torch.randn(5, 3, generator=rng)
    vectors = classifier.weight / classifier.weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(classifier(features), 16 * classifier.memory(features) @ vectors.T)
