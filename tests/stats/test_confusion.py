import pytest
import torch
from sklearn.metrics import confusion_matrix

from ltcli.core.errors import NumericalError, ParamError
from ltcli.stats.confusion import class_graph, confused_pairs, graph_and_scores, top_confusing


def test_the_graph_by_hand():
    # Class 0 is taken once for 0 and three times for 1; class 1 always for 2; class 2 is absent.
    predicted = torch.tensor([0, 2, 1, 1, 1])
    labels = torch.tensor([0, 1, 0, 0, 0])
    graph = class_graph(predicted, labels, 3)
    assert graph.tolist() == [[0.25, 0.75, 0], [0, 0, 1], [0, 0, 0]]
    assert graph.dtype == torch.float64


def test_the_graph_is_the_normalised_confusion_matrix(rng):
    predicted, labels = torch.randint(5, (200,), generator=rng), torch.arange(200) % 5
    expected = torch.from_numpy(confusion_matrix(labels, predicted, normalize="true"))
    torch.testing.assert_close(class_graph(predicted, labels, 5), expected)


def test_scores_are_means_of_softmax(rng):
    logits, labels = torch.randn(60, 4, generator=rng), torch.randint(0, 3, (60,), generator=rng)
    _, scores = graph_and_scores([logits], labels, 4)
    for c in range(3):
        own = torch.stack([logits[i].double().softmax(0) for i in range(60) if labels[i] == c])
        torch.testing.assert_close(scores[c], own.mean(0))
    assert not scores[3].any()
    torch.testing.assert_close(scores.sum(1), torch.tensor([1.0, 1, 1, 0], dtype=torch.float64))


def test_a_shift_of_all_logits_changes_nothing(rng):
    logits, labels = torch.randn(30, 3, generator=rng).double(), torch.arange(30) % 3
    made = graph_and_scores([logits + 1e4], labels, 3)
    torch.testing.assert_close(made, graph_and_scores([logits], labels, 3))


def test_how_logits_are_cut_into_blocks_changes_nothing(rng):
    logits, labels = torch.randn(50, 4, generator=rng), torch.randint(4, (50,), generator=rng)
    graph, scores = graph_and_scores([logits], labels, 4)
    cut = graph_and_scores(logits.split([7, 1, 42]), labels, 4)
    torch.testing.assert_close(cut, (graph, scores))
    assert graph.equal(class_graph(logits.argmax(1), labels, 4))


def test_permuting_the_classes_permutes_both_axes(rng):
    logits, labels = torch.randn(80, 6, generator=rng), torch.arange(80) % 6
    order = torch.randperm(6, generator=rng)
    inverse = order.argsort()
    permuted = graph_and_scores([logits[:, order]], inverse[labels], 6)
    for made, plain in zip(permuted, graph_and_scores([logits], labels, 6), strict=True):
        torch.testing.assert_close(made, plain[order][:, order])


def test_the_most_confusing_classes_by_hand():
    # Rows, not columns: class 0 is mostly taken for 2. Class 3 is confused with none: ties.
    matrix = torch.tensor(
        [[0.1, 0.2, 0.6, 0.1], [0.3, 0.0, 0.3, 0.4], [0.0, 0.9, 0.1, 0.0], [0.0, 0.0, 0.0, 1.0]]
    )
    assert top_confusing(matrix, 3).tolist() == [[2, 1, 3], [3, 0, 2], [1, 0, 3], [0, 1, 2]]
    assert top_confusing(matrix, 1).tolist() == [[2], [3], [1], [0]]


def test_ties_go_to_the_lower_index_in_wide_matrices():
    expected = [[j for j in range(300) if j != i][:7] for i in range(300)]
    assert top_confusing(torch.zeros(300, 300), 7).tolist() == expected


@pytest.mark.parametrize("k", [0, 3])
def test_k_outside_its_range_is_refused(k):
    with pytest.raises(ParamError) as caught:
        top_confusing(torch.eye(3), k)
    assert str(caught.value) == f"confusing classes: k must be in 1 ... 2, got {k}"


def test_logits_that_are_not_finite_are_named():
    logits = torch.zeros(4, 2)
    logits[2, 1] = float("nan")
    with pytest.raises(NumericalError) as caught:
        graph_and_scores(logits.split(2), torch.tensor([0, 1, 0, 1]), 2)
    assert str(caught.value) == "confusion: logits must be finite, got nan in sample 2"


def test_confused_pairs_by_hand():
    labels = torch.tensor([0, 0, 1, 2])
    predicted = torch.tensor([[1, 0, 2, 0], [1, 2, 2, 2]])
    pairs = [(0, 1, 2), (1, 2, 2), (0, 2, 1), (2, 0, 1)]
    assert confused_pairs(predicted, labels, 9) == pairs
    assert confused_pairs(predicted, labels, 2) == pairs[:2]


def test_without_errors_no_pair_is_confused():
    labels = torch.arange(3)
    assert confused_pairs(labels.unsqueeze(0), labels, 5) == []


def test_confused_pairs_are_those_of_the_confusion_matrix(rng):
    labels = torch.randint(5, (300,), generator=rng)
    predicted = torch.randint(5, (1, 300), generator=rng)
    table = confusion_matrix(labels, predicted[0])
    pairs = confused_pairs(predicted, labels, 25)
    assert {(a, b): n for a, b, n in pairs} == {
        (a, b): table[a, b] for a in range(5) for b in range(5) if a != b and table[a, b]
    }
    assert [n for _, _, n in pairs] == sorted((n for _, _, n in pairs), reverse=True)
