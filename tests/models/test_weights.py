import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from ltcli.core.errors import ArtifactError, ParamError, ResourceError
from ltcli.models.borrowed import Borrowed
from ltcli.models.network import build_network
from ltcli.models.weights import fetch, published_pixels, put_in, read_weights, registered

NAME = "torchvision.shufflenet_v2_x0_5"


@pytest.fixture
def whole():
    """A network of torchvision's own, for three classes."""
    torch.manual_seed(5)
    return models.shufflenet_v2_x0_5(num_classes=3)


def same(network, state):
    """Whether the backbone has these tensors."""
    own = network.backbone.body.state_dict()
    return all(own[key].equal(state[key]) for key in own if key in state)


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [(None, ""), ("state_dict", "module."), ("model", ""), ("model_state", "module.")],
)
def test_a_state_dict_comes_back_from_a_file_of_torch(tmp_path, whole, wrapper, prefix):
    state = {prefix + key: value for key, value in whole.state_dict().items()}
    content = state if wrapper is None else {wrapper: state, "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    network = build_network(NAME, 3, 0)
    taken = put_in(network, read_weights(tmp_path / "w.pth"), "w.pth")
    assert taken == (len(state) - 2, 2)
    assert same(network, whole.state_dict())
    assert network.classifier.weight.equal(whole.fc.weight)
    assert network.classifier.bias.equal(whole.fc.bias)


def test_safetensors_and_another_number_of_classes(tmp_path, whole):
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    network, fresh = build_network(NAME, 4, 0), build_network(NAME, 4, 0)
    taken = put_in(network, read_weights(tmp_path / "w.safetensors"), "w")
    assert taken[1] == 0
    assert same(network, whole.state_dict())
    assert network.classifier.weight.equal(fresh.classifier.weight)


def test_a_cosine_classifier_stays_fresh(whole):
    network = build_network(NAME, 3, 0, "cosine")
    assert put_in(network, whole.state_dict(), "w")[1] == 0


def test_without_a_bias_in_the_file_it_is_zero(whole):
    network = build_network(NAME, 3, 0)
    torch.nn.init.constant_(network.classifier.bias, 2.0)
    state = {key: value for key, value in whole.state_dict().items() if key != "fc.bias"}
    assert put_in(network, state, "w")[1] == 1
    assert network.classifier.bias.tolist() == [0, 0, 0]


def test_old_files_without_counters_of_batches_fit(whole):
    state = {k: v for k, v in whole.state_dict().items() if "num_batches" not in k}
    network = build_network(NAME, 3, 0)
    put_in(network, state, "w")
    assert same(network, state)


def test_of_a_model_of_ltcli_the_backbone_is_taken():
    for name in (NAME, "resnet20"):
        first, second = build_network(name, 3, 0), build_network(name, 3, 1)
        fresh = second.classifier.weight.clone()
        more = {"snapshots.epoch": torch.zeros(1), "method.x": torch.zeros(2)}
        put_in(second, {**first.state_dict(), **more}, "w")
        for key, value in first.backbone.state_dict().items():
            assert second.backbone.state_dict()[key].equal(value)
        assert second.classifier.weight.equal(fresh)


def test_names_of_old_files_of_densenet_are_understood():
    network = build_network("torchvision.densenet121", 3, 0)
    state = network.backbone.body.state_dict()
    old = {}
    for key, value in state.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            key = (
                key.replace(f".{part}.", f".{part[:4]}.{part[4]}.") if "denselayer" in key else key
            )
        old[key] = value
    assert sum(".norm.1." in key for key in old) > 100
    assert put_in(network, old, "w")[0] == len(state)


def test_names_of_old_files_of_vision_transformers_are_understood():
    body = models.VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=12)
    body.heads = torch.nn.Identity()
    network = build_network("resnet20", 3, 0)
    network.backbone = Borrowed(body, 8, "heads.head")
    state = {key: torch.randn_like(value) for key, value in body.state_dict().items()}
    old = {key.replace("mlp.0", "mlp.linear_1"): value for key, value in state.items()}
    old = {key.replace("mlp.3", "mlp.linear_2"): value for key, value in old.items()}
    assert len(old.keys() - state.keys()) == 4
    assert put_in(network, old, "w")[0] == len(state)
    assert same(network, state)
    larger = old | {"encoder.pos_embedding": torch.zeros(1, 197, 8)}
    with pytest.raises(ArtifactError) as caught:
        put_in(network, larger, "w")
    rule = "encoder.pos_embedding must be of shape [1, 5, 8], got [1, 197, 8]"
    assert str(caught.value) == f"w: {rule}"


def test_second_classifiers_are_left_out():
    network = build_network("torchvision.googlenet", 3, 0)
    state = network.backbone.body.state_dict()
    more = {"aux1.fc2.bias": torch.zeros(1000), "AuxLogits.fc.bias": torch.zeros(1000)}
    assert put_in(network, {**state, **more}, "w") == (len(state), 0)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            {"conv1.0.weight": torch.zeros(24, 1, 3, 3)},
            "conv1.0.weight must be of shape [24, 3, 3, 3], got [24, 1, 3, 3]",
        ),
        ({"conv1.0.weight": None}, "lacks conv1.0.weight of the backbone"),
        ({"conv9.bias": torch.zeros(2)}, "has conv9.bias, which the backbone has not"),
        (
            {"conv1.1.bias": torch.full((24,), torch.nan)},
            "conv1.1.bias must be finite, got NaN or infinity",
        ),
    ],
    ids=["shape", "missing", "unexpected", "NaN"],
)
def test_what_does_not_fit_is_named(whole, change, rule):
    state = {**whole.state_dict(), **change}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(ArtifactError) as caught:
        put_in(build_network(NAME, 3, 0), state, "w.pth")
    assert str(caught.value) == f"w.pth: {rule}"


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refusal(path):
    with pytest.raises(ArtifactError) as caught:
        read_weights(path)
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    made, rule = tmp_path / "made", "must be a sound file of tensors alone"
    torch.save({"state_dict": _Hostile(made)}, tmp_path / "zip.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"a": _Hostile(made)}))
    for name in ("zip.pth", "raw.pth"):
        assert refusal(tmp_path / name) == rule
    assert not made.exists()


def test_damaged_and_foreign_files_are_refused(tmp_path, whole):
    torch.save(whole.state_dict(), tmp_path / "good.pth")
    content = (tmp_path / "good.pth").read_bytes()
    for name, part in (("cut.pth", content[:1000]), ("empty.pth", b""), ("text.pth", b"weights")):
        (tmp_path / name).write_bytes(part)
        assert refusal(tmp_path / name) == "must be a sound file of tensors alone"
    (tmp_path / "cut.safetensors").write_bytes(content[:100])
    assert refusal(tmp_path / "cut.safetensors").startswith("cannot be read: ")
    for name, found in (("list.pth", [torch.zeros(1)]), ("nothing.pth", {})):
        torch.save(found, tmp_path / name)
        assert refusal(tmp_path / name) == "holds no state dict"
    torch.save({"a": torch.zeros(1), "epoch": 3}, tmp_path / "mixed.pth")
    assert refusal(tmp_path / "mixed.pth") == "must hold tensors by name, got epoch that is none"


def test_the_registry_knows_weights_by_name():
    assert str(registered("torchvision.resnet50", "default")) == "ResNet50_Weights.IMAGENET1K_V2"
    entry = registered("torchvision.resnet50", "IMAGENET1K_V1")
    assert str(entry) == "ResNet50_Weights.IMAGENET1K_V1"


@pytest.mark.parametrize("backbone", ["efficientnet_v2_l", "resnet50", "vit_b_16"])
@pytest.mark.parametrize("name", ["default", "IMAGENET1K_V1", None])
def test_colours_are_those_that_published_weights_were_made_with(backbone, name):
    backbone = f"torchvision.{backbone}"
    made_with = registered(backbone, name or "default").transforms()
    found = published_pixels(backbone, name)
    assert found == {"mean": list(made_with.mean), "std": list(made_with.std)}


def test_weights_of_a_network_without_published_ones_have_the_colours_of_imagenet():
    found = published_pixels("torchvision.resnet10", None)
    assert found == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("backbone", "name", "rule", "hint"),
    [
        (
            "torchvision.resnet50",
            "IMAGENET1K_V9",
            "weights of torchvision.resnet50 must be a file, default or of torchvision, "
            "got IMAGENET1K_V9",
            "did you mean 'IMAGENET1K_V2'?",
        ),
        (
            "torchvision.resnet10",
            "default",
            "weights of torchvision.resnet10 must be a file, got default",
            "torchvision publishes none; a file's name has a dot or a slash",
        ),
    ],
)
def test_weights_that_are_not_in_the_registry_are_refused(backbone, name, rule, hint):
    with pytest.raises(ParamError) as caught:
        registered(backbone, name)
    assert (caught.value.message, caught.value.hint) == (rule, hint)


def test_weights_of_the_registry_come_from_the_cache(tmp_path, monkeypatch, whole):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    entry = registered(NAME, "default")
    cached = tmp_path / "hub" / "checkpoints" / entry.url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    torch.save(whole.state_dict(), cached)
    network = build_network(NAME, 3, 0)
    put_in(network, fetch(entry), entry)
    assert same(network, whole.state_dict())
    # Nothing but tensors is unpickled there either.
    torch.save({"a": _Hostile(tmp_path / "made")}, cached)
    with pytest.raises(ResourceError):
        fetch(entry)
    assert not (tmp_path / "made").exists()


def test_without_a_network_the_error_says_what_to_fetch(tmp_path, monkeypatch):
    def unreachable(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    entry = registered(NAME, "default")
    with pytest.raises(ResourceError) as caught:
        fetch(entry)
    rule = "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1 cannot be fetched: no route to host"
    assert str(caught.value) == f"pretrain: {rule}"
    hint = f"fetch {entry.url} where there is a network, and name the file with --weights"
    assert caught.value.hint == hint
