import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.data.batches import Batch
from ltcli.engine.optimizers import SGD
from ltcli.methods import isda
from ltcli.methods.risda import METHOD, Options, make_steps
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network
from ltcli.stats import running_moments
from ltcli.stats.class_weights import effective_number_weights
from ltcli.stats.quadratic import Diagonal, Factor, Full
from tests.methods.conftest import COUNTS, header, planned, training_run

C, D, N, EPOCHS = 4, 3, 24, 4
HEAD = {"head": "top-k", "head_at": 2.0}
VARIANTS = ["paper", "code"]
# Two decimals, so that rounding changes nothing unless a test says so.
GRAPH = [[0.75, 0.25, 0.0, 0.0], [0.1, 0.8, 0.1, 0.0], [0.5, 0.2, 0.3, 0.0], [0.4, 0.1, 0.1, 0.4]]


def run_of(rng, covariances=None, *, graph=GRAPH, dtype=torch.float64, lr=0.0, beta=0.9999):
    """A classifier of features and one batch an epoch."""
    classifier = Classifier(D, C).to(dtype)
    for values in (classifier.weight, classifier.bias):
        values.data = torch.randn(values.shape, generator=rng, dtype=dtype)
    features = torch.randn(N, D, generator=rng, dtype=dtype)
    return training_run(
        planned("risda", epochs=EPOCHS, batch_size=N, beta=beta),
        Network(torch.nn.Identity(), classifier),
        features,
        optimizer=SGD([classifier.weight, classifier.bias], lr=lr),
        labels=torch.arange(N) % C,
        means=torch.randn(C, D, generator=rng, dtype=dtype),
        covariances=covariances,
        graph=torch.tensor(graph, dtype=dtype),
    )


def batch_of(case, epoch=0):
    return Batch(epoch, 0, 0, case.order(epoch))


def matrices(rng):
    roots = torch.randn(C, D, D, generator=rng, dtype=torch.float64)
    return roots @ roots.transpose(1, 2)


def options(**more):
    """Head classes 0 and 1, no ramp."""
    return Options(**{**HEAD, "ramp_start": 1.0, **more})


def naive(case, batch, *, displacements, sigma, shift, strength):
    """The weighted loss, sample by sample and term by term."""
    classifier = case.network.classifier
    weight = classifier.weight.detach()
    weights = effective_number_weights(COUNTS, 0.9999)
    total, norm = 0.0, 0.0
    for f, y in zip(case.inputs(batch), case.labels[batch.rows].tolist(), strict=True):
        z = classifier(f.unsqueeze(0))[0].detach()
        for c in range(C):
            difference = weight[c] - weight[y]
            z[c] += shift * difference @ displacements[y]
            z[c] += strength / 2 * difference @ sigma[y] @ difference
        total += weights[y] * (z.logsumexp(0) - z[y])
        norm += weights[y]
    return total / norm


def papers(case, sigma):
    """Reasoning prototypes and covariances of the paper, class by class."""
    displacements, mixed = torch.zeros(C, D, dtype=torch.float64), sigma.clone()
    for c in (2, 3):
        for i in range(C):
            if i != c:
                displacements[c] += case.graph[c, i] * case.means[i]
                mixed[c] += case.graph[c, i] * sigma[i]
    return displacements, mixed


def weighted(case, batch):
    logits, labels = case.network.classifier(case.inputs(batch)), case.labels[batch.rows]
    weights = effective_number_weights(COUNTS, 0.9999).float().double()
    return F.cross_entropy(logits, labels, weight=weights)


def test_the_papers_loss_is_the_formula_term_by_term(rng):
    sigma = matrices(rng)
    case = run_of(rng, Full(sigma))
    displacements, mixed = papers(case, sigma)
    value = make_steps(options(shift=0.7, strength=0.6), case).step(batch_of(case))
    expected = naive(
        case, batch_of(case), displacements=displacements, sigma=mixed, shift=0.7, strength=0.6
    )
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


def test_the_codes_loss_is_the_formula_with_the_shift_twice_and_for_every_class(rng):
    sigma = matrices(rng)
    graph = torch.tensor(GRAPH) + torch.tensor([0.004, -0.004, 0.003, -0.003])
    case = run_of(rng, Full(sigma), graph=graph.tolist())
    rounded = torch.tensor(GRAPH, dtype=torch.float64)
    mixed = sigma.clone()
    mixed[2:] = torch.einsum("ci,ide->cde", rounded[2:], sigma)
    value = make_steps(options(variant="code", shift=0.7, strength=0.6), case).step(batch_of(case))
    expected = naive(
        case,
        batch_of(case),
        displacements=rounded @ case.means - case.means,
        sigma=mixed,
        shift=2 * 0.7,
        strength=0.6,
    )
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("base", ["ce", "focal", "ldam"])
def test_without_strength_and_shift_it_is_the_weighted_base_loss(rng, variant, base):
    case = run_of(rng, Full(matrices(rng)))
    limits = {"ce": {}, "focal": {"gamma": 0.0}, "ldam": {"max_margin": 0.0}}[base]
    none = options(variant=variant, shift=0.0, strength=0.0, base=base, **limits)
    value = make_steps(none, case).step(batch_of(case))
    torch.testing.assert_close(value, weighted(case, batch_of(case)), rtol=0, atol=1e-7)


def test_without_weights_either_it_is_cross_entropy(rng):
    case = run_of(rng, Full(matrices(rng)), beta=0.0)
    value = make_steps(options(shift=0.0, strength=0.0), case).step(batch_of(case))
    logits = case.network.classifier(case.inputs(batch_of(case)))
    plain = F.cross_entropy(logits, case.labels[batch_of(case).rows])
    torch.testing.assert_close(value, plain, rtol=0, atol=1e-7)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("source", ["artifact", "running"])
def test_with_a_graph_of_no_confusion_it_is_isda(rng, variant, source):
    covariances = Full(matrices(rng)) if source == "artifact" else None
    dtype = torch.float64 if covariances else torch.float32
    case = run_of(rng, covariances, graph=torch.eye(C).tolist(), dtype=dtype, beta=0.0)
    mine = options(variant=variant, source=source, shift=3.0, strength=0.6)
    ancestor = isda.Options(strength=0.6, ramp_start=1.0, source=source)
    one, other = make_steps(mine, case), isda.make_steps(ancestor, case)
    for epoch in range(2):
        batch = batch_of(case, epoch)
        torch.testing.assert_close(one.step(batch), other.step(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("source", ["artifact", "running"])
def test_in_the_paper_head_samples_are_those_of_isda(rng, source):
    covariances = Full(matrices(rng)) if source == "artifact" else None
    dtype = torch.float64 if covariances else torch.float32
    case = run_of(rng, covariances, dtype=dtype, beta=0.0)
    if source == "running":
        case = dataclasses.replace(case, means=None)
    case = dataclasses.replace(case, order=lambda _epoch: torch.arange(N)[case.labels < 2])
    one = make_steps(options(source=source), case).step(batch_of(case))
    ancestor = isda.Options(strength=0.75, ramp_start=1.0, source=source)
    other = isda.make_steps(ancestor, case).step(batch_of(case))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reasoning", ["both", "covariance", "prototype", "none"])
def test_each_half_of_the_reasoning_can_be_left_out(rng, reasoning):
    sigma = matrices(rng)
    case = run_of(rng, Full(sigma))
    displacements, mixed = papers(case, sigma)
    value = make_steps(options(reasoning=reasoning), case).step(batch_of(case))
    expected = naive(
        case,
        batch_of(case),
        displacements=displacements,
        sigma=mixed if reasoning in ("both", "covariance") else sigma,
        shift=0.5 if reasoning in ("both", "prototype") else 0.0,
        strength=0.75,
    )
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_diagonal_and_factor_covariances_agree(rng, variant):
    variances = torch.rand(C, D, generator=rng, dtype=torch.float64)
    rows = torch.diag_embed(variances.sqrt()).reshape(C * D, D)
    forms = [
        Full(torch.diag_embed(variances)),
        Diagonal(variances),
        Factor(rows, list(range(0, C * D + 1, D))),
    ]
    case = run_of(rng)
    values = [
        make_steps(options(variant=variant), dataclasses.replace(case, covariances=form)).step(
            batch_of(case)
        )
        for form in forms
    ]
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(values[2], values[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shift_and_strength_grow_together(rng, variant):
    case = run_of(rng, Full(matrices(rng)))
    grown = make_steps(options(variant=variant, ramp_start=0.2, shift=2.0, strength=1.0), case)
    for epoch, share in enumerate((0.2, 0.4, 0.6, 0.8)):
        at_once = make_steps(options(variant=variant, shift=2 * share, strength=share), case)
        batch = batch_of(case, epoch)
        torch.testing.assert_close(grown.step(batch), at_once.step(batch), rtol=0, atol=1e-12)


def test_it_bounds_the_expected_cross_entropy_around_the_displaced_feature(rng):
    sigma, draws = 0.2 * matrices(rng), 200_000
    for y in range(C):
        case = run_of(rng, Full(sigma))
        case = dataclasses.replace(case, order=lambda _epoch, y=y: torch.tensor([y]))
        displacements, mixed = papers(case, sigma)
        classifier, feature = case.network.classifier, case.inputs(batch_of(case))
        bound = make_steps(options(shift=0.5, strength=0.5), case).step(batch_of(case))
        noise = torch.randn(draws, D, generator=rng, dtype=torch.float64)
        root = torch.linalg.cholesky(0.5 * mixed[y])
        centre = feature + 0.5 * displacements[y]
        with torch.no_grad():
            drawn = classifier(centre + noise @ root.T)
        losses = F.cross_entropy(drawn, torch.full((draws,), y), reduction="none")
        assert bound > losses.mean() - 4 * losses.std() / draws**0.5
        assert bound > F.cross_entropy(classifier(centre), torch.tensor([y]))


def by_hand(case, batch, state, displacements, shift):
    """Take a batch of displaced features into account; return the state and its matrices."""
    labels = case.labels[batch.rows]
    features = case.inputs(batch) + shift * displacements[labels]
    state = running_moments.update(state, features, labels)
    known = state.stacked()
    return state, known if known.dim() == 3 else torch.diag_embed(known)


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_the_papers_running_moments_are_those_of_the_features_with_this_batch(rng, form):
    case = dataclasses.replace(run_of(rng, dtype=torch.float32), means=None)
    steps = make_steps(options(source="running", form=form), case)
    state, nowhere = running_moments.start(C, D, form), torch.zeros(C, D)
    for epoch in range(2):
        batch = batch_of(case, epoch)
        state, sigma = by_hand(case, batch, state, nowhere, 0.0)
        known = dataclasses.replace(case, means=state.means)
        displacements, mixed = papers(known, sigma.double())
        expected = naive(
            case,
            batch,
            displacements=displacements.float(),
            sigma=mixed.float(),
            shift=0.5,
            strength=0.75,
        )
        torch.testing.assert_close(steps.step(batch), expected.float(), rtol=1e-5, atol=1e-6)
    # The estimate itself stays the classes' own.
    torch.testing.assert_close(steps.state.tensors()["covariances"], state.stacked())


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_the_code_overwrites_running_covariances_and_goes_on_from_there(rng, form):
    case = run_of(rng, dtype=torch.float32)
    code = options(source="running", variant="code", form=form, ramp_start=0.2)
    steps = make_steps(code, case)
    displacements = case.graph @ case.means - case.means
    state = running_moments.start(C, D, form)
    # The share grows: displacements by one number for all epochs would change no covariance.
    for epoch, share in enumerate((0.2, 0.4, 0.6)):
        batch = batch_of(case, epoch)
        state, sigma = by_hand(case, batch, state, displacements, 0.5 * share)
        mixed = sigma.clone()
        mixed[2:] = torch.einsum("ci,ide->cde", case.graph[2:], sigma)
        expected = naive(
            case,
            batch,
            displacements=displacements,
            sigma=mixed,
            shift=share,
            strength=0.75 * share,
        )
        torch.testing.assert_close(steps.step(batch), expected.float(), rtol=1e-5, atol=1e-6)
        kept = mixed.diagonal(dim1=1, dim2=2) if form == "diagonal" else mixed.unbind()
        state = dataclasses.replace(state, covariances=kept)
    torch.testing.assert_close(steps.state.tensors()["covariances"], state.stacked())


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_flow_through_features_and_class_vectors(rng, variant):
    # Central differences of the loss, for one feature and one class vector.
    sigma = matrices(rng)
    case = run_of(rng, Full(sigma))
    batch = batch_of(case)
    features = case.inputs(batch).clone().requires_grad_()
    case = dataclasses.replace(case, inputs=lambda _batch: features)
    weight = case.network.classifier.weight
    step = make_steps(options(variant=variant), case).step
    step(batch)
    slopes = [(features, features.grad.clone()), (weight, weight.grad.clone())]
    for values, slope in slopes:
        for place in ((0, 0), (3, 1)):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    values[place] += sign * 1e-5
                ends.append(step(batch).detach())
                with torch.no_grad():
                    values[place] -= sign * 1e-5
            measured = (ends[0] - ends[1]) / 2e-5
            torch.testing.assert_close(slope[place], measured, rtol=1e-6, atol=1e-8)


def test_what_is_read_is_what_is_used():
    reads = {}
    for variant, source in itertools.product(VARIANTS, ("artifact", "running")):
        run = planned("risda", variant=variant, source=source)
        reads[variant, source] = METHOD.reads(run.params.options, run)
    assert reads.pop(("paper", "running")) == ("confusion",)
    assert set(reads.values()) == {("covariances", "confusion")}


RISDA = ("finetune", "--method", "risda", "--epochs", "1", "--force")


@pytest.mark.parametrize("source", ["artifact", "running"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_variants_work_from_both_sources(ltcli, copy, variant, source):
    done = ltcli(*RISDA, "--variant", variant, "--source", source, "-d", copy)
    assert done.code == 0
    names = read_header(copy / "finetune-risda.safetensors").tensors
    assert ("method.covariances" in names) == (source == "running")


def test_on_images_the_whole_network_moves(ltcli, copy):
    options = ("--data", "images", "--train", "all", "--lr", "0.01")
    assert ltcli(*RISDA, *options, "-d", copy).code == 0
    out = copy / "finetune-risda.safetensors"
    with open_artifact(out) as after, open_artifact(copy / "pretrain.safetensors") as before:
        one, other = after.load("backbone.*"), before.load("backbone.*")
        assert not any(one[n].equal(other[n]) for n in one if n.endswith("weight"))


def test_factors_train_like_the_matrices_they_stand_for(ltcli, copy):
    factor = copy / "factor.safetensors"
    assert ltcli("covariances", "--form", "factor", "--out", factor, "-d", copy).code == 0
    weights = []
    for options in ((), ("--covariances", factor)):
        assert ltcli(*RISDA, *options, "-d", copy).code == 0
        with open_artifact(copy / "finetune-risda.safetensors") as model:
            weights.append(model.tensor("classifier.weight"))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-4)


# Wrong use.


@pytest.mark.parametrize("more", [10, 20])
def test_as_many_head_classes_as_classes_are_refused_before_any_work(ltcli, copy, more):
    done = ltcli(*RISDA, "--head", "top-k", "--head-at", more, "-d", copy)
    assert done.code == 2
    assert done.lines == [
        f"error: finetune: head-at must be a whole number from 1 to 9 for top-k, got {more}",
        "hint: there are 10 classes, and some must be left for the tail",
    ]
    assert not (copy / "finetune-risda.safetensors").exists()


@pytest.mark.parametrize(("at", "side"), [("1", "tail"), ("5000", "head")])
def test_no_tail_class_and_no_head_class_are_refused_before_any_work(ltcli, copy, at, side):
    done = ltcli(*RISDA, "--head", "min-count", "--head-at", at, "-d", copy)
    assert done.code == 2
    assert done.lines == [
        f"error: finetune: no class is a {side} class by min-count {at}",
        "hint: choose another --head or --head-at",
    ]


def test_the_code_variant_refuses_classes_that_are_not_sorted_by_size():
    def check(counts, **given):
        model = header(Path("m"), classifier="linear", class_counts=counts)
        run = planned("risda", headers={"model": model}, **given)
        METHOD.check(run.params.options, run)

    check([5, 9, 5, 1])
    with pytest.raises(ParamError) as error:
        check([5, 9, 5, 1], variant="code")
    assert str(error.value) == (
        "finetune: variant must be paper for classes that are not sorted by size, got code"
    )
    assert error.value.hint == "the released code takes the first classes for the largest"
    assert error.value.exit_code == 2
    check([9, 5, 5, 1], variant="code")


def reordered(path, out):
    """Save an artifact with its class names turned round."""
    with open_artifact(path) as artifact:
        header, tensors = artifact.header, artifact.load(*artifact.header.tensors)
    info = header.info | {"class_names": header.info["class_names"][::-1]}
    more = {"stage": header.stage, "parameters": header.parameters, "inputs": header.inputs}
    save(out, header.kind, tensors, info=info, **more)
    return out


@pytest.mark.parametrize("role", ["covariances", "confusion"])
def test_artifacts_of_another_order_of_classes_are_refused(ltcli, copy, role):
    other = reordered(copy / f"{role}.safetensors", copy / "turned.safetensors")
    done = ltcli(*RISDA, f"--{role}", other, "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: finetune: {other} belongs to another list of classes than "
        f"{copy}/pretrain.safetensors",
        "hint: make both from the same artifacts, or name others",
    ]


def test_a_classifier_that_is_not_linear_is_refused():
    model = header(Path("m"), classifier="cosine", class_counts=[9, 5, 1])
    run = planned("risda", headers={"model": model})
    with pytest.raises(ArtifactError, match=r"^m: classifier must be linear, got cosine$"):
        METHOD.check(run.params.options, run)
