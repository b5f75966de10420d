import math

import pytest
import torch

from ltcli.models.classifier import Classifier, Memory


def by_hand(form):
    classifier = Classifier(2, 2, form)
    classifier.weight.data = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    classifier.bias.data = torch.tensor([1.0, -1.0])
    classifier.scales.data = torch.tensor([2.0, 10.0])
    return classifier


def test_class_vectors_are_the_slopes_of_the_logits():
    classifier, feature = by_hand("linear"), torch.zeros(1, 2, requires_grad=True)
    (logits,) = classifier(feature)
    slopes = [torch.autograd.grad(z, feature, retain_graph=True)[0][0] for z in logits]
    assert classifier.vectors().equal(torch.stack(slopes))
    assert classifier.vectors().requires_grad


def test_linear_by_hand():
    # 2 (3 * 1 + 4 * 1 + 1) and 10 (0 * 1 + 2 * 1 - 1).
    logits = by_hand("linear")(torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(logits, torch.tensor([[16.0, 10.0]]))


def test_cosine_by_hand():
    # cos((3, 4), (1, 1)) = 7 / (5 sqrt 2), cos((0, 2), (1, 1)) = 1 / sqrt 2.
    logits = by_hand("cosine")(torch.tensor([[1.0, 1.0]]))
    first, second = 7 / (5 * math.sqrt(2)) + 1, 1 / math.sqrt(2) - 1
    torch.testing.assert_close(logits, torch.tensor([[2 * first, 10 * second]]))


def test_cosine_ignores_the_lengths_of_both(rng):
    classifier, features = by_hand("cosine"), torch.randn(6, 2, generator=rng)
    before = classifier(features)
    classifier.weight.data *= 7
    torch.testing.assert_close(classifier(0.01 * features), before)


def test_a_fresh_one_has_zero_bias_unit_factors_and_kaiming_weights():
    torch.manual_seed(0)
    classifier = Classifier(64, 1000)
    assert classifier.bias.eq(0).all()
    assert classifier.scales.eq(1).all()
    assert classifier.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.02)


def test_factors_are_fixed_unless_a_method_says_otherwise():
    classifier = Classifier(3, 2)
    assert [n for n, p in classifier.named_parameters() if p.requires_grad] == ["weight", "bias"]
    classifier.train_only("scales")
    assert [n for n, p in classifier.named_parameters() if p.requires_grad] == ["scales"]
    classifier.train_only("weight", "bias")
    assert [n for n, p in classifier.named_parameters() if p.requires_grad] == ["weight", "bias"]


@pytest.mark.parametrize("form", ["linear", "cosine", "experts2", "memory"])
def test_a_vector_can_be_added_to_the_logits_of_any_form(rng, form):
    classifier = Classifier(6, 3, form)
    classifier.bias.data = torch.randn(3, generator=rng)
    classifier.scales.data = torch.tensor([0.5, -2.0, 16.0])
    features, shift = torch.randn(8, 6, generator=rng), torch.tensor([1.0, -2.0, 0.5])
    with torch.no_grad():
        before = classifier(features)
        classifier.add(shift)
        torch.testing.assert_close(classifier(features), before + shift)


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
