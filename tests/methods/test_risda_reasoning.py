import pytest
import torch

from ltcli.methods.risda import covariance_weights, prototype_weights

GRAPH = torch.tensor([[0.904, 0.096, 0.0], [0.25, 0.5, 0.25], [0.126, 0.251, 0.623]])
TAIL = torch.tensor([False, True, True])


def test_the_paper_lends_tail_classes_the_means_of_the_others():
    expected = [[0, 0, 0], [0.25, 0, 0.25], [0.126, 0.251, 0]]
    torch.testing.assert_close(prototype_weights(GRAPH, TAIL, "paper"), torch.tensor(expected))


def test_the_paper_adds_the_covariances_of_the_others_to_a_tail_classs_own():
    expected = [[1, 0, 0], [0.25, 1, 0.25], [0.126, 0.251, 1]]
    torch.testing.assert_close(covariance_weights(GRAPH, TAIL, "paper"), torch.tensor(expected))


def test_the_code_moves_every_class_from_its_own_mean_by_two_decimals():
    expected = [[-0.1, 0.1, 0], [0.25, -0.5, 0.25], [0.13, 0.25, -0.38]]
    torch.testing.assert_close(prototype_weights(GRAPH, TAIL, "code"), torch.tensor(expected))


def test_the_code_replaces_a_tail_classs_covariance_by_its_row():
    expected = [[1, 0, 0], [0.25, 0.5, 0.25], [0.13, 0.25, 0.62]]
    torch.testing.assert_close(covariance_weights(GRAPH, TAIL, "code"), torch.tensor(expected))


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_a_class_that_is_never_mistaken_borrows_nothing(variant):
    own = torch.eye(3)
    assert prototype_weights(own, TAIL, variant).equal(torch.zeros(3, 3))
    assert covariance_weights(own, TAIL, variant).equal(own)


def test_the_codes_displacement_is_the_papers_less_what_the_own_mean_loses(rng):
    # eps mu - mu = mu^r - (1 - eps_cc) mu_c, for rows that sum to 1 and need no rounding.
    graph = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.75, 0.0], [0.5, 0.0, 0.5]])
    means = torch.randn(3, 4, generator=rng)
    everyone = torch.ones(3, dtype=torch.bool)
    lost = (1 - graph.diag()).unsqueeze(1) * means
    torch.testing.assert_close(
        prototype_weights(graph, everyone, "code") @ means,
        prototype_weights(graph, everyone, "paper") @ means - lost,
    )


def test_overwriting_again_and_again_leaves_the_tail_with_covariances_of_the_head():
    # An absorbing chain: (1 - Q)^-1 R, with Q from tail to tail and R from tail to head.
    graph = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]])
    weights = covariance_weights(graph, TAIL, "code")
    limit = torch.linalg.matrix_power(weights.double(), 200)
    q, r = weights[1:, 1:].double(), weights[1:, :1].double()
    expected = torch.linalg.inv(torch.eye(2, dtype=torch.float64) - q) @ r
    torch.testing.assert_close(limit[1:, :1], expected)
    torch.testing.assert_close(limit[1:, 1:], torch.zeros(2, 2, dtype=torch.float64))
