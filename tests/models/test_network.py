from dataclasses import asdict

import pytest
import torch

from ltcli.artifacts.store import open_artifact, save
from ltcli.core.errors import ArtifactError
from ltcli.models import small_images
from ltcli.models.classifier import FORMS
from ltcli.models.network import (
    build_backbone,
    build_classifier,
    build_network,
    load_network,
    place,
)

CPU = torch.device("cpu")
RESNET20 = small_images.backbone("resnet20", image_size=(8, 8))


def write(path, network, changed=None, **changes):
    """Write a model artifact with three classes, its backbone's record changed."""
    info = {
        "class_names": ["a", "b", "c"],
        "class_counts": [5, 3, 1],
        "split": "0" * 64,
        "backbone": asdict(RESNET20) | (changed or {}),
        "classifier": network.classifier.form,
        "method": "cross-entropy",
        "balanced": False,
        "epochs": 1,
        "recipe": [],
    }
    tensors = network.state_dict()
    facts = {"stage": "pretrain", "parameters": {}, "inputs": {}, "info": info | changes}
    save(path, "model", tensors, **facts)


def test_weights_are_a_function_of_the_seed_alone():
    one = build_network(RESNET20, 3, seed=1).state_dict()
    torch.manual_seed(99)
    torch.rand(5)
    again, other = (build_network(RESNET20, 3, seed=s).state_dict() for s in (1, 2))
    assert all(again[name].equal(one[name]) for name in one)
    for name in ("backbone.conv1.weight", "classifier.weight"):
        assert not other[name].equal(one[name])


@pytest.mark.parametrize("name", ["resnet20", "resnet10"])
@pytest.mark.parametrize("size", [(8, 8), (9, 17), (5, 1)], ids=str)
def test_stages_and_the_size_of_the_last_map_are_known_without_building(name, size):
    record = small_images.backbone(name, image_size=size)
    backbone = build_backbone(record).eval()
    assert record.stages == len(backbone.stages)
    with torch.no_grad():
        maps = backbone.maps(torch.zeros(1, 3, *size))
    assert record.map_size == tuple(maps.shape[2:])


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build_network(RESNET20, 3, seed=1)
    build_classifier(64, 3, seed=1)
    assert torch.get_rng_state().equal(before)


def test_a_fresh_classifier_is_a_function_of_the_seed_alone():
    one, again, other = (build_classifier(64, 3, seed=s).weight for s in (1, 1, 2))
    assert again.equal(one)
    assert not other.equal(one)


@pytest.mark.parametrize("form", ["linear", "cosine"])
def test_an_artifact_keeps_the_logits(rng, tmp_path, form):
    network = build_network(RESNET20, 3, seed=0)
    network.classifier.form = form
    network.classifier.bias.data = torch.randn(3, generator=rng)
    network.classifier.scales.data = torch.rand(3, generator=rng)
    images = torch.randn(4, 3, 8, 8, generator=rng)
    with torch.no_grad():
        # Batch-norm statistics that are not those of a fresh network.
        network.train()(images)
        logits = place(network.eval(), CPU)(images)
    write(tmp_path / "model.safetensors", network)
    with open_artifact(tmp_path / "model.safetensors") as artifact:
        loaded = load_network(artifact, CPU)
    assert not loaded.training
    with torch.no_grad():
        assert loaded(images).equal(logits)


def test_convolutions_lie_in_channels_last_memory():
    network = place(build_network(RESNET20, 3, seed=0), CPU)
    weight = network.backbone.stages[0][0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def refusal(path):
    with open_artifact(path) as artifact, pytest.raises(ArtifactError) as caught:
        load_network(artifact, CPU)
    return str(caught.value)


def test_tensors_that_do_not_fit_the_backbone_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, build_network(RESNET20, 3, seed=0), {"name": "resnet32"})
    assert refusal(path) == f"{path}: its tensors do not fit backbone resnet32"


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"name": "vgg"}, "vgg"),
        ({"name": "resnet33"}, "resnet33"),
        ({"name": ""}, ""),
        ({"variant": "ride1"}, "resnet20-ride1"),
        ({"source": "toys"}, "toys.resnet20"),
        ({"source": "timm"}, "timm.resnet20"),
        # No address of another hub is followed.
        ({"source": "timm", "name": "hf-hub:timm/test_vit"}, "timm.hf-hub:timm/test_vit"),
        ({"source": "timm", "name": "resnet18.no_tag"}, "timm.resnet18.no_tag"),
    ],
)
def test_an_unknown_backbone_is_refused(tmp_path, changed, shown):
    path = tmp_path / "model.safetensors"
    write(path, build_network(RESNET20, 3, seed=0), changed)
    assert refusal(path) == f"{path}: unknown backbone {shown}"


@pytest.mark.parametrize("form", ["mlp", 7, None])
def test_an_unknown_classifier_is_refused(tmp_path, form):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ArtifactError) as caught:
        write(path, build_network(RESNET20, 3, seed=0), classifier=form)
    first, last = ", ".join(FORMS[:-1]), FORMS[-1]
    assert str(caught.value) == f"{path}: classifier must be {first} or {last}, got {form!r}"


def test_a_misfit_is_one_line_on_the_command_line(ltcli, copy):
    path = copy / "other.safetensors"
    with open_artifact(copy / "pretrain.safetensors") as model:
        header, tensors = model.header, model.load("*")
    save(
        path,
        "model",
        tensors,
        stage=header.stage,
        parameters=header.parameters,
        inputs=header.inputs,
        info=header.info | {"backbone": header.info["backbone"] | {"name": "resnet32"}},
    )
    done = ltcli("evaluate", "--model", path, "-d", copy)
    assert done.code == 3
    assert done.lines == [f"error: {path}: its tensors do not fit backbone resnet32"]
