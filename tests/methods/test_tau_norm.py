from fractions import Fraction

import pytest
import torch

from ltcli.methods.tau_norm import METHOD, normalised
from ltcli.models.classifier import Classifier
from tests.methods.conftest import planned, solved, solving_run


def classifier(rng):
    """Class vectors that shrink from class to class, as after long-tailed training."""
    made = Classifier(6, 4)
    made.weight.data = (
        torch.randn(4, 6, generator=rng) * torch.tensor([4.0, 2.0, 1.0, 0.5])[:, None]
    )
    made.bias.data = torch.randn(4, generator=rng)
    return made


def run_of(rng, tau=None, val=None):
    counts = torch.tensor([50, 20, 5, 2])
    return solving_run("tau-norm", classifier(rng), counts, val=val, tau=tau)


def test_tau_0_gives_the_logits_without_bias(rng):
    run, features = run_of(rng, 0.0), torch.randn(9, 6, generator=rng)
    expected = features @ run.classifier.weight.T
    made, chosen = solved(run)
    torch.testing.assert_close(made(features), expected)
    assert chosen == {"tau": 0.0}


def test_tau_1_gives_class_vectors_of_length_1(rng):
    made, _ = solved(run_of(rng, 1.0))
    torch.testing.assert_close(made.weight.norm(dim=1), torch.ones(4))
    assert made.bias.eq(0).all()


def test_a_vector_of_length_5_by_hand():
    # 5^0.5 divides (3, 4).
    root = 5**0.5
    expected = torch.tensor([[3 / root, 4 / root]])
    torch.testing.assert_close(normalised(torch.tensor([[3.0, 4.0]]), 0.5), expected)


@pytest.mark.parametrize("tau", [0.3, 1.0, 1.7])
def test_it_is_lws_without_bias_at_a_power_of_the_lengths(rng, tau):
    run, features = run_of(rng, tau), torch.randn(9, 6, generator=rng)
    scaled = Classifier(6, 4)
    scaled.weight.data = run.classifier.weight.data.clone()
    scaled.scales.data = run.classifier.weight.data.norm(dim=1) ** -tau
    torch.testing.assert_close(solved(run)[0](features), scaled(features))


def test_factors_count_as_part_of_the_class_vectors(rng):
    run = run_of(rng, 0.7)
    whole = run.classifier.weight.data * torch.tensor([2.0, 1.0, 3.0, 0.5])[:, None]
    run.classifier.scales.data = torch.tensor([2.0, 1.0, 3.0, 0.5])
    made, _ = solved(run)
    torch.testing.assert_close(made.weight.data, normalised(whole, 0.7))
    assert made.scales.eq(1).all()


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_the_smallest_with_the_best_balanced_validation_accuracy(seed):
    rng = torch.Generator().manual_seed(seed)
    weight = classifier(rng).weight.data
    # Class 3 has no validation image and must not count.
    labels = torch.tensor([0] * 12 + [1] * 7 + [2] * 3)
    features = weight[labels] / weight[labels].norm(dim=1, keepdim=True)
    features = features + 0.8 * torch.randn(features.shape, generator=rng)
    best, best_score = None, -1.0
    for step in range(21):
        tau = step / 10
        recalls = []
        for c in range(3):
            hits = [
                max(
                    range(4),
                    key=lambda k, f=f: float(f @ weight[k]) / float(weight[k].norm()) ** tau,
                )
                == c
                for f in features[labels == c]
            ]
            recalls.append(sum(hits) / len(hits))
        if sum(recalls) / 3 > best_score + 1e-12:
            best, best_score = tau, sum(recalls) / 3
    again = torch.Generator().manual_seed(seed)
    made, chosen = solved(run_of(again, val=(features, labels)))
    assert chosen == {"tau": best}
    torch.testing.assert_close(made.weight.data, normalised(weight, best))


def test_the_naive_choices_are_not_all_the_same():
    # Guards the test above against data on which any choice would do.
    taus = set()
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        weight = classifier(rng).weight.data
        labels = torch.tensor([0] * 12 + [1] * 7 + [2] * 3)
        features = weight[labels] / weight[labels].norm(dim=1, keepdim=True)
        features = features + 0.8 * torch.randn(features.shape, generator=rng)
        again = torch.Generator().manual_seed(seed)
        taus.add(solved(run_of(again, val=(features, labels)))[1]["tau"])
    assert len(taus) > 2


def test_a_classifier_on_cosines_is_refused_before_any_work(ltcli, copy):
    out = copy / "finetune-ncm.safetensors"
    assert ltcli("finetune", "--method", "ncm", "-d", copy).code == 0
    options = ("--method", "tau-norm", "--model", out, "--data", "images", "--dry-run")
    done = ltcli("finetune", *options, "-d", copy)
    assert done.code == 3
    assert done.lines[0] == f"error: {out}: classifier must be linear, got cosine"


def test_held_out_images_are_read_only_to_choose_tau():
    for given, reads in (({}, ("held-out",)), ({"tau": 0.0}, ())):
        run = planned("tau-norm", **given)
        assert METHOD.reads(run.params.options, run) == reads


def test_of_equal_scores_the_smallest_tau_is_chosen(rng):
    # Three classes of 1, 3 and 7 images: shares that are not exact in binary, in many orders.
    counts = torch.tensor([7, 3, 1, 1])
    labels = torch.arange(4).repeat_interleave(counts)
    for seed in range(20):
        rng.manual_seed(seed)
        run = run_of(rng, val=(torch.randn(12, 6, generator=rng), labels))
        weight = run.classifier.vectors().detach()
        scores = {}
        for step in range(21):
            right = (run.val_features @ normalised(weight, step / 10).T).argmax(1) == labels
            per_class = [int(right[labels == c].sum()) for c in range(4)]
            scores[step / 10] = sum(
                Fraction(hit, int(n)) for hit, n in zip(per_class, counts, strict=True)
            )
        best = max(scores.values())
        smallest = min(tau for tau, score in scores.items() if score == best)
        assert solved(run)[1] == {"tau": smallest}
