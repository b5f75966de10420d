import dataclasses
import itertools

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.core.errors import ArtifactError, StopError
from ltcli.data.batches import Batch
from ltcli.engine import fit
from ltcli.engine.optimizers import SGD
from ltcli.methods.metasaug import METHOD, Options, make_steps
from ltcli.methods.options import Base, base_loss
from ltcli.models import small_images
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network, build_backbone
from ltcli.stats.class_weights import effective_number_weights
from ltcli.stats.quadratic import Diagonal, Factor, Full, LowRank, by_sample
from ltcli.stats.running_moments import Estimator
from tests.methods.conftest import (
    ALL_HELD_OUT,
    COUNTS,
    HELD_OUT,
    LABELS,
    assembled,
    planned,
    training_run,
)

C, N, V, EPOCHS = 4, 24, 8, 4
LR = 0.05


def run_of(rng, *, whole):
    """Twelve rows a step: of images through a small backbone, or of features."""
    shape = (3, 8, 8) if whole else (5,)
    backbone = build_backbone(small_images.backbone("resnet20")) if whole else torch.nn.Identity()
    classifier = Classifier(64 if whole else 5, C)
    classifier.bias.data = torch.randn(C, generator=rng)
    classifier.scales.data = torch.rand(C, generator=rng) + 0.5
    network = Network(backbone, classifier).train()
    data = torch.randn(N, *shape, generator=rng)
    # Features with a mean, and classes apart.
    data = data + LABELS.view(N, *[1] * len(shape)) / 4
    held_out = torch.randn(V, *shape, generator=rng)
    moving = [p for p in network.parameters() if p.requires_grad]
    given = {"data": "images"} if whole else {"data": "features", "train": "classifier"}
    return training_run(
        planned("metasaug", epochs=EPOCHS, batch_size=12, **given),
        network,
        data,
        optimizer=SGD(moving, lr=LR, momentum=0.9, weight_decay=1e-3),
        held_out=lambda batch: held_out[batch.rows],
        held_out_labels=HELD_OUT,
    )


@pytest.fixture(params=[True, False], ids=["whole", "classifier"])
def case(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return run_of(torch.Generator().manual_seed(1), whole=request.param)


def batches(case, steps):
    """The first batches of a run."""
    for number in range(steps):
        epoch, step = divmod(number, N // 12)
        rows = case.order(epoch)[12 * step : 12 * step + 12]
        yield Batch(epoch, step, 12 * step, rows)


def covariances(steps):
    return steps.state.tensors()["covariances"]


def weighted_base(options, logits, labels):
    """The weighted mean of the base losses."""
    losses = base_loss(options, COUNTS)(logits, labels, Batch(0, 0, 0, labels))
    weights = effective_number_weights(COUNTS, 0.9999).float()[labels]
    return (weights * losses).sum() / weights.sum()


def loss_of(options, case, features, labels, sigma, strength):
    classifier = case.network.classifier
    raised = by_sample(classifier.vectors(), Full(sigma), labels)
    return weighted_base(options, classifier(features) + 0.5 * strength * raised, labels)


def naive_step(options, case, batch, sigma, strength):
    """Sigma' by differentiating twice through the virtual step."""
    labels = LABELS[batch.rows]
    theta = {n: p for n, p in case.network.named_parameters() if p.requires_grad}
    buffers = {n: b.clone() for n, b in case.network.named_buffers()}
    scales = case.network.classifier.scales

    def features_and_logits(parameters, x):
        body = {
            n.removeprefix("backbone."): t
            for n, t in {**parameters, **buffers}.items()
            if n.startswith("backbone.")
        }
        f = functional_call(case.network.backbone, body, (x,))
        w, b = parameters["classifier.weight"], parameters["classifier.bias"]
        return f, scales * (f @ w.T + b)

    sigma = sigma.clone().requires_grad_()
    _, z = features_and_logits(theta, case.inputs(batch))
    vectors = scales.unsqueeze(1) * theta["classifier.weight"]
    rows = []
    for i, y in enumerate(labels.tolist()):
        apart = vectors - vectors[y]
        rows.append(z[i] + 0.5 * strength * ((apart @ sigma[y]) * apart).sum(1))
    value = weighted_base(options, torch.stack(rows), labels)
    grads = torch.autograd.grad(value, list(theta.values()), create_graph=True)
    rate = case.optimizer.param_groups[0]["lr"]
    virtual = {n: p - rate * g for (n, p), g in zip(theta.items(), grads, strict=True)}
    _, held = features_and_logits(virtual, case.held_out(ALL_HELD_OUT))
    (gradient,) = torch.autograd.grad(F.cross_entropy(held, HELD_OUT), sigma)
    return (sigma - options.meta_lr * gradient).detach()


@pytest.mark.parametrize("base", ["ce", "focal", "ldam"])
def test_the_meta_step_is_that_of_double_backward(case, base):
    # The paper's variant keeps the result, so that it can be seen; the step is large on purpose.
    options = Options(base=base, variant="paper", meta_lr=50.0, ramp_start=1.0, strength=0.6)
    steps = make_steps(options, case)
    first, second = batches(case, 2)
    steps.step(first)
    # The rate of the epoch counts, not that of the first one.
    case.optimizer.param_groups[0]["lr"] = LR / 2
    sigma = covariances(steps)
    expected = naive_step(options, case, second, sigma, 0.6)
    found = torch.stack(list(corrected(steps, second).matrices))
    change = (expected - sigma).norm()
    assert change > 1e-4 * sigma.norm()
    assert (found - expected).norm() < 2e-3 * change


def corrected(steps, batch):
    """The covariances that a step would keep."""
    captured = {}
    steps.state.replace, keep = lambda new: captured.update(new=new), steps.state.replace
    steps.step(batch)
    steps.state.replace = keep
    return captured["new"]


def test_the_real_step_has_the_corrected_covariances(case):
    options = Options(variant="paper", meta_lr=50.0, ramp_start=1.0, strength=0.6)
    steps = make_steps(options, case)
    first, second = batches(case, 2)
    steps.step(first)
    expected_sigma = naive_step(options, case, second, covariances(steps), 0.6)
    x, labels = case.inputs(second), LABELS[second.rows]
    state = {n: b.clone() for n, b in case.network.named_buffers()}
    body = {n.removeprefix("backbone."): b for n, b in state.items() if n.startswith("backbone.")}
    features = functional_call(case.network.backbone, body, (x,))
    expected = loss_of(options, case, features, labels, expected_sigma, 0.6)
    torch.testing.assert_close(steps.step(second).detach(), expected.detach(), rtol=1e-4, atol=0)


def test_the_code_variant_forgets_the_step_and_the_estimate_knows_a_batch_afterwards():
    case = fresh(False)
    steps = make_steps(Options(meta_lr=50.0), case)
    assert covariances(steps).abs().max() == 0
    for batch in batches(case, 2):
        steps.step(batch)
    x = torch.cat([case.inputs(batch) for batch in batches(case, 2)])
    labels = torch.cat([LABELS[batch.rows] for batch in batches(case, 2)])
    torch.testing.assert_close(covariances(steps)[0], torch.cov(x[labels == 0].T, correction=0))


def run(options, case, count=5):
    steps = make_steps(options, case)
    values = [float(steps.step(batch).detach()) for batch in batches(case, count)]
    return values, [p.detach().clone() for p in case.network.parameters()], steps


def fresh(whole):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return run_of(torch.Generator().manual_seed(1), whole=whole)


@pytest.mark.parametrize("whole", [True, False])
def test_without_a_meta_step_it_is_weighted_isda(whole):
    options = Options(meta_lr=0.0)
    values, weights, _ = run(options, fresh(whole))
    case = fresh(whole)
    running = Estimator(C, case.network.classifier.weight.shape[1], "full")
    for number, batch in enumerate(batches(case, 5)):
        labels = LABELS[batch.rows]
        features = case.features(batch)
        sigma = torch.stack(list(running.covariances.matrices))
        strength = 0.5 * (0.8 + 0.2 * batch.epoch / EPOCHS)
        value = loss_of(options, case, features, labels, sigma, strength)
        case.optimizer.zero_grad()
        value.backward()
        case.optimizer.step()
        running.update(features, labels)
        assert values[number] == pytest.approx(float(value.detach()), rel=1e-5)
    for mine, theirs in zip(weights, case.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-4, atol=1e-6)


def test_without_strength_the_meta_step_is_zero_and_the_loss_is_the_weighted_base_loss(case):
    steps = make_steps(Options(strength=0.0, meta_lr=10.0, variant="paper"), case)
    first, second = batches(case, 2)
    steps.step(first)
    buffers = {n: b.clone() for n, b in case.network.named_buffers()}
    logits = functional_call(case.network, buffers, (case.inputs(second),))
    expected = weighted_base(Base(), logits, LABELS[second.rows])
    torch.testing.assert_close(steps.step(second).detach(), expected.detach())
    assert steps.facts()["covariance_step"] == 0


@pytest.mark.parametrize("form", ["full", "factor", "low-rank"])
def test_covariances_of_an_artifact_are_corrected_for_one_step(form):
    rng = torch.Generator().manual_seed(3)
    options = Options(source="artifact", meta_lr=50.0, ramp_start=1.0, strength=0.6)
    case = run_of(rng, whole=False)
    rows, offsets = torch.randn(9, 5, generator=rng), [0, 4, 6, 6, 9]
    rest = torch.rand(C, 5, generator=rng)
    factor = Factor(rows, offsets)
    known = {"factor": factor, "low-rank": LowRank(factor, Diagonal(rest))}
    matrices = [rows[a:b].T @ rows[a:b] for a, b in itertools.pairwise(offsets)]
    sigma = torch.stack(matrices)
    if form == "low-rank":
        sigma = sigma + torch.diag_embed(rest)
    case = dataclasses.replace(case, covariances=known.get(form, Full(sigma)))
    steps = make_steps(options, case)
    assert steps.state is None
    # Twice, as the second step must start from the same covariances again.
    for batch in batches(case, 2):
        corrected = naive_step(options, case, batch, sigma, 0.6)
        assert (corrected - sigma).norm() > 1e-3 * sigma.norm()
        labels = LABELS[batch.rows]
        expected = loss_of(options, case, case.inputs(batch), labels, corrected, 0.6)
        torch.testing.assert_close(steps.step(batch), expected)


def test_covariances_of_an_artifact_work_from_the_command_line(ltcli, copy):
    options = ("--source", "artifact", "--data", "features", "--train", "classifier")
    command = ("finetune", "--method", "metasaug", *options, "--epochs", "1", "-d", copy)
    made = []
    for form in ("full", "factor", "low-rank", "diagonal"):
        assert ltcli("covariances", "--form", form, "--force", "-d", copy).code == 0
        out = copy / f"{form}.safetensors"
        assert ltcli(*command, "--out", out).code == 0
        made.append(tensors_of(out)["classifier.weight"])
        assert not any(name.startswith("method.") for name in read_header(out).tensors)
    torch.testing.assert_close(made[0], made[1])
    assert not made[0].allclose(made[3])
    done = ltcli(*command, "--variant", "paper")
    assert done.code == 2
    assert done.lines == [
        "error: finetune: variant must be code for --source artifact, got paper",
        "hint: those of an artifact are never replaced",
    ]


def test_held_out_images_leave_no_trace_in_the_batch_norms():
    buffers = []
    for meta_lr in (0.0, 1e-9):
        case = fresh(True)
        run(Options(meta_lr=meta_lr), case, 1)
        buffers.append({n: b.clone() for n, b in case.network.named_buffers()})
    assert buffers[0].keys() == buffers[1].keys()
    for name, buffer in buffers[0].items():
        torch.testing.assert_close(buffers[1][name], buffer)


def test_the_log_says_how_large_the_steps_were(case):
    options = Options(meta_lr=50.0, variant="paper")
    steps = make_steps(options, case)
    first, second, _ = batches(case, 3)
    steps.step(first)  # from zero, which has no relative size
    assert steps.facts() == {"covariance_step": 0.0}
    sigma = covariances(steps)
    strength = options.strength * 0.8
    expected = naive_step(options, case, second, sigma, strength)
    steps.step(second)
    present = LABELS[second.rows].unique()
    size = float((expected - sigma).norm() / sigma[present].norm())
    assert steps.facts()["covariance_step"] == pytest.approx(size, rel=1e-2)
    assert "covariance_step" not in (make_steps(Options(meta_lr=0.0), case).facts() or {})


def test_variances_take_the_step_of_the_diagonal_of_full_covariances(case):
    given = {"form": "diagonal", "variant": "paper", "meta_lr": 50.0}
    steps = make_steps(Options(**given, ramp_start=1.0, strength=0.6), case)
    first, second = batches(case, 2)
    steps.step(first)
    variances = covariances(steps)
    full = naive_step(Options(meta_lr=50.0), case, second, torch.diag_embed(variances), 0.6)
    expected = full.diagonal(dim1=1, dim2=2)
    found = corrected(steps, second).variances
    change = (expected - variances).norm()
    assert change > 1e-4 * variances.norm()
    assert (found - expected).norm() < 2e-3 * change
    assert steps.facts()["covariance_step"] > 0


def test_a_meta_set_from_the_training_set_is_taken_out_of_it():
    case = fresh(False)
    seen = []
    inputs = case.inputs
    case = dataclasses.replace(
        case,
        inputs=lambda batch: (seen.append(batch), inputs(batch))[1],
        held_out=None,
        held_out_labels=None,
    )
    options = Options(meta_source="train", meta_per_class=1, meta_batch=100)
    steps = make_steps(options, case)
    rows = steps.order(0)
    assert len(rows) == N - C
    left_out = sorted(set(range(N)) - set(rows.tolist()))
    assert LABELS[left_out].tolist() == [0, 1, 2, 3]
    assert set(steps.order(1).tolist()) == set(rows.tolist())
    steps.step(Batch(0, 0, 0, rows[:12]))
    train, meta = seen
    assert train.rows.equal(rows[:12])
    assert sorted(meta.rows.tolist()) == left_out
    assert (train.stream, meta.stream) == ("augment", "augment meta")


def test_classes_are_weighed_by_the_samples_that_a_meta_set_leaves(chain):
    counts = read_header(chain / "split.safetensors").info["class_counts"]
    losses, labels = torch.arange(10.0), torch.arange(10)
    for given, taken in (({}, 0), ({"meta_source": "train", "meta_per_class": 3}, 3)):
        run = assembled(chain, "metasaug", **given)
        assert METHOD.set_aside(run.params.options, run) == taken
        assert run.class_counts.tolist() == [n - taken for n in counts]
        weights = effective_number_weights(run.class_counts, 0.9999).float()
        expected = (weights * losses).sum() / weights.sum()
        mean = run.reduce(losses, labels, Batch(0, 0, 0, labels))
        torch.testing.assert_close(mean, expected)


def test_a_meta_batch_is_balanced_whatever_the_held_out_samples_are():
    case, seen = fresh(False), []
    labels = torch.tensor([0] * 7 + [1] * 3 + [2] * 2 + [3])
    held_out = torch.zeros(13, case.held_out(Batch(0, 0, 0, torch.arange(1))).shape[1])
    case = dataclasses.replace(
        case,
        held_out=lambda batch: (seen.append(batch.rows), held_out[batch.rows])[1],
        held_out_labels=labels,
    )
    steps = make_steps(Options(meta_batch=28), case)
    for batch in batches(case, 2):
        steps.step(batch)
    for rows in seen:
        assert labels[rows].bincount().tolist() == [7] * 4
        assert len(rows.unique()) == 13


def test_a_meta_batch_is_drawn_anew_in_each_step():
    case = fresh(False)
    seen = []
    held_out = case.held_out
    case = dataclasses.replace(
        case, held_out=lambda batch: (seen.append(batch), held_out(batch))[1]
    )
    steps = make_steps(Options(meta_batch=3), case)
    for batch in batches(case, 4):
        steps.step(batch)
    drawn = [tuple(batch.rows.tolist()) for batch in seen]
    assert all(len(set(rows)) == 3 for rows in drawn)
    assert len(set(drawn)) == 4
    # A random stream beside that of the training batches.
    assert [batch.first for batch in seen] == [0, 3, 0, 3]
    assert {batch.stream for batch in seen} == {"augment meta"}


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def test_from_the_command_line_on_images_with_a_kept_epoch(ltcli, copy):
    start = copy / "start.safetensors"
    common = ("-d", copy)
    options = ("--backbone", "resnet20", "--epochs", "2", "--snapshots", "2", "--out", start)
    assert ltcli("pretrain", *options, *common).code == 0
    out = copy / "m.safetensors"
    options = ("--model", start, "--from-epoch", "1", "--epochs", "1", "--out", out)
    done = ltcli("finetune", "--method", "metasaug", *options, *common)
    assert done.code == 0
    before, after = tensors_of(start), tensors_of(out)
    assert not after["backbone.conv1.weight"].equal(before["backbone.conv1.weight"])
    assert after["method.covariances"].shape == (10, 64, 64)
    assert after["method.counts"].sum() > 0
    done = ltcli("finetune", "--method", "metasaug", *options[:2], "--from-epoch", "3", *common)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: from-epoch must be in 1 ... 2, got 3",
        f"hint: {start} keeps these",
    ]


def test_on_the_bank_only_the_classifier_moves(ltcli, copy):
    options = ("--data", "features", "--train", "classifier", "--epochs", "2", "--lr", "0.1")
    assert ltcli("finetune", "--method", "metasaug", *options, "-d", copy).code == 0
    before = tensors_of(copy / "pretrain.safetensors")
    after = tensors_of(copy / "finetune-metasaug.safetensors")
    for name, tensor in before.items():
        assert after[name].equal(tensor) == name.startswith(("backbone.", "classifier.scales"))


def test_no_meta_set_is_refused_before_any_work(ltcli, tmp_path):
    folder = tmp_path / "cao"
    common = ("-d", folder)
    split = ("split", "digits", "--imbalance-factor", "10", "--val-per-class", "0")
    assert ltcli(*split, *common).code == 0
    assert ltcli("pretrain", "--backbone", "resnet20", "--epochs", "1", *common).code == 0
    done = ltcli("finetune", "--method", "metasaug", *common)
    assert done.code == 3
    assert done.lines == [
        f"error: {folder / 'split.safetensors'}: has no held-out images, which are the meta set",
        "hint: split with --protocol holdout, or use --meta-source train",
    ]
    fewest = min(read_header(folder / "split.safetensors").info["class_counts"])
    options = ("--meta-source", "train", "--meta-per-class", str(fewest))
    done = ltcli("finetune", "--method", "metasaug", *options, *common)
    assert done.code == 2
    assert done.lines == [
        f"error: finetune: meta-per-class must be less than {fewest}, got {fewest}",
        f"hint: the smallest class has {fewest} training images, and one must be left",
    ]
    options = ("--meta-source", "train", "--meta-per-class", "2", "--sampler", "class-aware")
    done = ltcli("finetune", "--method", "metasaug", *options, *common)
    assert done.code == 2
    assert done.lines == [
        "error: finetune: sampler must be instance-balanced with --meta-source train,"
        " got class-aware",
        "hint: split with --protocol holdout, whose meta set is none of the images drawn",
    ]
    options = ("--meta-source", "train", "--meta-per-class", "2", "--epochs", "1")
    assert ltcli("finetune", "--method", "metasaug", *options, *common).code == 0


def test_a_classifier_that_is_not_linear_is_refused(ltcli, copy):
    assert ltcli("finetune", "--method", "ncm", "-d", copy).code == 0
    header = read_header(copy / "finetune-ncm.safetensors")
    run = planned("metasaug", headers={"model": header})
    with pytest.raises(ArtifactError, match="classifier must be linear, got cosine"):
        METHOD.check(run.params.options, run)


def test_a_run_that_was_interrupted_ends_like_one_that_was_not(ltcli, copy, monkeypatch):
    options = ("--data", "features", "--train", "classifier", "--epochs", "3", "--lr", "0.1")
    paths = [copy / "whole.safetensors", copy / "parts.safetensors"]
    command = ("finetune", "--method", "metasaug", *options, "-d", copy, "--variant", "paper")
    assert ltcli(*command, "--out", paths[0]).code == 0
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)
    save, count = fit._save, [0]

    def stop_after_some(state, context, epoch, step, meters):
        save(state, context, epoch, step, meters)
        count[0] += 1
        if count[0] == 4:
            raise StopError("finetune", 2, "")

    monkeypatch.setattr(fit, "_save", stop_after_some)
    assert ltcli(*command, "--out", paths[1]).code == 130
    monkeypatch.undo()
    assert ltcli(*command, "--out", paths[1]).code == 0
    whole, parts = tensors_of(paths[0]), tensors_of(paths[1])
    assert whole.keys() == parts.keys()
    assert all(whole[name].equal(parts[name]) for name in whole)
