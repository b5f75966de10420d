import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torchvision import models

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import build
from ltcli.methods import feature_fusion
from ltcli.models.network import build_network
from ltcli.stages.finetune import Params, run_of
from ltcli.stages.start import fingerprint

NAME = "torchvision.shufflenet_v2_x0_5"
OWN = "resnet20, resnet32, resnet44, resnet56, resnet110, resnet10, resnet18, resnet34"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a network of torchvision for ten classes; never write into the folder."""
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.manual_seed(7)
    network = models.shufflenet_v2_x0_5(num_classes=10)
    with torch.no_grad():
        # Batch-norms know their inputs, so that features differ from image to image.
        for _ in range(30):
            network.train()(torch.randn(64, 3, 8, 8))
    torch.save(network.state_dict(), path)
    return path


def test_pretrained_weights_as_they_are_make_a_model_for_all_later_stages(ltcli, chain, weights):
    folder = weights.parent / "chain"
    folder.mkdir()
    shutil.copy(chain / "split.safetensors", folder)
    command = ("pretrain", "--backbone", NAME, "--weights", weights, "--epochs", "0", "-d", folder)
    done = ltcli(*command)
    assert done.code == 0, done.err
    state = torch.load(weights, weights_only=True)
    line = f"took {len(state) - 2} tensors of the backbone and 2 of the classifier from {weights}"
    assert f"pretrain: {line}" in done.err
    with open_artifact(folder / "pretrain.safetensors") as model:
        header, tensors = model.header, model.load("*")
    for name, value in state.items():
        key = f"classifier.{name[3:]}" if name.startswith("fc.") else f"backbone.body.{name}"
        assert tensors[key].equal(value)
    assert (header.info["epochs"], header.info["backbone"]) == (0, NAME)
    recipe = dict(header.info["recipe"])
    assert recipe["pretrain"]["weights"] == header.inputs["weights"]
    assert str(weights) not in json.dumps(header.info | header.parameters)
    for rest in (
        ("dump-features", "--maps", "--views", "1", "--precision", "fp32"),
        ("finetune", "--method", "mislas", "--epochs", "1", "--data", "images", "--shift-bn"),
        ("evaluate", "--model", folder / "pretrain.safetensors", "--precision", "fp32"),
    ):
        done = ltcli(*rest, "-d", folder)
        assert done.code == 0, done.err
    bank = read_header(folder / "dump-features.safetensors")
    assert bank.tensors["train.maps"][1] == (454, 1024, 1, 1)
    assert bank.tensors["train.views"][1] == (1, 454, 1024)
    whole = models.shufflenet_v2_x0_5(num_classes=10).eval()
    whole.load_state_dict(state)
    with open_artifact(folder / "split.safetensors") as split:
        info, images = split.header.info, split.tensor("test.images")[:50]
    # The colours are those that torchvision's weights know, in every stage.
    assert (header.info["mean"], header.info["std"]) != (info["mean"], info["std"])
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        expected = whole((images.permute(0, 3, 1, 2) / 255 - mean) / std)
    with open_artifact(folder / "dump-features.safetensors") as features:
        on_test = features.tensor("test.logits")
    fine = 0.01 * on_test.std(0).mean().item()
    torch.testing.assert_close(on_test[:50], expected, rtol=0, atol=fine)
    with open_artifact(folder / "evaluate-pretrain.safetensors") as made:
        torch.testing.assert_close(made.tensor("logits"), on_test, rtol=0, atol=fine)


def test_a_changed_file_of_weights_is_seen_and_a_moved_one_is_the_same(
    ltcli, chain, weights, tmp_path
):
    shutil.copy(chain / "split.safetensors", tmp_path)
    shutil.copy(weights, tmp_path / "w.pth")
    command = ("pretrain", "--backbone", NAME, "--epochs", "0", "-d", tmp_path, "--weights")
    assert ltcli(*command, tmp_path / "w.pth").code == 0
    assert ltcli(*command, weights).err.splitlines()[-1] == "pretrain: up to date"
    state = torch.load(weights, weights_only=True)
    state["fc.bias"] += 1
    torch.save(state, tmp_path / "w.pth")
    done = ltcli(*command, tmp_path / "w.pth", "--dry-run")
    assert "would run: weights changed" in done.out
    assert ltcli(*command[:3], "--epochs", "1", "-d", tmp_path, "--dry-run").code == 0


def test_weights_that_are_kept_follow_the_class_prior_of_their_origin(
    ltcli, chain, weights, tmp_path
):
    shutil.copy(chain / "split.safetensors", tmp_path)
    kept = ("pretrain", "--backbone", NAME, "--weights", weights, "--epochs", "0")
    # Without epochs there is nothing that a sampler or weights could balance.
    assert ltcli(*kept, "--sampler", "class-aware", "--beta", "0.9", "-d", tmp_path).code == 0
    assert not read_header(tmp_path / "pretrain.safetensors").info["balanced"]


def test_training_starts_from_the_weights(ltcli, copy):
    start = build_network("resnet20", 10, 3)
    with open_artifact(copy / "pretrain.safetensors") as model:
        header = model.header
    facts = {"stage": "pretrain", "parameters": {}, "inputs": {}, "info": header.info}
    save(copy / "w.safetensors", "model", start.state_dict(), **facts)
    out = copy / "further.safetensors"
    options = ("--epochs", "1", "--lr", "1e-9", "--weights", copy / "w.safetensors", "--out", out)
    assert ltcli("pretrain", "--backbone", "resnet20", *options, "-d", copy).code == 0
    with open_artifact(out) as model:
        trained = model.load("backbone.*")
    for name, value in start.backbone.named_parameters():
        torch.testing.assert_close(trained[name], value.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backbone", ["resnet20", "torchvision.shufflenet_v2_x0_5"])
def test_a_model_s_own_weights_know_its_colours(ltcli, copy, tmp_path, backbone):
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    # In bfloat16 torch takes gradients of depthwise convolutions on maps of one position from
    # memory that nobody has written.
    network = ("pretrain", "--backbone", backbone, "--precision", "fp32", "-d", copy)
    assert ltcli(*network, "--epochs", "1", "--out", first).code == 0
    # Other images, whose colours are others.
    split = ("split", "digits", "--imbalance-factor", "2", "-d", copy)
    assert ltcli(*split, "--seed", "5").code == 0
    assert ltcli(*network, "--weights", first, "--epochs", "0", "--out", again).code == 0
    own, new = read_header(first).info, read_header(again).info
    assert (new["mean"], new["std"]) == (own["mean"], own["std"])
    assert own["mean"] != read_header(copy / "split.safetensors").info["mean"]


@pytest.mark.parametrize(
    ("options", "code", "rule", "hint"),
    [
        (
            ("--backbone", "resnet33"),
            2,
            f"pretrain: backbone must be one of {OWN} or torchvision.NAME, got resnet33",
            "did you mean 'resnet34'?",
        ),
        (
            ("--backbone", "torchvision.resnet51"),
            2,
            "pretrain: no backbone 'torchvision.resnet51'",
            "did you mean 'torchvision.resnet50'?",
        ),
        (
            ("--backbone", NAME, "--method", "ride"),
            2,
            f"pretrain: backbone must be one of {OWN} for ride, got {NAME}",
            "the method changes the layers of the backbone",
        ),
        (
            ("--epochs", "0"),
            2,
            "pretrain: epochs must be at least 1 without weights, got 0",
            "0 keeps the weights of --weights as they are",
        ),
        (
            ("--epochs", "0", "--method", "focal", "--weights", "w.pth"),
            2,
            "pretrain: method must be cross-entropy with 0 epochs, got focal",
            "nothing is trained",
        ),
        (("--weights", "no/such.pth"), 3, "no/such.pth: no such file", None),
        (
            ("--weights", "default"),
            2,
            "pretrain: weights must be a file for this backbone, got default",
            "a file's name has a dot or a slash",
        ),
    ],
    ids=["own", "torchvision", "ride", "epochs", "method", "file", "registry"],
)
def test_what_training_cannot_start_from_is_refused(ltcli, chain, options, code, rule, hint):
    done = ltcli("pretrain", *options, "--dry-run", "-d", chain)
    assert done.code == code
    assert done.lines == [f"error: {rule}", *([f"hint: {hint}"] if hint else [])]


def test_images_that_do_not_suit_the_backbone_are_refused(ltcli, chain):
    done = ltcli("pretrain", "--backbone", "torchvision.vit_b_16", "--dry-run", "-d", chain)
    assert done.code == 3
    assert done.lines == [
        f"error: {chain / 'split.safetensors'}: torchvision.vit_b_16 takes no images of 8x8",
        "hint: make the split with another --image-size, or choose another backbone",
    ]


def test_names_of_the_registry_are_part_of_what_a_model_is(ltcli, chain):
    known = {"backbone": "torchvision.resnet50"}
    first, second, default, third = (
        fingerprint(SimpleNamespace(**known, weights=name))
        for name in ("IMAGENET1K_V1", "IMAGENET1K_V2", "default", None)
    )
    assert second == default != first
    assert (len(first["weights"]), third) == (64, {})
    done = ltcli("pretrain", "--backbone", NAME, "--weights", "default", "--dry-run", "-d", chain)
    assert done.code == 0
    assert "would run: weights changed" in done.out


def test_without_maps_what_needs_them_is_refused(ltcli, copy):
    backbone = "torchvision.mobilenet_v3_small"
    path, network = copy / "model.safetensors", build_network(backbone, 10, 0)
    with open_artifact(copy / "pretrain.safetensors") as model:
        header = model.header
    facts = {"stage": "pretrain", "parameters": header.parameters, "inputs": header.inputs}
    save(path, "model", network.state_dict(), **facts, info=header.info | {"backbone": backbone})
    rule = f"{path}: backbone {backbone} has no feature maps"
    for command in (
        ("dump-features", "--maps"),
        ("finetune", "--method", "cam-sampling", "--data", "images", "--train", "all"),
    ):
        done = ltcli(*command, "--model", path, "-d", copy, "--dry-run")
        assert done.code == 3
        assert done.lines == [
            f"error: {rule}",
            "hint: its features must be the mean of feature maps, as those of a ResNet",
        ]
    with pytest.raises(ArtifactError, match="has no feature maps"):
        check_fusion(0, read_header(path))


def check_fusion(stages_after, model):
    """Let feature-fusion on images look at a model."""
    values = {"method": "feature-fusion", "data": "images", "stages_after": stages_after}
    params = build(Params, values, "finetune", options=feature_fusion.Options)
    feature_fusion.METHOD.check(params.options, run_of(params, {"model": model}))


def test_maps_of_torchvision_s_networks_are_fused_where_there_are_positions(chain):
    model = read_header(chain / "pretrain.safetensors")
    info = model.info | {"backbone": "torchvision.resnet10", "image_size": [64, 64]}
    check_fusion(0, replace(model, info=info))
    with pytest.raises(ParamError, match="stages-after must be at most 0, got 1"):
        check_fusion(1, replace(model, info=info))
    small = replace(model, info=info | {"image_size": [8, 8]})
    with pytest.raises(ArtifactError, match="are 1x1 for these images"):
        check_fusion(0, small)
