"""The assembly of a training run, its one loop, and how its optimiser and classifier start."""

import json
import math
from contextlib import ExitStack, nullcontext
from dataclasses import replace

import pytest
import torch

from ltcli.artifacts.backbone import backbone_of
from ltcli.artifacts.store import open_artifact
from ltcli.compute.parallel import World
from ltcli.core.context import Context
from ltcli.core.params import build
from ltcli.data.batches import Augmentation, Batch
from ltcli.data.samplers import order_of
from ltcli.engine import fit, optimizers
from ltcli.engine.schedules import SCHEDULES
from ltcli.engine.steps import Mixing
from ltcli.methods import METHODS, bilevel
from ltcli.methods.method import Head
from ltcli.models import small_images
from ltcli.models.classifier import Classifier
from ltcli.models.network import build_network, load_network
from ltcli.stages import finetune, pretrain, training
from ltcli.stages.samples import open_samples
from ltcli.stages.training import _train_batch_norms, assemble, make_optimizer, start_classifier

CPU = torch.device("cpu")
PARTS = ("weight", "bias", "scales")
LR, DECAY = SCHEDULES["ldam"].lr, SCHEDULES["ldam"].weight_decay
BATCH = Batch(1, 2, 14, torch.tensor([9, 0, 226, 9, 40, 3, 100]))


@pytest.fixture
def artifacts(chain):
    """The artifacts of the tiny chain that training reads, by role."""
    files = {"model": "pretrain", "features": "dump-features", "generator": "stg-train"}
    with ExitStack() as opened:
        yield {
            role: opened.enter_context(
                open_artifact(chain / f"{files.get(role, role)}.safetensors")
            )
            for role in ("model", "split", "features", "covariances", "confusion", "generator")
        }


@pytest.fixture
def assembled(artifacts):
    """Make a run of a method that starts from the trained network."""

    def make(stage, name, **given):
        module, method = {"pretrain": pretrain, "finetune": finetune}[stage.name], METHODS[name]
        params = build(
            stage.params,
            {"method": name, **given},
            stage.name,
            options=method.options,
            defaults={**stage.defaults, **method.defaults.get(stage.name, {})},
        )
        run = module.run_of(params, {role: one.header for role, one in artifacts.items()})
        network = load_network(artifacts["model"], CPU)
        backbone = None if run.bank else backbone_of(artifacts["model"].header)
        return assemble(method, run, network, artifacts, backbone, torch.float32)

    return make


def test_on_a_feature_bank_the_inputs_of_a_step_are_its_rows(assembled, artifacts):
    run = assembled(finetune.STAGE, "feature-fusion", data="features")
    bank = artifacts["features"]
    assert run.bank
    assert run.samples is None
    assert run.inputs(BATCH).equal(bank.tensor("train.features").float()[BATCH.rows])
    assert run.maps(BATCH).equal(bank.tensor("train.maps").float()[BATCH.rows])
    assert run.features(BATCH).equal(run.inputs(BATCH))
    assert not any(p.requires_grad for p in run.network.backbone.parameters())
    assert not run.network.training


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("stream", ["augment", "augment second"])
def test_on_images_the_inputs_of_a_step_are_drawn_with_the_seed_of_the_run(
    assembled, artifacts, whole, stream
):
    train = "all" if whole else "classifier"
    given = {"data": "images", "train": train, "seed": 7, "padding": 2, "pad_mode": "reflect"}
    run = assembled(finetune.STAGE, "cross-entropy", **given)
    varied = Augmentation(padding=2, pad_mode="reflect", seed=7)
    record = backbone_of(artifacts["model"].header)
    samples = open_samples(artifacts["split"], "train", CPU, run.params, record, varied)
    images = samples.drawn(replace(BATCH, stream=stream))
    made = run.inputs(replace(BATCH, stream=stream))
    backbone = run.network.backbone
    assert all(p.requires_grad == whole for p in backbone.parameters())
    assert run.network.training == backbone.training == whole
    if whole:
        assert made.equal(images)
    else:
        assert not made.requires_grad
        torch.testing.assert_close(made, backbone(images), rtol=1e-4, atol=1e-4)


def test_weights_and_sampler_wait_for_the_deferred_epoch(assembled, artifacts):
    given = {"beta": 0.99, "sampler": "class-aware", "defer": 100, "epochs": 4, "seed": 5}
    run = assembled(pretrain.STAGE, "cross-entropy", **given)
    assert (run.deferred, run.whole, run.network.training) == (2, True, True)
    labels, losses = artifacts["split"].tensor("train.labels"), torch.arange(7.0)
    for epoch in range(4):
        sampler = "class-aware" if epoch >= 2 else "instance-balanced"
        expected = order_of(sampler, labels, 10, seed=5, epoch=epoch, epochs=4)
        assert run.order(epoch).equal(expected)
        mean = run.reduce(losses, labels[BATCH.rows], replace(BATCH, epoch=epoch))
        assert mean.allclose(losses.mean()) == (epoch < 2)


def test_images_that_are_set_aside_count_in_no_class(assembled, artifacts):
    counts = torch.tensor(artifacts["split"].header.info["class_counts"])
    taken = {"meta_source": "train", "meta_per_class": 3}
    assert assembled(pretrain.STAGE, "l2rw", **taken).class_counts.equal(counts - 3)
    run = assembled(pretrain.STAGE, "l2rw")
    assert run.class_counts.equal(counts)
    assert run.held_out_labels.equal(artifacts["split"].tensor("val.labels"))


def test_a_run_has_the_statistics_that_its_method_reads_and_no_others(assembled):
    names = ("maps", "held_out", "held_out_labels", "means", "covariances", "graph", "scores")
    reads = {
        "crt": (),
        "risda": ("means", "covariances", "graph", "scores"),
        "stg": ("generator",),
        "metasaug": ("held_out", "held_out_labels"),
    }
    for name, fields in reads.items():
        run = assembled(finetune.STAGE, name, data="features", train="classifier")
        found = {field for field in (*names, "generator") if getattr(run, field) is not None}
        assert found == set(fields)


@pytest.mark.parametrize("source", ["held-out", "train"])
def test_meta_batches_have_a_random_stream_of_their_own(assembled, artifacts, source):
    given = {"meta_source": source, "meta_per_class": 3, "meta_batch": 20, "seed": 7}
    run, seen = assembled(pretrain.STAGE, "l2rw", **given), []

    def watched(inputs):
        return lambda batch: seen.append(batch) or inputs(batch)

    held_out = watched(run.held_out) if source == "held-out" else None
    run = replace(run, inputs=watched(run.inputs), held_out=held_out)
    _, meta = bilevel.meta_set(run.params.options, run)
    images, labels = meta(BATCH)
    (batch,) = seen
    assert (batch.epoch, batch.step, batch.stream) == (1, 2, "augment meta")
    part = "val" if source == "held-out" else "train"
    assert labels.equal(artifacts["split"].tensor(f"{part}.labels")[batch.rows])
    varied = Augmentation(padding=4, pad_mode=run.schedule.pad_mode, seed=7)
    record = backbone_of(artifacts["model"].header)
    samples = open_samples(artifacts["split"], part, CPU, run.params, record, varied)
    drawn = {
        stream: samples.drawn(replace(batch, stream=stream))
        for stream in ("augment", "augment meta")
    }
    assert images.equal(drawn["augment meta"])
    assert not images.equal(drawn["augment"])


def test_all_that_trains_goes_through_one_loop(ltcli, copy, monkeypatch):
    trained, train = [], fit.train

    def watched(module, *args, context, **options):
        trained.append((context.name, type(module).__name__, options["epochs"]))
        return train(module, *args, context=context, **options)

    monkeypatch.setattr(fit, "train", watched)
    common = ("--epochs", "1", "--force", "-d", copy)
    assert ltcli("pretrain", "--backbone", "resnet20", *common).code == 0
    assert ltcli("dump-features", "--force", "-d", copy).code == 0
    assert ltcli("finetune", "--method", "crt", *common).code == 0
    whole = ("--data", "images", "--train", "all")
    assert ltcli("finetune", "--method", "cross-entropy", *whole, *common).code == 0
    assert ltcli("finetune", "--method", "ncm", "--force", "-d", copy).code == 0
    assert ltcli("stg-train", *common).code == 0
    # Nothing is trained where a classifier is solved for.
    assert trained == [
        ("pretrain", "Network", 1),
        ("finetune", "Classifier", 1),
        ("finetune", "Network", 1),
        ("stg-train", "Generator", 1),
    ]
    for name in ("pretrain", "finetune-crt", "finetune-cross-entropy", "stg-train"):
        lines = (copy / f"{name}.run.jsonl").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        assert events.count("training") == events.count("epoch") == 1


def moved_without_gradients(head, **options):
    """Each part of a classifier, by how much one step without gradients shrinks it."""
    network = build_network(small_images.backbone("resnet20"), 10, seed=0)
    for part in PARTS:
        getattr(network.classifier, part).data.fill_(1.0)
    start_classifier(network.classifier, head, fresh=False)
    optimizer = make_optimizer(network, head, SCHEDULES["ldam"], **options)
    for group in optimizer.param_groups:
        group["lr"] *= group["rate"]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {part: 1 - getattr(network.classifier, part).detach() for part in PARTS}


@pytest.mark.parametrize("form", ["linear", "cosine", "experts2", "memory"])
def test_the_bias_of_a_classifier_on_cosines_stays(form):
    classifier = Classifier(6, 3, form)
    start_classifier(classifier, Head(trainable=PARTS), fresh=False)
    trained = {name for name, p in classifier.named_parameters() if p.requires_grad}
    assert trained == ({*PARTS} if form == "linear" else {"weight", "scales"})


def test_of_a_frozen_backbone_batch_norms_alone_go_on():
    backbone = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout()).eval()
    _train_batch_norms(backbone)
    assert [module.training for module in backbone] == [True, False]


def test_batch_norms_that_several_processes_share_go_on_too():
    norm = torch.nn.BatchNorm2d(3).eval()
    backbone = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(norm))
    _train_batch_norms(backbone)
    assert backbone[0].training


def test_weights_decay_and_factors_do_not():
    shrunk = moved_without_gradients(Head(trainable=PARTS), momentum=0.9)
    for part, share in (("weight", LR * DECAY), ("bias", LR * DECAY), ("scales", 0.0)):
        torch.testing.assert_close(shrunk[part], torch.full_like(shrunk[part], share))


def test_a_rare_bias_does_not_decay_either():
    shrunk = moved_without_gradients(Head(rare_bias=True), momentum=0.9)
    assert shrunk["bias"].eq(0).all()
    assert shrunk["weight"].gt(0).all()


def test_rates_of_parts_of_the_classifier_multiply_the_rate():
    head = Head(trainable=PARTS, rates={"weight": 0.5})
    shrunk = moved_without_gradients(head, momentum=0.0)
    torch.testing.assert_close(shrunk["weight"], torch.full((10, 64), 0.5 * LR * DECAY))
    torch.testing.assert_close(shrunk["bias"], torch.full((10,), LR * DECAY))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_only_what_has_gradients_is_optimised_and_that_once(kind):
    network = build_network(small_images.backbone("resnet20"), 10, seed=0)
    network.backbone.requires_grad_(False)
    head = Head(trainable=("weight",))
    start_classifier(network.classifier, head, fresh=True)
    optimizer = make_optimizer(network, head, SCHEDULES["cosine"], momentum=0.8, kind=kind)
    assert type(optimizer).__name__.lower() == kind
    (group,) = optimizer.param_groups
    assert [p is network.classifier.weight for p in group["params"]] == [True]
    assert (group["lr"], group["weight_decay"], group["rate"]) == (0.1, 5e-4, 1.0)
    if kind == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.8, True)


def test_factors_start_where_the_method_wants_them():
    network = build_network(small_images.backbone("resnet20"), 10, seed=0)
    start_classifier(network.classifier, Head(), fresh=True)
    assert network.classifier.scales.eq(1).all()
    start_classifier(network.classifier, Head(scale=30.0), fresh=True)
    assert network.classifier.scales.eq(30).all()


@pytest.mark.parametrize(
    ("stage", "name", "given"),
    [
        (finetune.STAGE, "crt", {"optimizer": "adam"}),
        (finetune.STAGE, "mislas", {"data": "images"}),
        (pretrain.STAGE, "ce-drw", {"defer": 100}),
    ],
)
def test_a_run_whose_step_is_recorded_gives_the_same_weights(
    assembled, monkeypatch, stage, name, given
):
    monkeypatch.setattr(optimizers, "_FUSED", ("cpu",))
    monkeypatch.setattr(training, "own_stream", lambda _device: nullcontext())
    records = []
    monkeypatch.setattr(training, "cuda_graph", lambda work: records.append(work) or work)
    found, logged = [], []
    for recorded in (False, True):
        # Powers of two: the device has the rate in float32.
        more = {"lr": 2**-8, "decay": "steps"} if stage is finetune.STAGE else {"lr": 2**-8}
        more |= {} if stage is finetune.STAGE else {"warmup": 0}
        run = assembled(stage, name, epochs=2, batch_size=100, **more, **given)
        params = replace(run.params, cuda_graph=recorded)
        context = Context("a stage", "cpu", Nothing(), logged.append)
        training.train(METHODS[name], replace(run, params=params), None, context)
        found.append(run.network.state_dict())
    assert all(found[0][name].equal(tensor) for name, tensor in found[1].items())
    # Anew where class weights begin.
    assert len(records) == (2 if stage is pretrain.STAGE else 1)
    assert [one for one in logged if one["event"] == "graph"] == [
        {"event": "graph", "recorded": True, "reason": None}
    ]


class Nothing:
    """A checkpoint that is never kept."""

    def load(self):
        return None

    def save(self, state, position):
        raise AssertionError("a run of a second is not saved")


@pytest.mark.parametrize(
    ("name", "given", "mixing", "reason"),
    [
        ("isda", {}, None, "steps of isda need the CPU"),
        ("mislas", {"mixup": 1.0}, Mixing(1.0, 0), "mixup needs the CPU"),
    ],
)
def test_a_run_whose_step_needs_the_cpu_says_so(assembled, caplog, name, given, mixing, reason):
    run, logged = assembled(finetune.STAGE, name, **given), []
    context = Context("finetune", "cpu", Nothing(), logged.append)
    with caplog.at_level("INFO", "ltcli.stages.training"):
        assert training._recorder(METHODS[name], run, mixing, context) is None
    assert caplog.messages == [f"finetune: no CUDA graph: {reason}"]
    assert logged == [{"event": "graph", "recorded": False, "reason": reason}]


def test_neither_files_nor_several_processes_have_a_recorded_step(assembled, monkeypatch):
    run, logged = assembled(pretrain.STAGE, "cross-entropy"), []
    context = Context("pretrain", "cpu", Nothing(), logged.append)
    with monkeypatch.context() as patch:
        patch.setitem(run.data.info, "store", "files")
        assert training._recorder(METHODS["cross-entropy"], run, None, context) is None
    monkeypatch.setattr(training, "here", lambda: World(0, 2))
    assert training._recorder(METHODS["cross-entropy"], run, None, context) is None
    reasons = ["images are in files", "several processes share a step"]
    assert [record["reason"] for record in logged] == reasons


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_cuda_graph_without_cuda_is_refused_in_one_line(ltcli, copy, stage):
    method = () if stage == "pretrain" else ("--method", "lws")
    options = (*method, "--cuda-graph", "--device", "cpu", "--force")
    done = ltcli(stage, *options, "-d", copy)
    assert done.code == 6
    assert done.lines == [
        "error: --cuda-graph: device must be cuda, got cpu",
        "hint: only GPUs of NVIDIA have CUDA graphs",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(
    "words",
    [
        ("pretrain", "--backbone", "resnet20", "--method", "ce-drw", "--defer", "100"),
        ("finetune", "--method", "crt"),
        ("finetune", "--method", "mislas", "--data", "images"),
    ],
)
def test_the_commands_give_the_same_weights_with_a_cuda_graph(ltcli, copy, words):
    found = []
    for name, more in (("eager", ()), ("recorded", ("--cuda-graph",))):
        out = copy / f"{name}.safetensors"
        options = ("--epochs", "2", "--batch-size", "64", "--lr", "0.01", "--precision", "fp32")
        done = ltcli(*words, *options, *more, "--device", "cuda", "--out", out, "-d", copy)
        assert done.code == 0, done.err
        with open_artifact(out) as model:
            assert model.header.parameters["cuda_graph"] is bool(more)
            found.append(model.load("*"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-2, atol=1e-3)


def test_chance_is_the_entropy_of_the_classes_that_an_epoch_draws(assembled):
    counts = assembled(finetune.STAGE, "cross-entropy").class_counts.double()
    shares = counts / counts.sum()
    prior = float(-(shares * shares.log()).sum())
    for given, wanted in (
        ({}, prior),
        ({"sampler": "class-aware"}, math.log(10)),
        ({"beta": 0.999999}, math.log(10)),
    ):
        run = assembled(finetune.STAGE, "cross-entropy", **given)
        assert training._chance(run)(0) == pytest.approx(wanted, abs=2e-3)


def test_class_weights_that_come_later_are_no_part_of_chance_before(assembled):
    run = assembled(pretrain.STAGE, "ce-drw", beta=0.999999, epochs=4, defer=100)
    before, after = (training._chance(run)(epoch) for epoch in (1, 2))
    assert before < after == pytest.approx(math.log(10), abs=2e-3)
