import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss

from ltcli.core.errors import DataError, NumericalError, ParamError
from ltcli.stats.accuracy import (
    accuracy,
    balanced_accuracy,
    ece,
    group_accuracy,
    group_of_class,
    nll,
    outcomes,
    per_class_accuracy,
    predictions,
    reliability,
)

# Five samples of classes 0 0 0 1 1, and class 2 has none; right: two of three, and one of two.
LOGITS = torch.eye(3)[torch.tensor([0, 0, 1, 1, 2])]
LABELS = torch.tensor([0, 0, 0, 1, 1])


def naive_ece(logits, labels, bins):
    probabilities = logits.double().softmax(1)
    total = 0.0
    for b in range(bins):
        inside = [
            i for i, p in enumerate(probabilities) if b / bins < p.max().item() <= (b + 1) / bins
        ]
        if inside:
            right = sum(float(probabilities[i].argmax() == labels[i]) for i in inside)
            confidence = sum(probabilities[i].max().item() for i in inside)
            total += len(inside) / len(labels) * abs(right - confidence) / len(inside)
    return total


def test_accuracies_by_hand():
    assert accuracy(outcomes(LOGITS, LABELS)) == pytest.approx(3 / 5)
    per_class = per_class_accuracy(predictions(LOGITS), LABELS, 3)
    assert per_class[:2].tolist() == pytest.approx([2 / 3, 1 / 2])
    assert per_class[2].isnan()
    assert balanced_accuracy(outcomes(LOGITS, LABELS)) == pytest.approx(7 / 12)


def test_of_equal_logits_the_lower_class_is_predicted():
    assert predictions(torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])).tolist() == [0, 1]


def test_accuracies_are_those_of_scikit_learn(rng):
    logits, labels = torch.randn(300, 6, generator=rng), torch.arange(300) ** 2 % 6
    present = labels.unique()
    logits[:, [c for c in range(6) if c not in present]] = -10  # never predicted: no warning
    expected = balanced_accuracy_score(labels, logits.argmax(1))
    assert balanced_accuracy(outcomes(logits, labels)) == pytest.approx(expected)


def test_on_a_balanced_set_all_mean_accuracies_agree(rng):
    logits, labels = torch.randn(120, 4, generator=rng), torch.arange(120) % 4
    assert balanced_accuracy(outcomes(logits, labels)) == pytest.approx(
        accuracy(outcomes(logits, labels))
    )


def test_both_bounds_belong_to_medium():
    counts = torch.tensor([500, 101, 100, 50, 20, 19, 1])
    assert group_of_class(counts).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert group_of_class(counts, many_above=400, few_below=51).tolist() == [0, 1, 1, 2, 2, 2, 2]


def test_groups_of_long_tailed_cifar100_have_the_published_sizes():
    for factor, sizes in {10: [69, 31, 0], 100: [35, 35, 30], 200: [30, 31, 39]}.items():
        counts = torch.tensor([int(500 * (1 / factor) ** (c / 99)) for c in range(100)])
        assert torch.bincount(group_of_class(counts), minlength=3).tolist() == sizes


def test_groups_that_overlap_are_refused():
    with pytest.raises(ValueError, match="few_below must be at most many_above"):
        group_of_class(torch.tensor([5]), many_above=10, few_below=12)


def test_a_group_is_the_mean_of_its_classes():
    accuracies = torch.tensor([2 / 3, 1 / 2, math.nan], dtype=torch.float64)
    found = group_accuracy(accuracies, torch.tensor([1, 1, 2]))
    assert found == {"many": None, "medium": pytest.approx(7 / 12), "few": None}
    found = group_accuracy(accuracies, torch.tensor([0, 2, 0]))
    assert found == {"many": pytest.approx(2 / 3), "medium": None, "few": pytest.approx(1 / 2)}


def test_likelihood_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    expected = (-math.log(3 / 4) - math.log(1 / 2)) / 2
    assert nll(outcomes(logits, torch.tensor([0, 1]))) == pytest.approx(expected, rel=1e-7)


def test_likelihood_is_that_of_scikit_learn_and_ignores_shifts(rng):
    logits, labels = torch.randn(200, 5, generator=rng).double() * 3, torch.arange(200) % 5
    expected = log_loss(labels, logits.softmax(1).numpy())
    assert nll(outcomes(logits, labels)) == pytest.approx(expected)
    assert nll(outcomes(logits + 500, labels)) == pytest.approx(expected)


def test_likelihood_of_sure_and_wrong_predictions_is_finite():
    assert nll(outcomes(torch.tensor([[1000.0, 0.0]]), torch.tensor([1]))) == pytest.approx(1000)


def test_calibration_by_hand():
    # Confidence 3/4 everywhere, half of it right: one bin, gap 1/4.
    logits = torch.tensor([[math.log(3.0), 0.0]]).repeat(4, 1)
    assert ece(outcomes(logits, torch.tensor([0, 0, 1, 1]))) == pytest.approx(1 / 4)


@pytest.mark.parametrize("bins", [1, 2, 15])
def test_calibration_is_the_naive_sum(rng, bins):
    logits, labels = torch.randn(300, 4, generator=rng) * 2, torch.arange(300) % 4
    assert ece(outcomes(logits, labels), bins=bins) == pytest.approx(
        naive_ece(logits, labels, bins)
    )


def test_a_confidence_on_a_bound_belongs_to_the_bin_below():
    # Confidences 1/2 (right) and 3/4 (wrong). Two bins keep them apart: (1/2 + 3/4) / 2.
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    assert ece(outcomes(logits, torch.tensor([0, 1])), bins=2) == pytest.approx(5 / 8)


def test_reliability_sums_by_hand():
    # Confidences 1/2 (right), 3/4 (wrong), 3/4 (right), in two bins.
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [math.log(3.0), 0.0]])
    counts, confidence, right = reliability(outcomes(logits, torch.tensor([0, 1, 0])), bins=2)
    assert counts.tolist() == [1, 2]
    assert confidence.tolist() == pytest.approx([0.5, 1.5])
    assert right.tolist() == [1, 1]


def test_reliability_of_runs_adds_up_and_gives_the_calibration_error(rng):
    logits, labels = torch.randn(200, 3, generator=rng), torch.arange(200) % 3
    whole = reliability(outcomes(logits, labels))
    parts = zip(
        reliability(outcomes(logits[:80], labels[:80])),
        reliability(outcomes(logits[80:], labels[80:])),
        strict=True,
    )
    for both, (first, second) in zip(whole, parts, strict=True):
        assert torch.allclose(both, first + second)
    assert float((whole[1] - whole[2]).abs().sum() / 200) == pytest.approx(
        ece(outcomes(logits, labels))
    )
    assert [int(part.sum()) for part in reliability(outcomes(logits[:0], labels[:0]))] == [0, 0, 0]


def test_with_one_bin_the_error_is_that_of_the_means(rng):
    logits, labels = torch.randn(100, 3, generator=rng), torch.arange(100) % 3
    confidence = logits.double().softmax(1).max(1).values.mean().item()
    gap = abs(accuracy(outcomes(logits, labels)) - confidence)
    assert ece(outcomes(logits, labels), bins=1) == pytest.approx(gap)


def test_without_samples_every_score_is_nan():
    logits, labels = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    for score in (accuracy, balanced_accuracy, nll, ece):
        assert math.isnan(score(outcomes(logits, labels)))
    classes = per_class_accuracy(predictions(logits), labels, 3)
    assert set(group_accuracy(classes, torch.zeros(3).long()).values()) == {None}


def test_bad_logits_and_labels_are_named():
    logits = LOGITS.clone()
    logits[3, 0] = float("inf")
    with pytest.raises(NumericalError, match="logits must be finite, got inf in sample 3"):
        outcomes(logits, LABELS)
    labels = torch.tensor([0, 0, 0, 1, 3])
    for refuses in (
        lambda: outcomes(LOGITS, labels),
        lambda: per_class_accuracy(LABELS, labels, 3),
    ):
        with pytest.raises(DataError, match=r"labels must be in 0 \.\.\. 2, got 3 for sample 4"):
            refuses()


def test_logits_are_read_once_and_block_by_block(rng, monkeypatch):
    logits, labels = torch.randn(10, 3, generator=rng), torch.arange(10) % 3
    read = []

    class Stored:
        shape = logits.shape

        def __getitem__(self, index):
            read.append(index.tolist())
            return logits[index]

    whole = outcomes(logits, labels)
    monkeypatch.setattr("ltcli.stats.accuracy.BLOCK", 4)
    found = outcomes(Stored(), labels)
    assert read == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for name in ("predicted", "losses", "confidence"):
        assert getattr(found, name).equal(getattr(whole, name))
    wrong = logits.clone()
    wrong[9, 1] = float("nan")
    with pytest.raises(NumericalError, match="got nan in sample 9"):
        outcomes(wrong, labels)


def test_no_bins_are_refused():
    with pytest.raises(ParamError, match="bins must be at least 1, got 0"):
        ece(outcomes(LOGITS, LABELS), bins=0)
