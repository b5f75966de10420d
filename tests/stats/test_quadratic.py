import pytest
import torch

from ltcli.stats.quadratic import Diagonal, Factor, Full, LowRank, as_matrices, by_sample

C, D, B = 6, 4, 20
FORMS = ["full", "diagonal", "factor", "low-rank"]


def naive(weight, matrices, labels):
    """Per sample, with [B, C, D] and all."""
    differences = weight.unsqueeze(0) - weight[labels].unsqueeze(1)
    return torch.einsum("bcd,bde,bce->bc", differences, matrices[labels], differences)


def case(form, rng, dtype=torch.float64):
    """Covariances in a form, and the same as matrices [C, D, D]."""
    if form == "diagonal":
        variances = torch.rand(C, D, generator=rng, dtype=dtype)
        return Diagonal(variances), torch.diag_embed(variances)
    # A class without rows, one with a single row, and one with more rows than features.
    sizes = [3, 0, 1, 5, 2, 4]
    rows = torch.randn(sum(sizes), D, generator=rng, dtype=dtype)
    matrices = torch.stack([part.T @ part for part in rows.split(sizes)])
    if form == "full":
        return Full(matrices), matrices
    factor = Factor(rows, torch.tensor([0, *sizes]).cumsum(0).tolist())
    if form == "factor":
        return factor, matrices
    left = torch.rand(C, D, generator=rng, dtype=dtype)
    return LowRank(factor, Diagonal(left)), matrices + torch.diag_embed(left)


def vectors(rng, dtype=torch.float64):
    return torch.randn(C, D, generator=rng, dtype=dtype)


@pytest.mark.parametrize(
    "covariances",
    [
        Full(torch.tensor([[[1.0, 0.5], [0.5, 2.0]], [[0.0, 0.0], [0.0, 1.0]]])),
        Factor(torch.tensor([[1.0, 0.5], [0.0, 1.75**0.5], [0.0, 1.0]]), [0, 2, 3]),
    ],
    ids=["full", "factor"],
)
def test_two_classes_by_hand(covariances):
    # (1, 2) S (1, 2)' = 1 + 2 * 2 * 0.5 + 4 * 2 = 11 for the first, 4 for the second.
    weight = torch.tensor([[1.0, 1.0], [2.0, 3.0]])
    rows = by_sample(weight, covariances, torch.tensor([0, 1]))
    torch.testing.assert_close(rows, torch.tensor([[0.0, 11.0], [4.0, 0.0]]))


def test_variances_of_two_classes_by_hand():
    weight = torch.tensor([[1.0, 1.0], [2.0, 3.0]])
    variances = Diagonal(torch.tensor([[1.0, 2.0], [3.0, 0.5]]))
    rows = by_sample(weight, variances, torch.tensor([0, 1]))
    torch.testing.assert_close(rows, torch.tensor([[0.0, 9.0], [5.0, 0.0]]))


@pytest.mark.parametrize("form", FORMS)
def test_the_table_and_its_gradient_are_those_of_the_form_per_sample(rng, form):
    covariances, matrices = case(form, rng)
    labels = torch.randint(0, C, (B,), generator=rng)
    upstream = torch.randn(B, C, generator=rng, dtype=torch.float64)
    weight = vectors(rng).requires_grad_()
    expected = naive(weight, matrices, labels)
    (slope,) = torch.autograd.grad((upstream * expected).sum(), weight)
    values = by_sample(weight, covariances, labels)
    (found,) = torch.autograd.grad((upstream * values).sum(), weight)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, slope, rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_that_of_finite_differences(rng, form):
    covariances, _ = case(form, rng)
    weight = vectors(rng).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: by_sample(w, covariances, torch.tensor([3, 0, 5])), weight
    )


@pytest.mark.parametrize("form", FORMS)
def test_zero_at_the_own_class_and_nowhere_negative(rng, form):
    covariances, _ = case(form, rng, torch.float32)
    rows = by_sample(vectors(rng, torch.float32), covariances, torch.arange(C))
    assert rows.diag().equal(torch.zeros(C))
    assert (rows >= -1e-5).all()


@pytest.mark.parametrize("form", FORMS)
def test_one_vector_more_in_all_class_vectors_changes_nothing(rng, form):
    covariances, _ = case(form, rng)
    weight, classes = vectors(rng), torch.arange(C)
    shifted = weight + 10 * torch.randn(D, generator=rng, dtype=torch.float64)
    before = by_sample(weight, covariances, classes)
    torch.testing.assert_close(by_sample(shifted, covariances, classes), before, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_class_vectors_far_from_zero_cost_no_digits(rng, form):
    covariances, matrices = case(form, rng, torch.float32)
    weight = vectors(rng, torch.float32) + 1000
    exact = naive(weight.double(), matrices.double(), torch.arange(C))
    rows = by_sample(weight, covariances, torch.arange(C))
    torch.testing.assert_close(rows.double(), exact, rtol=1e-5, atol=1e-3)


def test_a_diagonal_matrix_its_factor_and_its_variances_agree(rng):
    variances, weight = torch.rand(C, D, generator=rng, dtype=torch.float64), vectors(rng)
    labels = torch.randint(0, C, (B,), generator=rng)
    matrices = torch.diag_embed(variances)
    offsets = list(range(0, C * D + 1, D))
    factor = Factor(torch.diag_embed(variances.sqrt()).reshape(C * D, D), offsets)
    one = by_sample(weight, Diagonal(variances), labels)
    for other in (Full(matrices), Full(list(matrices)), factor):
        torch.testing.assert_close(by_sample(weight, other, labels), one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_mixture_is_the_sum_of_its_members_and_leaves_the_others(rng, form):
    covariances, matrices = case(form, rng)
    shares = torch.rand(C, C, generator=rng, dtype=torch.float64)
    shares[4] = torch.tensor([0, 0, 0, 0, 0.5, 0])  # fewer rows than features
    shares[5] = torch.tensor([0, 1, 0, 0, 0, 0])  # of the class without rows
    expected = matrices.clone()
    for c in (1, 4, 5):
        expected[c] = sum(shares[c, i] * matrices[i] for i in range(C))
    labels = torch.arange(B) % C
    upstream = torch.randn(B, C, generator=rng, dtype=torch.float64)
    weight = vectors(rng).requires_grad_()
    values = by_sample(weight, covariances.mixed(shares, [1, 4, 5]), labels)
    wanted = naive(weight, expected, labels)
    torch.testing.assert_close(values, wanted, rtol=0, atol=1e-11)
    (found,) = torch.autograd.grad((upstream * values).sum(), weight)
    (slope,) = torch.autograd.grad((upstream * wanted).sum(), weight)
    torch.testing.assert_close(found, slope, rtol=0, atol=1e-10)
    # What was mixed is left as it was.
    before = by_sample(weight, covariances, labels)
    torch.testing.assert_close(before, naive(weight, matrices, labels), rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_a_mixture_for_no_class_is_what_was_there(rng, form):
    covariances, _ = case(form, rng)
    assert covariances.mixed(torch.eye(C, dtype=torch.float64), []) is covariances


@pytest.mark.parametrize("form", [form for form in FORMS if form != "diagonal"])
def test_matrices_of_some_classes_give_their_rows(rng, form):
    covariances, _ = case(form, rng)
    weight, wanted = vectors(rng), [2, 0]
    made = as_matrices(covariances, wanted)
    expected = by_sample(weight, covariances, torch.tensor(wanted))
    torch.testing.assert_close(by_sample(weight, made, torch.tensor(wanted)), expected)
    if form != "full":
        others = [c for c in range(C) if c not in wanted]
        assert not by_sample(weight, made, torch.tensor(others)).any()


@pytest.mark.parametrize("form", FORMS)
def test_with_labels_on_the_cpu_nothing_waits_for_the_device(rng, form):
    # The meta device has no numbers: whatever needs one from it fails.
    covariances, _ = case(form, rng)
    far = {
        Full: lambda it: Full(it.matrices.to("meta")),
        Diagonal: lambda it: Diagonal(it.variances.to("meta")),
        Factor: lambda it: Factor(it.rows.to("meta"), it.offsets),
        LowRank: lambda it: LowRank(
            Factor(it.directions.rows.to("meta"), it.directions.offsets),
            Diagonal(it.rest.variances.to("meta")),
        ),
    }[type(covariances)](covariances)
    if form in ("full", "diagonal"):
        far = far.mixed(torch.eye(C, device="meta", dtype=torch.float64), [0, 2])
    weight = vectors(rng).to("meta").requires_grad_()
    values = by_sample(weight, far, torch.tensor([2, 0, 2]))
    values.sum().backward()
    assert values.shape == (3, C)
    assert weight.grad.shape == (C, D)


@pytest.mark.parametrize("classes", [2, 40])
@pytest.mark.parametrize("rows", [1, 30])
def test_few_and_many_rows_and_classes_give_the_same_term(rng, rows, classes):
    # 30 rows and 40 classes are one matrix, the others are taken row by row.
    factor = torch.randn(rows, D, generator=rng, dtype=torch.float64)
    covariances = Factor(factor, [0] + [rows] * classes)
    weight = torch.randn(classes, D, generator=rng, dtype=torch.float64, requires_grad=True)
    found = by_sample(weight, covariances, torch.tensor([0]))
    apart = weight - weight[0]
    expected = ((apart @ factor.T) ** 2).sum(1).unsqueeze(0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(it.square().sum(), weight)[0] for it in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-11, atol=1e-11)


def test_of_thousands_of_classes_a_mixture_has_the_few_that_are_lent(rng):
    shares = torch.zeros(3000, 3000)
    shares[[5, 5, 2999], [7, 5, 0]] = torch.tensor([0.25, 1.0, 0.5])
    factor = Factor(torch.ones(3000, 2), list(range(3001)))
    assert factor.mixed(shares, [5, 2999]).mixtures == {5: [(5, 1.0), (7, 0.25)], 2999: [(0, 0.5)]}
