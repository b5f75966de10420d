import dataclasses
import os
import signal

import pytest
import torch
from torch.nn import functional as F

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save
from ltcli.compute.seeds import derive
from ltcli.data.batches import Batch
from ltcli.engine.optimizers import SGD
from ltcli.methods import METHODS
from ltcli.methods.feature_fusion import METHOD, make_steps
from ltcli.models import small_images
from tests.methods.conftest import assembled, planned

COMMAND = ("finetune", "--method", "feature-fusion")
# 454 images: four steps of 128. The share rule leaves the last classes to the tail.
STEPS = 4


def prepared(folder, **given):
    """The options and the run that finetune would make."""
    run = assembled(folder, "feature-fusion", **given)
    return run.params.options, run


def tail_of(counts):
    """Return the tail classes by the default rule, by hand."""
    order, total = sorted(range(len(counts)), key=lambda c: -counts[c]), 0
    head = []
    for c in order:
        if total < 0.9 * sum(counts):
            head.append(c)
            total += counts[c]
    return sorted(set(range(len(counts))) - set(head))


def most_confused(scores, c, allowed):
    others = [k for k in range(len(scores)) if k != c and k in allowed]
    return sorted(others, key=lambda k: -scores[c][k])


@pytest.mark.parametrize(
    ("given", "tails", "donors"),
    [
        ({}, 16, 3),
        ({"donors_per_image": 0}, 64, 0),
        ({"donors_per_image": 1, "batch_size": 12}, 3, 1),
        ({"donors": "head"}, 16, 3),
    ],
    ids=["16 48 64", "no donors", "3 3 6", "head donors"],
)
def test_a_batch_is_tail_images_their_donors_and_as_many_head_images(
    chain, rng, given, tails, donors
):
    options, run = prepared(chain, **given)
    if donors:
        # Tail classes are taken for each other most: what only some donors rule out.
        scores = 0.2 * torch.arange(10) + torch.rand(10, 10, generator=rng)
        run = dataclasses.replace(run, scores=scores)
    order = make_steps(options, run).order(0)
    batches = order.view(-1, run.batch_size)
    assert len(batches) == -(-len(run.labels) // run.batch_size)
    tail_classes = tail_of(run.class_counts.tolist())
    head_classes = set(range(10)) - set(tail_classes)
    allowed = head_classes if options.donors == "head" else set(range(10))
    scores = None if donors == 0 else run.scores.tolist()
    for rows in batches:
        labels = run.labels[rows].tolist()
        assert set(labels[:tails]) <= set(tail_classes)
        assert set(labels[tails * (1 + donors) :]) <= head_classes
        assert len(labels) == 2 * tails * (1 + donors)
        for i, c in enumerate(labels[:tails]):
            lenders = labels[tails + i * donors : tails + (i + 1) * donors]
            if donors:
                assert lenders == most_confused(scores, c, allowed)[:donors]


def test_tail_images_are_uniform_over_tail_classes_and_then_within_the_class(chain):
    options, run = prepared(chain)
    order = make_steps(options, run).order
    rows = torch.cat([order(epoch).view(-1, 128)[:, :16].flatten() for epoch in range(100)])
    labels, counts = run.labels, run.class_counts
    classes = tail_of(counts.tolist())
    for c in classes:
        share = (labels[rows] == c).double().mean().item()
        p = 1 / len(classes)
        assert abs(share - p) < 4 * (p * (1 - p) / len(rows)) ** 0.5
        drawn = torch.bincount(rows[labels[rows] == c], minlength=len(labels))[labels == c]
        p = 1 / counts[c].item()
        assert ((drawn / drawn.sum() - p).abs() < 4.5 * (p / drawn.sum()) ** 0.5).all()


def test_head_images_come_as_they_are_none_twice_before_all_were_seen(chain):
    options, run = prepared(chain)
    heads = make_steps(options, run).order(0).view(-1, 128)[:, 64:].flatten()
    assert len(heads.unique()) == len(heads)
    options, run = prepared(chain, head="top-k", head_at=1)
    heads = make_steps(options, run).order(0).view(-1, 128)[:, 64:].flatten()
    (largest,) = (run.labels == run.class_counts.argmax()).nonzero().T
    seen = torch.bincount(heads, minlength=len(run.labels))[largest]
    assert len(heads) == STEPS * 64
    assert seen.sum() == len(heads)
    assert seen.max() - seen.min() == 1


def test_the_order_is_a_pure_function_of_seed_and_epoch(chain):
    options, run = prepared(chain)
    order, again = make_steps(options, run).order, make_steps(options, run).order
    assert again(3).equal(order(3))
    assert not order(2).equal(order(3))
    _, other = prepared(chain, seed=1)
    assert not make_steps(options, other).order(3).equal(order(3))


def naive_features(options, run, batch, weight):
    """The features of a composed batch, image by image and column by column."""
    donors = options.donors_per_image
    tails = len(batch.rows) // (2 * (1 + donors))
    labels = run.labels[batch.rows]
    backbone = run.network.backbone
    stages = len(backbone.stages) - options.stages_after
    if options.stages_after:
        with torch.no_grad():
            maps = backbone.stages[:stages](backbone.stem(run.samples.drawn(batch)))
    else:
        maps = run.maps(batch)
    height, width = maps.shape[2:]
    seed = derive("feature-fusion", run.seed, batch.epoch, batch.step)
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(tails * donors, generator=generator).tolist()
    draws = torch.randint(2**31, (tails * donors, height * width), generator=generator).tolist()

    def last(early):
        with torch.no_grad():
            return backbone.stages[stages:](early.unsqueeze(0))[0]

    def columns(i, keep):
        final = last(maps[i])
        ratio = height // final.shape[1]
        activation = torch.einsum("d,dyx->yx", weight[labels[i]], final)
        scaled = (activation - activation.min()) / (activation.max() - activation.min())
        places = [(y, x) for y in range(height) for x in range(width)]
        return [maps[i, :, y, x] for y, x in places if keep(scaled[y // ratio, x // ratio].item())]

    features = [last(maps[i]).mean((1, 2)) for i in range(tails)]
    targets = labels[:tails].tolist()
    for i in range(tails):
        specific = columns(i, lambda value: value > options.specific_above)
        for k in range(i * donors, (i + 1) * donors):
            generic = columns(tails + k, lambda value: value < options.generic_below)
            of_tail = round(shares[k] * height * width)
            taken = [specific[draw % len(specific)] for draw in draws[k][:of_tail]]
            taken += [generic[draw % len(generic)] for draw in draws[k][of_tail:]]
            merged = torch.stack(taken, dim=1).unflatten(1, (height, width))
            features.append(last(merged).mean((1, 2)))
            targets.append(labels[i].item())
    rest = range(tails * (1 + donors), len(batch.rows))
    features += [last(maps[i]).mean((1, 2)) for i in rest]
    return torch.stack(features), torch.tensor([*targets, *labels[rest].tolist()])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"donors": "head", "donors_per_image": 1},
        {"data": "images"},
        {"data": "images", "stages_after": 1},
        {"data": "images", "stages_after": 3, "specific_above": 0.5, "generic_below": 0.5},
    ],
    ids=["bank", "one head donor", "images", "one stage earlier", "after the stem"],
)
def test_steps_are_those_of_a_loop_with_the_activations_of_the_first_classifier(chain, given):
    # A high rate, so that activations of the classifier that moves would give other columns.
    given = {**given, "lr": 5.0, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 32}
    options, run = prepared(chain, **given)
    classifier = run.network.classifier
    classifier.scales.data = torch.linspace(0.5, -1.5, 10)
    start = (classifier.scales[:, None] * classifier.weight).detach().clone()
    weight = classifier.weight.detach().clone().requires_grad_()
    bias = classifier.bias.detach().clone().requires_grad_()
    steps = make_steps(options, run)
    rows = steps.order(1)
    for step in range(3):
        batch = Batch(1, step, 32 * step, rows[32 * step : 32 * (step + 1)])
        features, targets = naive_features(options, run, batch, start)
        logits = classifier.scales * (features @ weight.T + bias)
        value = F.cross_entropy(logits, targets)
        gradients = torch.autograd.grad(value, (weight, bias))
        with torch.no_grad():
            weight -= 5 * gradients[0]
            bias -= 5 * gradients[1]
        assert steps.step(batch).item() == pytest.approx(value.item(), rel=1e-3)
        torch.testing.assert_close(classifier.weight, weight, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(classifier.bias, bias, rtol=1e-3, atol=1e-3)


def test_without_donors_a_step_is_cross_entropy_on_the_composed_batch(chain):
    options, run = prepared(chain, donors_per_image=0)
    assert run.maps is None
    assert run.scores is None
    steps = make_steps(options, run)
    batch = Batch(0, 0, 0, steps.order(0)[:128])
    with torch.no_grad():
        logits = run.network.classifier(run.inputs(batch))
        expected = F.cross_entropy(logits, run.labels[batch.rows])
    assert steps.step(batch).item() == pytest.approx(expected.item())


def test_every_epoch_and_step_draws_columns_of_its_own(chain):
    options, run = prepared(chain, lr=1e-9)
    steps = make_steps(options, run)
    rows = steps.order(0)[:128]
    places = [(0, 0), (0, 0), (0, 1), (1, 0)]
    losses = [steps.step(Batch(epoch, step, 0, rows)).item() for epoch, step in places]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_the_record_says_what_the_paper_says():
    run = planned("feature-fusion")
    options, params = run.params.options, run.params
    assert options.donors_per_image == 3
    assert METHOD.head(options, run).start == "trained"
    assert METHOD.head(options, run).trainable == ("weight", "bias")
    assert METHOD.balances(options, run)
    assert METHODS["feature-fusion"] is METHOD
    assert (params.batch_size, params.momentum, params.weight_decay) == (128, 0.9, 5e-4)
    assert [run.schedule.lr, *run.schedule.factors] == [1e-3, 1.0]
    # The steps of 66 epochs of the 12,380 images of CIFAR-10-LT at factor 100.
    assert run.epochs == 66
    assert 66 * -(-12_380 // 128) == 6402


# On the command line.


def saved_again(path, *, tensors=None, info=None, drop=()):
    """Save an artifact once more in its place, with some tensors and metadata exchanged."""
    with open_artifact(path) as artifact:
        header = artifact.header
        loaded = artifact.load(*(name for name in header.tensors if name not in drop))
    return save(
        path,
        header.kind,
        loaded | (tensors or {}),
        stage=header.stage,
        parameters=header.parameters,
        inputs=header.inputs,
        info=header.info | (info or {}),
    )


@pytest.mark.parametrize(
    "given",
    [("--data", "features"), ("--data", "images"), ("--data", "images", "--stages-after", "1")],
    ids=["bank", "images", "earlier"],
)
def test_only_the_classifier_moves_and_the_backbone_stays_bit_identical(ltcli, copy, given):
    assert ltcli(*COMMAND, *given, "--epochs", "1", "-d", copy).code == 0
    with open_artifact(copy / "pretrain.safetensors") as model:
        before = model.load("backbone.*"), model.load("classifier.*")
    with open_artifact(copy / "finetune-feature-fusion.safetensors") as model:
        after = model.load("backbone.*"), model.load("classifier.*")
    assert any("running_var" in name for name in before[0])
    assert all(after[0][name].equal(before[0][name]) for name in before[0])
    moved = [name for name in before[1] if not after[1][name].equal(before[1][name])]
    assert sorted(moved) == ["bias", "weight"]


def test_a_bank_in_half_precision_gives_nearly_the_same(ltcli, copy):
    weights = []
    for storage in ("fp32", "bf16"):
        bank, out = copy / "bank.safetensors", copy / "made.safetensors"
        dump = ("--maps", "--precision", "fp32", "--storage", storage, "--out", bank)
        assert ltcli("dump-features", *dump, "--force", "-d", copy).code == 0
        options = ("--features", bank, "--out", out, "--epochs", "1", "--force", "-d", copy)
        assert ltcli(*COMMAND, *options).code == 0
        with open_artifact(out) as model:
            weights.append(model.tensor("classifier.weight"))
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-3)
    assert not weights[1].equal(weights[0])


def test_without_donors_neither_maps_nor_confusion_are_read(ltcli, copy):
    (copy / "confusion.safetensors").unlink()
    saved_again(copy / "dump-features.safetensors", drop=("train.maps",))
    assert ltcli(*COMMAND, "--donors-per-image", "0", "--epochs", "1", "-d", copy).code == 0
    inputs = read_header(copy / "finetune-feature-fusion.safetensors").inputs
    assert sorted(inputs) == ["features", "model"]


@pytest.mark.parametrize("at", [2, 4, 7])
def test_a_run_that_was_interrupted_ends_the_same(ltcli, copy, monkeypatch, at):
    command = (*COMMAND, "--epochs", "2", "-d", copy)
    out = copy / "finetune-feature-fusion.safetensors"
    assert ltcli(*command).code == 0
    expected = out.read_bytes()
    out.unlink()
    step, count = SGD.step, 0

    def counted(self, *args, **named):
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **named)

    monkeypatch.setattr(SGD, "step", counted)
    assert ltcli(*command).code == 143
    assert ltcli(*command).code == 0
    assert count == 2 * STEPS
    assert out.read_bytes() == expected


def test_a_bank_without_maps_is_refused(ltcli, copy):
    bank = copy / "dump-features.safetensors"
    saved_again(bank, drop=("train.maps",))
    done = ltcli(*COMMAND, "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {bank}: holds no feature maps",
        "hint: make it with dump-features --maps, or use --data images",
    ]


SMALL = "hint: fusion needs positions: use a backbone with fewer stages, or larger images"


def test_maps_of_one_position_in_a_bank_are_refused(ltcli, copy):
    bank = copy / "dump-features.safetensors"
    with open_artifact(bank) as artifact:
        maps = artifact.tensor("train.maps").mean((2, 3), keepdim=True)
    saved_again(bank, tensors={"train.maps": maps})
    done = ltcli(*COMMAND, "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {bank}: the feature maps of resnet20 are 1x1 for these images",
        SMALL,
    ]


def test_maps_of_one_position_from_images_are_refused(ltcli, copy):
    # ResNet-10 has 1x1 maps of the 8x8 digits; only the header says which backbone it is.
    model = copy / "pretrain.safetensors"
    record = small_images.backbone("resnet10", image_size=(8, 8))
    digest = saved_again(model, info={"backbone": vars(record)})
    saved_again(copy / "confusion.safetensors", info={"model": digest})
    done = ltcli(*COMMAND, "--data", "images", "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {model}: the feature maps of resnet10 are 1x1 for these images",
        SMALL,
    ]


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (
            ("--batch-size", "100"),
            [
                "error: finetune: batch-size must be a multiple of 8, got 100",
                "hint: half of a batch are head images; each tail image brings"
                " --donors-per-image features",
            ],
        ),
        (
            ("--donors-per-image", "10", "--batch-size", "220"),
            [
                "error: finetune: donors-per-image must be at most 9, got 10",
                "hint: so many classes can lend generic features with --donors all",
            ],
        ),
        (
            ("--donors", "head", "--head", "top-k", "--head-at", "2"),
            [
                "error: finetune: donors-per-image must be at most 2, got 3",
                "hint: so many classes can lend generic features with --donors head",
            ],
        ),
        (
            ("--head", "min-count", "--head-at", "0"),
            [
                "error: finetune: no class is a tail class by min-count 0",
                "hint: choose another --head or --head-at",
            ],
        ),
        (
            ("--data", "images", "--train", "all"),
            [
                "error: finetune: train must be classifier for feature-fusion, got all",
                "hint: feature-fusion trains the classifier alone",
            ],
        ),
        (
            ("--sampler", "class-aware"),
            [
                "error: finetune: sampler must be instance-balanced for feature-fusion, got"
                " class-aware",
                "hint: feature-fusion composes its batches itself, half of head and half of tail"
                " images",
            ],
        ),
        (
            ("--stages-after", "1"),
            [
                "error: finetune: stages-after needs --data images",
                "hint: the feature bank holds the last maps",
            ],
        ),
        (
            ("--stages-after", "4", "--data", "images"),
            [
                "error: finetune: stages-after must be at most 3, got 4",
                "hint: resnet20 has so many stages",
            ],
        ),
        (("--specific-above", "1"), ["error: finetune: specific_above must be less than 1, got 1"]),
        (
            ("--generic-below", "0"),
            ["error: finetune: generic_below must be greater than 0, got 0"],
        ),
    ],
    ids=[
        "batch",
        "donors",
        "head-donors",
        "no-tail",
        "train-all",
        "sampler",
        "bank",
        "stages",
        "specific",
        "generic",
    ],
)
def test_wrong_use_is_refused_before_any_work(ltcli, copy, given, lines):
    done = ltcli(*COMMAND, *given, "-d", copy)
    assert done.code == 2
    assert done.lines == lines
    assert not (copy / "finetune-feature-fusion.safetensors").exists()


def test_without_the_confusion_artifact_it_says_so(ltcli, copy):
    path = copy / "confusion.safetensors"
    path.unlink()
    done = ltcli(*COMMAND, "-d", copy)
    assert done.code == 3
    assert done.lines[0] == f"error: {path}: no such artifact"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_draws_the_same_columns(ltcli, copy):
    losses = {}
    for device in ("cpu", "cuda"):
        out = copy / f"{device}.safetensors"
        options = ("--epochs", "1", "--device", device, "--out", out, "-d", copy)
        assert ltcli(*COMMAND, *options).code == 0
        with open_artifact(out) as model:
            losses[device] = model.tensor("classifier.weight")
    torch.testing.assert_close(losses["cuda"], losses["cpu"], rtol=1e-4, atol=1e-4)
