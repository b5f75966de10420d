import io
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from ltcli.core.errors import ArtifactError, NumericalError
from ltcli.models import small_images, timm_networks
from ltcli.models.classifier import Classifier
from ltcli.models.network import Network, build_network
from ltcli.models.resnet import ResNet
from ltcli.stages.exporting import FORMATS, compare, make, metadata

PIXELS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
BACKBONE = small_images.backbone("resnet20", image_size=(8, 8), **PIXELS)
INFO = {
    # As JSON gives it back.
    "backbone": json.loads(json.dumps(asdict(BACKBONE))),
    "class_names": ["a", "b", "\N{GREEK SMALL LETTER GAMMA}"],
}
HEADER = SimpleNamespace(info=INFO, path="model.safetensors", digest="d" * 64)


def by_hand(network, images):
    x = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(PIXELS["mean"]).view(1, 3, 1, 1)) / (
        torch.tensor(PIXELS["std"]).view(1, 3, 1, 1)
    )
    with torch.no_grad():
        return network(x)


def pixels(rng, count):
    return torch.randint(256, (count, 8, 8, 3), generator=rng, dtype=torch.uint8)


def needed(form):
    if form == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)


@pytest.mark.parametrize("form", [pytest.param("onnx", marks=pytest.mark.slow), "torch"])
def test_a_file_gives_the_model_s_logits_for_any_number_of_images(rng, form):
    needed(form)
    network = Network(ResNet((4,), (1,), projection=False), Classifier(4, 3)).eval()
    network.classifier.bias.data = torch.randn(3, generator=rng)
    content, run = make(network, HEADER, form)
    for count in (1, 2, 5):
        images = pixels(rng, count)
        torch.testing.assert_close(run(images), by_hand(network, images), rtol=1e-4, atol=1e-5)
    # No path of a source file, and the same bytes again.
    assert b".py" not in content
    assert make(network, HEADER, form)[0] == content
    check_metadata(form, content)


def check_metadata(form, content):
    if form == "onnx":
        import onnx

        model = onnx.load_from_string(content)
        onnx.checker.check_model(model, full_check=True)
        known = {entry.key: entry.value for entry in model.metadata_props}
        assert [value.name for value in model.graph.input] == ["images"]
        assert [value.name for value in model.graph.output] == ["logits", "probabilities"]
    else:
        known = dict.fromkeys(metadata(HEADER), "")
        torch.export.load(io.BytesIO(content), extra_files=known)
    assert known == metadata(HEADER)
    assert json.loads(known["class_names"]) == INFO["class_names"]
    assert (json.loads(known["backbone"]), known["model"]) == (INFO["backbone"], HEADER.digest)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("name", "variant", "classifier"),
    [
        ("resnet10", "", "cosine"),
        ("resnet20", "", "memory"),
        ("resnet20", "ride3", "experts3"),
        ("resnet20", "bbn", "linear"),
        ("resnet20", "sla", "linear"),
    ],
)
def test_every_backbone_and_classifier_can_be_exported(rng, form, name, variant, classifier):
    needed(form)
    network = build_network(small_images.backbone(name, variant), 3, 0, classifier).eval()
    network.classifier.scales.data = torch.tensor([2.0, 16.0, 1.0])
    network.classifier.bias.data = torch.randn(3, generator=rng)
    if network.classifier.memory is not None:
        centroids = network.classifier.memory.centroids
        centroids.data = torch.randn(centroids.shape, generator=rng)
    images = pixels(rng, 16)
    _, run = make(network, HEADER, form)
    assert compare(run(images), by_hand(network, images)) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_networks_of_timm_can_be_exported(rng, form, name):
    needed(form)
    split = SimpleNamespace(info={"store": "files"})
    record = replace(timm_networks.SOURCE.resolve(name, "", split), **PIXELS)
    network = build_network(record, 3, 0).eval()
    info = INFO | {"backbone": json.loads(json.dumps(asdict(record)))}
    images = torch.randint(256, (4, *record.image_size, 3), generator=rng, dtype=torch.uint8)
    header = SimpleNamespace(info=info, path="model.safetensors", digest="d" * 64)
    _, run = make(network, header, form)
    assert compare(run(images), by_hand(network, images)) < 1e-3


class Undecided(ResNet):
    """A backbone that looks at values to decide what to do, which no graph can."""

    def maps(self, images):
        return super().maps(images) if images.mean() > 0 else super().maps(-images)


def test_a_network_that_is_no_graph_is_refused(rng):
    network = Network(Undecided((4,), (1,), projection=False), Classifier(4, 3)).eval()
    with pytest.raises(ArtifactError) as caught:
        make(network, HEADER, "torch")
    assert str(caught.value).startswith("model.safetensors: cannot be exported to torch: ")
    assert caught.value.exit_code == 3


def test_the_largest_difference_is_returned():
    expected = torch.tensor([[3.0, 1.0], [0.0, 20.0]])
    found = expected + torch.tensor([[0.0, 1e-3], [-5e-4, 0.0]])
    assert compare(found, expected) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("wrong", [3e-3, float("nan")], ids=str)
def test_logits_that_differ_by_more_than_a_tolerance_are_refused(wrong):
    # 1e-4 of the largest logit, which is 20.
    expected = torch.tensor([[3.0, 1.0], [0.0, 20.0]])
    with pytest.raises(NumericalError) as caught:
        compare(expected + torch.tensor([[0.0, wrong], [0.0, 0.0]]), expected)
    shown = "nan" if wrong != wrong else "0.003"
    rule = f"logits must differ by at most 0.002 from the model's, got {shown}"
    assert str(caught.value) == f"export: {rule}"
    assert caught.value.hint == "nothing was written; report this as a bug"
    assert caught.value.exit_code == 4


def test_two_classes_that_are_level_may_change_places():
    expected = torch.tensor([[1.0, 1.0 - 5e-5], [4.0, 3.0]])
    assert compare(torch.tensor([[1.0, 1.0 + 1e-5], [4.0, 3.0]]), expected) < 1e-4


def test_other_classes_are_refused():
    # Both within the tolerance of 0.01 each way, and further apart than that.
    expected = torch.tensor([[100.0, 0.0], [1.0, 0.985]])
    with pytest.raises(NumericalError) as caught:
        compare(torch.tensor([[100.0, 0.0], [0.992, 0.993]]), expected)
    rule = "classes must be the model's, got others for 1 of 2 images"
    assert str(caught.value) == f"export: {rule}"
