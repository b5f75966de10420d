import json

import pytest
import torch
from torch.nn import functional as F

from ltcli import methods
from ltcli.artifacts.backbone import backbone_of
from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.core.errors import ParamError
from ltcli.core.params import build
from ltcli.data.batches import Augmentation, Batch, augmentation_draws
from ltcli.data.reading import Reading
from ltcli.data.samplers import class_aware, instance_balanced, order_of
from ltcli.engine.schedules import SCHEDULES
from ltcli.engine.steps import mixture
from ltcli.models import small_images
from ltcli.models.network import build_network, place
from ltcli.stages.pretrain import Params, run_of
from ltcli.stages.samples import open_samples
from ltcli.stats.class_weights import effective_number_weights

CPU = torch.device("cpu")
COMMAND = ("pretrain", "--backbone", "resnet20", "--epochs", "2")
UNREAD = "must not be given"


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


def test_a_model_says_all_that_is_needed_to_rebuild_it(chain):
    header = read_header(chain / "pretrain.safetensors")
    info, split = header.info, read_header(chain / "split.safetensors")
    assert info["split"] == split.digest
    mean, std = split.info["mean"], split.info["std"]
    record = small_images.backbone("resnet20", image_size=(8, 8), mean=mean, std=std)
    assert backbone_of(header) == record
    assert info["classifier"] == "linear"
    assert info["class_counts"] == split.info["class_counts"]
    assert not info["balanced"]
    assert [name for name, _ in info["recipe"]] == ["split", "pretrain"]
    assert all("seed" not in parameters for _, parameters in info["recipe"])


def test_training_again_gives_the_same_bytes_and_another_seed_gives_others(ltcli, copy):
    path = copy / "pretrain.safetensors"
    before = path.read_bytes()
    assert ltcli(*COMMAND, "--force", "-d", copy).code == 0
    assert path.read_bytes() == before
    assert ltcli(*COMMAND, "--epochs", "1", "--seed", "1", "-d", copy).code == 0
    assert path.read_bytes() != before


def test_the_epochs_are_in_the_log_beside_the_model(chain):
    lines = (chain / "pretrain.run.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines if '"event": "epoch"' in line]
    assert [record["epoch"] for record in epochs] == [0, 1]
    # Two epochs of a recipe with five of warm-up.
    assert [record["learning_rate"] for record in epochs] == pytest.approx([0.02, 0.04])
    assert epochs[1]["loss"] < epochs[0]["loss"]


def test_snapshots_end_with_the_model_itself(ltcli, copy):
    out = copy / "kept.safetensors"
    command = (*COMMAND, "--epochs", "3", "--snapshots", "2", "--batch-size", "227")
    assert ltcli(*command, "--out", out, "-d", copy).code == 0
    tensors = tensors_of(out)
    kept = {name for name in tensors if name.startswith("snapshots.")}
    assert tensors["snapshots.epoch"].tolist() == [1, 2]
    own = set(tensors) - kept
    assert kept - {"snapshots.epoch"} == {f"snapshots.{name}" for name in own}
    for name in own:
        assert tensors[f"snapshots.{name}"][1].equal(tensors[name])
    weight = tensors["snapshots.classifier.weight"]
    assert not weight[0].equal(weight[1])


def described(**given):
    """The run of some parameters."""
    return run_of(build(Params, {"method": "cross-entropy", **given}, "pretrain"), {})


def test_what_is_given_replaces_numbers_of_the_recipe():
    schedule = described(
        schedule="mislas", lr="0.2", milestones="10,20,30", factors="0.5,0.1,0.01"
    ).schedule
    assert (schedule.lr, schedule.milestones) == (0.2, (10, 20, 30))
    assert schedule.factors == (0.5, 0.1, 0.01)
    kept = SCHEDULES["mislas"]
    assert (schedule.epochs, schedule.weight_decay, schedule.warmup) == (
        kept.epochs,
        kept.weight_decay,
        kept.warmup,
    )
    for name, recipe in SCHEDULES.items():
        run = described(schedule=name)
        assert run.schedule == recipe
        assert (run.epochs, run.deferred) == (recipe.epochs, 0)
    assert described(epochs=7).epochs == 7


def test_milestones_without_their_factors_are_refused():
    with pytest.raises(ParamError) as caught:
        described(milestones="10")
    rule = "factors must be as many as milestones (1), got 2"
    assert str(caught.value) == f"pretrain: {rule}"


def test_nesterov_without_momentum_is_refused(ltcli, copy):
    done = ltcli("pretrain", "--nesterov", "--momentum", "0", "--force", "-d", copy)
    assert done.code == 2
    assert done.lines == [
        "error: pretrain: momentum must be greater than 0 with nesterov, got 0",
        "hint: use --no-nesterov",
    ]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "fast"])
def test_a_learning_rate_out_of_range_is_refused(ltcli, tmp_path, value):
    done = ltcli("pretrain", "--lr", value, "-d", tmp_path)
    assert done.code == 2
    assert len(done.lines) == 1
    assert done.lines[0].startswith("error: pretrain: lr must be ")


def test_a_run_that_diverges_names_epoch_and_step_and_writes_nothing(ltcli, copy):
    out = copy / "diverged.safetensors"
    options = ("--lr", "1e30", "--warmup", "0", "--schedule", "cosine")
    done = ltcli(*COMMAND, *options, "--out", out, "-d", copy)
    assert done.code == 4
    assert done.lines[0].startswith(
        "error: pretrain: loss must be finite, got NaN or infinity in epoch 0, step "
    )
    assert not out.exists()


def naive_run(folder, epochs, order, loss):
    """Train by hand, two batches an epoch: SGD with momentum and weight decay at 0.01."""
    with open_artifact(folder / "split.safetensors") as split:
        backbone = backbone_of(read_header(folder / "pretrain.safetensors"))
        varied = Augmentation(padding=4, seed=3)
        images = open_samples(split, "train", CPU, Reading(), backbone, varied)
        labels = split.tensor("train.labels")
        counts = torch.tensor(split.header.info["class_counts"])
    network = place(build_network(small_images.backbone("resnet20"), 10, 3), CPU)
    network.classifier.train_only("weight", "bias")
    moving = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(moving, 0.01, 0.9, weight_decay=2e-4)
    for epoch in range(epochs):
        rows = order(labels, counts, epoch)
        draws = augmentation_draws(len(rows), seed=3, epoch=epoch)
        for step, first in enumerate(range(0, len(rows), 227)):
            part = slice(first, first + 227)
            x, y = images.augmented(rows[part], draws[part]), labels[rows[part]]
            optimizer.zero_grad()
            loss(network, x, y, counts, Batch(epoch, step, first, rows[part])).backward()
            optimizer.step()
    return network.state_dict()


def shuffled(labels, _counts, epoch):
    return instance_balanced(len(labels), seed=3, epoch=epoch)


def plain_loss(network, x, y, _counts, _batch):
    return F.cross_entropy(network(x), y)


def weighted_from_the_second_epoch(network, x, y, counts, batch):
    # Epoch 60 of 200 is 0.9 of three epochs.
    weights = effective_number_weights(counts, 0.999).float()
    return F.cross_entropy(network(x), y, weight=weights if batch.epoch >= 1 else None)


def class_aware_from_the_second_epoch(labels, counts, epoch):
    if epoch < 1:
        return shuffled(labels, counts, epoch)
    return class_aware(labels, 10, seed=3, epoch=epoch, length=len(labels))


def progressive(labels, _counts, epoch):
    return order_of("progressive", labels, 10, seed=3, epoch=epoch, epochs=3)


def remixed(network, x, y, counts, batch, weights=None):
    """Remix pair by pair, by the definition, with the mean over weighted labels."""
    share, partner = mixture(len(y), 1.0, 3, batch)
    logs = network(share * x + (1 - share) * x[partner]).log_softmax(1)
    weights = torch.ones(10) if weights is None else weights
    total, weight = 0.0, 0.0
    for i, j in enumerate(partner.tolist()):
        a, b = y[i].item(), y[j].item()
        ratio = counts[a].item() / counts[b].item()
        own = share
        if ratio >= 3 and share < 0.5:
            own = 0.0
        if ratio <= 1 / 3 and 1 - share < 0.5:
            own = 1.0
        total -= own * weights[a] * logs[i, a] + (1 - own) * weights[b] * logs[i, b]
        weight += own * weights[a] + (1 - own) * weights[b]
    return total / weight


def remixed_and_weighted(network, x, y, counts, batch):
    return remixed(network, x, y, counts, batch, effective_number_weights(counts, 0.999).float())


@pytest.mark.parametrize(
    ("options", "order", "loss"),
    [
        ((), shuffled, plain_loss),
        (("--beta", "0.999", "--defer", "60"), shuffled, weighted_from_the_second_epoch),
        (
            ("--sampler", "class-aware", "--defer", "60"),
            class_aware_from_the_second_epoch,
            plain_loss,
        ),
        (("--sampler", "progressive"), progressive, plain_loss),
        (("--method", "remix"), shuffled, remixed),
        (("--method", "remix", "--beta", "0.999"), shuffled, remixed_and_weighted),
    ],
    ids=["plain", "deferred weights", "deferred sampler", "progressive", "remix", "both"],
)
def test_a_run_is_that_of_a_loop_by_hand(ltcli, copy, options, order, loss):
    out = copy / "made.safetensors"
    options = (*options, "--epochs", "3", "--batch-size", "227", "--lr", "0.01", "--warmup", "0")
    options = (
        *options,
        "--milestones",
        "200",
        "--factors",
        "1",
        "--precision",
        "fp32",
        "--seed",
        "3",
    )
    command = ("pretrain", "--backbone", "resnet20", *options, "--out", out)
    assert ltcli(*command, "-d", copy).code == 0
    expected, made = naive_run(copy, 3, order, loss), tensors_of(out)
    start = build_network(small_images.backbone("resnet20"), 10, 3).state_dict()
    # Rounding grows from step to step, the more the deeper.
    for name, share in (("classifier.weight", 0.01), ("backbone.conv1.weight", 0.05)):
        moved = (expected[name] - start[name]).norm()
        assert (made[name] - expected[name]).norm() < share * moved


@pytest.mark.parametrize(
    ("options", "balanced"),
    [
        ((), False),
        (("--mixup", "1"), False),
        (("--method", "focal"), False),
        (("--beta", "0.9"), True),
        (("--sampler", "square-root"), True),
        (("--mixup", "1", "--mixed-labels", "remix"), True),
        (("--mixup", "1", "--mixed-labels", "remix", "--remix-below", "0"), False),
        (("--method", "ldam"), True),
        (("--method", "ce-drw"), True),
        (("--method", "ce-drs"), True),
        (("--method", "class-balanced", "--beta", "0"), False),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_a_model_says_whether_its_classifier_still_follows_the_class_prior(
    ltcli, copy, options, balanced
):
    out = copy / "made.safetensors"
    command = ("pretrain", "--backbone", "resnet20", "--epochs", "1", *options, "--out", out)
    assert ltcli(*command, "-d", copy).code == 0
    info = read_header(out).info
    assert info["balanced"] == balanced
    again = ("finetune", "--method", "logit-adjustment", "--model", out, "--data", "images")
    done = ltcli(*again, "-d", copy)
    assert done.code == (3 if balanced else 0)
    if balanced:
        assert done.lines == [
            f"error: finetune: {out}, by {info['method']}, corrects for the class prior already",
            "hint: start from plain cross-entropy, without class weights, another sampler or remix",
        ]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("--defer", "200"), "defer must be less than the 200 epochs of schedule ldam, got 200"),
        (
            ("--defer", "150", "--schedule", "mwn", "--epochs", "400"),
            "defer must be less than the 100 epochs of schedule mwn, got 150",
        ),
        (("--mixed-labels", "remix"), "mixed-labels must be share without --mixup, got remix"),
        (
            ("--mixup", "1", "--remix-ratio", "5"),
            f"remix-ratio {UNREAD} without --mixed-labels remix",
        ),
        (("--reduction", "mean-of-weighted"), f"reduction {UNREAD} without --beta"),
    ],
    ids=["defer", "other schedule", "mixed labels", "remix ratio", "reduction"],
)
def test_options_that_cannot_work_together_are_refused_before_any_work(ltcli, copy, options, rule):
    out = copy / "made.safetensors"
    done = ltcli("pretrain", *options, "--out", out, "-d", copy)
    assert done.code == 2
    assert done.lines == [f"error: pretrain: {rule}"]
    assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "balanced-softmax", "--defer", "160"),
        ("--method", "remix-drw", "--beta", "0"),
        ("--method", "ce-drs", "--sampler", "instance-balanced"),
    ],
    ids=lambda options: options[1],
)
def test_what_is_put_off_must_be_there(ltcli, copy, options):
    done = ltcli("pretrain", *options, "--force", "-d", copy)
    line = "error: pretrain: defer must be 0 without --beta and --sampler, got 160"
    assert (done.code, done.lines) == (2, [line, "hint: nothing else is put off"])


@pytest.mark.parametrize("name", [*methods.names("pretrain"), "mixup"])
def test_every_method_trains(ltcli, copy, name):
    out = copy / "model.safetensors"
    options = ("--mixup", "1") if name == "mixup" else ("--method", name)
    assert ltcli(*COMMAND, *options, "--out", out, "-d", copy).code == 0
    tensors, plain = tensors_of(out), tensors_of(copy / "pretrain.safetensors")
    same = tensors["classifier.weight"].equal(plain["classifier.weight"])
    assert same == (name == "cross-entropy")
    forms = {"ldam": "cosine", "ldam-drw": "cosine", "gcl": "cosine", "ride": "experts3"}
    scale = {"sla": 0.25}.get(name, 30 if name in forms else 1)
    assert tensors["classifier.scales"].eq(scale).all()
    assert read_header(out).info["classifier"] == forms.get(name, "linear")
    # Whatever was made can be evaluated.
    scores = copy / "scores.safetensors"
    assert ltcli("evaluate", "--model", out, "--out", scores, "-d", copy).code == 0
    assert tensors_of(scores)["logits"].isfinite().all()


@pytest.mark.slow
def test_digits_are_learnt(ltcli, copy):
    command = ("pretrain", "--backbone", "resnet20", "--epochs", "20", "--schedule", "cosine")
    options = ("--no-flip", "--padding", "1", "--precision", "fp32")
    assert ltcli(*command, *options, "-d", copy).code == 0
    assert ltcli("evaluate", "--model", copy / "pretrain.safetensors", "-d", copy).code == 0
    predictions = tensors_of(copy / "evaluate-pretrain.safetensors")
    accuracy = (predictions["logits"].argmax(1) == predictions["labels"]).double().mean()
    assert accuracy > 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_trains(ltcli, copy):
    out = copy / "model.safetensors"
    assert ltcli(*COMMAND, "--device", "cuda", "--out", out, "-d", copy).code == 0
    assert read_header(out).info["epochs"] == 2
