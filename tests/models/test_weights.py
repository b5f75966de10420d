import os
import pickle
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from ltcli.core.errors import ArtifactError
from ltcli.models import small_images, timm_networks
from ltcli.models.network import build_network
from ltcli.models.weights import put_in, read_weights

SPLIT = SimpleNamespace(info={"store": "images", "image_size": [8, 8]})
RESNET18 = timm_networks.SOURCE.resolve("resnet18", "", SPLIT)
HEAD = timm_networks.SOURCE.head("resnet18")
TWO = {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


@pytest.fixture
def whole():
    """ResNet-18 of torchvision, whose tensors have the names of timm's, for three classes."""
    torch.manual_seed(5)
    return models.resnet18(num_classes=3)


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
    network = build_network(RESNET18, 3, 0)
    taken = put_in(network, read_weights(tmp_path / "w.pth"), "w.pth", HEAD)
    assert taken == (len(state) - 2, 2)
    assert same(network, whole.state_dict())
    assert network.classifier.weight.equal(whole.fc.weight)
    assert network.classifier.bias.equal(whole.fc.bias)


def test_safetensors_and_another_number_of_classes(tmp_path, whole):
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    network, fresh = build_network(RESNET18, 4, 0), build_network(RESNET18, 4, 0)
    taken = put_in(network, read_weights(tmp_path / "w.safetensors"), "w", HEAD)
    assert taken[1] == 0
    assert same(network, whole.state_dict())
    assert network.classifier.weight.equal(fresh.classifier.weight)


def test_a_cosine_classifier_stays_fresh(whole):
    network = build_network(RESNET18, 3, 0, "cosine")
    assert put_in(network, whole.state_dict(), "w", HEAD)[1] == 0


def test_without_a_bias_in_the_file_it_is_zero(whole):
    network = build_network(RESNET18, 3, 0)
    torch.nn.init.constant_(network.classifier.bias, 2.0)
    state = {key: value for key, value in whole.state_dict().items() if key != "fc.bias"}
    assert put_in(network, state, "w", HEAD)[1] == 1
    assert network.classifier.bias.tolist() == [0, 0, 0]


def test_old_files_without_counters_of_batches_fit(whole):
    state = {k: v for k, v in whole.state_dict().items() if "num_batches" not in k}
    network = build_network(RESNET18, 3, 0)
    put_in(network, state, "w", HEAD)
    assert same(network, state)


def test_of_a_model_of_ltcli_the_backbone_is_taken():
    for record in (RESNET18, small_images.backbone("resnet20")):
        first, second = build_network(record, 3, 0), build_network(record, 3, 1)
        fresh = second.classifier.weight.clone()
        more = {"snapshots.epoch": torch.zeros(1), "method.x": torch.zeros(2)}
        head = HEAD if record is RESNET18 else ()
        put_in(second, {**first.state_dict(), **more}, "w", head)
        for key, value in first.backbone.state_dict().items():
            assert second.backbone.state_dict()[key].equal(value)
        assert second.classifier.weight.equal(fresh)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("tf_efficientnet_lite0", {"classifier.weight", "classifier.bias"}),
        ("test_convnext", {"head.fc.weight", "head.fc.bias"}),
        ("vit_small_patch14_dinov2", set()),
        ("deit_tiny_distilled_patch16_224", TWO),
    ],
)
def test_what_is_behind_the_features_is_known_by_name(name, head):
    assert timm_networks.SOURCE.head(name) == head


def test_one_of_two_classifiers_is_not_taken(whole):
    network = build_network(RESNET18, 3, 0)
    fresh = network.classifier.weight.clone()
    state = whole.state_dict() | {"other.weight": torch.zeros(3, 512)}
    assert put_in(network, state, "w", {*HEAD, "other.weight"})[1] == 0
    assert network.classifier.weight.equal(fresh)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            {"conv1.weight": torch.zeros(64, 1, 7, 7)},
            "conv1.weight must be of shape [64, 3, 7, 7], got [64, 1, 7, 7]",
        ),
        ({"conv1.weight": None}, "lacks conv1.weight of the backbone"),
        ({"conv9.bias": torch.zeros(2)}, "has conv9.bias, which the backbone has not"),
        (
            {"bn1.bias": torch.full((64,), torch.nan)},
            "bn1.bias must be finite, got NaN or infinity",
        ),
    ],
    ids=["shape", "missing", "unexpected", "NaN"],
)
def test_what_does_not_fit_is_named(whole, change, rule):
    state = {**whole.state_dict(), **change}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(ArtifactError) as caught:
        put_in(build_network(RESNET18, 3, 0), state, "w.pth", HEAD)
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


def cyclic(state):
    """A container that holds itself, and nothing else."""
    found = {}
    found["state_dict"] = found
    return found


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (cyclic, "must hold tensors by name, got state_dict that is none"),
        (lambda s: {"model": {"state_dict": cyclic(s)}}, "must hold tensors by name"),
        (lambda s: s | {"w": torch.eye(3).to_sparse()}, "numbers, got a sparse one"),
        (lambda s: s | {"w": torch.eye(3).to_sparse_csr()}, "numbers, got a sparse one"),
        (lambda s: s | {"w": torch.empty(3, device="meta")}, "numbers, got one without numbers"),
        (
            lambda s: s | {"w": torch.zeros(3, dtype=torch.complex64)},
            "numbers, got a complex64 one",
        ),
    ],
    ids=["cyclic", "cyclic inside", "sparse", "sparse rows", "meta", "complex"],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_containers_without_plain_numbers_are_refused(tmp_path, change, rule):
    path = tmp_path / "w.pth"
    torch.save(change({"v": torch.zeros(2)}), path)
    with pytest.raises(ArtifactError, match=rule):
        read_weights(path)


def test_wrapped_weights_are_found_below_four_wrappers(tmp_path):
    state = {"v": torch.ones(2)}
    torch.save({"model": {"state_dict": {"model": {"model_state": state}}}}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth")["v"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7, dtype=torch.int8)},
            "conv1.weight must be of type float32, got int8",
        ),
        (
            {"bn1.running_var": torch.full((64,), -1.0)},
            "bn1.running_var must be at least 0, got -1",
        ),
    ],
    ids=["whole numbers", "variance"],
)
def test_weights_that_no_training_gives_are_refused(whole, change, rule):
    with pytest.raises(ArtifactError) as caught:
        put_in(build_network(RESNET18, 3, 0), whole.state_dict() | change, "w.pth", HEAD)
    assert str(caught.value) == f"w.pth: {rule}"
