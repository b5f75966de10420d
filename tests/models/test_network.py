import pytest
import torch

from ltcli.artifacts.store import open_artifact, save
from ltcli.core.errors import ArtifactError
from ltcli.models.network import (
    build_backbone,
    build_classifier,
    build_network,
    load_network,
    map_size,
    num_stages,
    place,
)

CPU = torch.device("cpu")


def write(path, network, **changes):
    """Write a model artifact with three classes."""
    info = {
        "class_names": ["a", "b", "c"],
        "class_counts": [5, 3, 1],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "image_size": [8, 8],
        "split": "0" * 64,
        "backbone": "resnet20",
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
    one = build_network("resnet20", 3, seed=1).state_dict()
    torch.manual_seed(99)
    torch.rand(5)
    again, other = (build_network("resnet20", 3, seed=s).state_dict() for s in (1, 2))
    assert all(again[name].equal(one[name]) for name in one)
    for name in ("backbone.conv1.weight", "classifier.weight"):
        assert not other[name].equal(one[name])


@pytest.mark.parametrize("name", ["resnet20", "resnet10"])
@pytest.mark.parametrize("size", [(8, 8), (9, 17), (5, 1)], ids=str)
def test_stages_and_the_size_of_the_last_map_are_known_without_building(name, size):
    backbone = build_backbone(name).eval()
    assert num_stages(name) == len(backbone.stages)
    with torch.no_grad():
        maps = backbone.maps(torch.zeros(1, 3, *size))
    assert map_size(name, list(size)) == tuple(maps.shape[2:])


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build_network("resnet20", 3, seed=1)
    build_classifier(64, 3, seed=1)
    assert torch.get_rng_state().equal(before)


def test_a_fresh_classifier_is_a_function_of_the_seed_alone():
    one, again, other = (build_classifier(64, 3, seed=s).weight for s in (1, 1, 2))
    assert again.equal(one)
    assert not other.equal(one)


@pytest.mark.parametrize("form", ["linear", "cosine"])
def test_an_artifact_keeps_the_logits(rng, tmp_path, form):
    network = build_network("resnet20", 3, seed=0)
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
    network = place(build_network("resnet20", 3, seed=0), CPU)
    weight = network.backbone.stages[0][0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def refusal(path):
    with open_artifact(path) as artifact, pytest.raises(ArtifactError) as caught:
        load_network(artifact, CPU)
    return str(caught.value)


def test_tensors_that_do_not_fit_the_backbone_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, build_network("resnet20", 3, seed=0), backbone="resnet32")
    assert refusal(path) == f"{path}: its tensors do not fit backbone resnet32"


@pytest.mark.parametrize("name", ["vgg", "resnet", "resnet33", "resnet9999992", 7, ["resnet20"]])
def test_an_unknown_backbone_is_refused(tmp_path, name):
    path = tmp_path / "model.safetensors"
    write(path, build_network("resnet20", 3, seed=0), backbone=name)
    assert refusal(path) == f"{path}: unknown backbone {name}"


@pytest.mark.parametrize("form", ["mlp", 7, None])
def test_an_unknown_classifier_is_refused(tmp_path, form):
    path = tmp_path / "model.safetensors"
    write(path, build_network("resnet20", 3, seed=0), classifier=form)
    assert refusal(path) == f"{path}: unknown classifier {form}"


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
        info=header.info | {"backbone": "resnet32"},
    )
    done = ltcli("evaluate", "--model", path, "-d", copy)
    assert done.code == 3
    assert done.lines == [f"error: {path}: its tensors do not fit backbone resnet32"]
