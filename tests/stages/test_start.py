import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms import v2

from ltcli.artifacts.backbone import backbone_of
from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact, save
from ltcli.cli.main import run
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import build
from ltcli.methods import feature_fusion
from ltcli.models import small_images, timm_networks
from ltcli.models.network import build_network, load_network
from ltcli.stages.finetune import Params, run_of
from ltcli.stages.samples import files_of
from ltcli.stages.start import Start

NAME = "test_efficientnet"
OWN = "resnet20, resnet32, resnet44, resnet56, resnet110, resnet10, resnet18, resnet34"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders of images of three classes, and two splits of them; never write into it."""
    root = tmp_path_factory.mktemp("start")
    rng = np.random.default_rng(0)
    for c in range(3):
        (root / "photos" / str(c)).mkdir(parents=True)
        for number in range(12):
            coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((60, 48)).convert("RGB")
            image.save(root / "photos" / str(c) / f"{number}.png")
    split = ("split", "folder", "--root", root / "photos", "--val-per-class", "2", "-q")
    for store in ("images", "files"):
        folder = root / store
        assert run([*map(str, split), "--store", store, "-d", str(folder)]) == 0
    return root


@pytest.fixture(scope="module")
def weights(photos):
    """Weights of timm's smallest network with feature maps, for three classes."""
    torch.manual_seed(7)
    network = timm.create_model(NAME, num_classes=3)
    with torch.no_grad():
        # Batch-norms know their inputs, so that features differ from image to image.
        for _ in range(5):
            network.train()(torch.randn(16, 3, 160, 160))
    torch.save(network.state_dict(), photos / "w.pth")
    return photos / "w.pth"


@pytest.fixture
def own(photos, tmp_path):
    """Copies of both splits that a test may add to."""
    for store in ("images", "files"):
        shutil.copytree(photos / store, tmp_path / store)
    return tmp_path


START = ("pretrain", "--backbone", f"timm.{NAME}")
EXACT = ("--precision", "fp32")


@pytest.mark.parametrize("store", ["images", "files"])
def test_pretrained_weights_as_they_are_make_a_model_for_all_later_stages(
    ltcli, own, photos, weights, store
):
    folder = own / store
    done = ltcli(*START, "--weights", weights, "--epochs", "0", "-d", folder)
    assert done.code == 0, done.err
    state = torch.load(weights, weights_only=True)
    line = f"took {len(state) - 2} tensors of the backbone and 2 of the classifier from {weights}"
    assert f"pretrain: {line}" in done.err
    with open_artifact(folder / "pretrain.safetensors") as model:
        header, tensors = model.header, model.load("*")
    last = "classifier."
    for name, value in state.items():
        assert tensors[name if name.startswith(last) else f"backbone.body.{name}"].equal(value)
    assert (header.info["epochs"], header.info["backbone"]["name"]) == (0, NAME)
    recipe = dict(header.info["recipe"])
    assert recipe["pretrain"]["weights"] == header.inputs["weights"]
    assert str(weights) not in json.dumps(header.info | header.parameters)
    for rest in (
        ("dump-features", "--maps", "--views", "1", *EXACT),
        ("finetune", "--method", "mislas", "--epochs", "1", "--data", "images", "--shift-bn"),
        ("evaluate", "--model", folder / "pretrain.safetensors", *EXACT),
    ):
        done = ltcli(*rest, "-d", folder)
        assert done.code == 0, done.err
    with open_artifact(folder / "dump-features.safetensors") as features:
        bank, logits = features.header, features.tensor("test.logits")
        found = features.tensor("test.features")
    assert bank.info["backbone"] == header.info["backbone"]
    count = bank.size("train.labels", 0)
    assert bank.tensors["train.maps"][1] == (count, 256, 5, 5)
    assert bank.tensors["train.views"][1] == (1, count, 256)
    # timm itself, on the images as the split has them.
    whole = timm.create_model(NAME, num_classes=3).eval()
    whole.load_state_dict(state)
    steps = timm.data.create_transform(**timm.data.resolve_data_config({}, model=whole))
    with open_artifact(folder / "split.safetensors") as split:
        if store == "images":
            pictures = map(Image.fromarray, split.tensor("test.images").numpy())
            # They are whole centre squares already: nothing is cut from them again.
            pictures = [
                picture.resize((160, 160), Image.Resampling.BICUBIC) for picture in pictures
            ]
            steps = v2.Compose(steps.transforms[2:])
        else:
            names = files_of(split, "test")[0]
            pictures = [Image.open(photos / "photos" / name) for name in names]
    with torch.no_grad():
        x = torch.stack([steps(picture) for picture in pictures])
        expected = whole.forward_head(whole.forward_features(x), pre_logits=True)
    # Resizing on the device and by PIL round to bytes that differ by one here and there.
    fine = (1e-2 if store == "images" else 1e-4) * expected.norm(dim=1).mean().item()
    assert (found - expected).norm(dim=1).max() < fine
    with torch.no_grad():
        torch.testing.assert_close(logits, whole.classifier(found))
    with open_artifact(folder / "evaluate-pretrain.safetensors") as made:
        torch.testing.assert_close(made.tensor("logits"), logits, rtol=0, atol=1e-4)


def test_predict_and_export_prepare_images_as_training_did(ltcli, own, photos, weights):
    image = photos / "photos" / "1" / "3.png"
    found = {}
    for store in ("images", "files"):
        folder = own / store
        model = folder / "pretrain.safetensors"
        assert ltcli(*START, "--weights", weights, "--epochs", "0", "-d", folder).code == 0
        with open_artifact(folder / "split.safetensors") as artifact:
            names = bytes(artifact.tensor("files").numpy()).decode().split("\0")
        assert ltcli("dump-features", *EXACT, "-d", folder).code == 0
        with open_artifact(folder / "dump-features.safetensors") as bank:
            parts = [bank.tensor(f"{part}.features") for part in ("train", "val", "test")]
        feature = torch.cat(parts)[names.index("1/3.png")]
        with open_artifact(model) as artifact:
            classifier = load_network(artifact, torch.device("cpu")).classifier
        done = ltcli("predict", image, "--model", model, "--top", "3", "--json", *EXACT)
        (document,) = json.loads(done.out)
        shown = {entry["class"]: entry["probability"] for entry in document["classes"]}
        with torch.no_grad():
            expected = classifier(feature.unsqueeze(0)).softmax(1)[0].tolist()
        found[store] = [shown[str(c)] for c in range(3)]
        assert found[store] == pytest.approx(expected, abs=1e-4)
        out = folder / "model.pt2"
        split = ("--split", folder / "split.safetensors")
        done = ltcli("export", model, "--to", "torch", "--out", out, *split)
        assert done.code == 0, done.err
        known = {"backbone": ""}
        torch.export.load(out, extra_files=known)
        assert json.loads(known["backbone"]) == read_header(model).info["backbone"]
    assert found["images"] != pytest.approx(found["files"], abs=1e-4)


def test_a_network_of_timm_is_trained_on_images_of_its_own_size(ltcli, own):
    network = ("pretrain", "--backbone", "timm.test_vit", "--epochs", "1", "--batch-size", "8")
    for store, found in (
        ("images", "are 32x32 pixels"),
        ("files", "have 48 pixels on their shorter side (median)"),
    ):
        split = own / store / "split.safetensors"
        line = f"warning: images of {split} {found}, smaller than the 160x160 of timm.test_vit"
        dry = ltcli(*network, "--dry-run", "-d", own / store)
        assert dry.out.splitlines()[-1] == f"{line}: they are enlarged"
        done = ltcli(*network, "-q", "-d", own / store)
        assert done.code == 0
        assert done.err.startswith(f"pretrain: {line}: they are enlarged\n")
        record = backbone_of(read_header(own / store / "pretrain.safetensors"))
        assert (record.image_size, record.mean, record.std) == ((160, 160), (0.5,) * 3, (0.5,) * 3)
        assert (record.interpolation, record.crop_mode, record.crop_share) == (
            *("bicubic", "center", 0.95),
        )
        assert record.stored_size == ((32, 32) if store == "images" else ())
        for rest in (("dump-features",), ("finetune", "--method", "crt"), ("evaluate",)):
            assert ltcli(*rest, "-q", "-d", own / store).code == 0
    # Images of any size do for it, wherever they are.
    model = own / "images" / "pretrain.safetensors"
    done = ltcli("evaluate", "--model", model, "-q", "-d", own / "files")
    assert done.code == 3
    assert "belongs to another split" in done.err


def test_weight_files_of_torchvision_s_resnets_fit_those_of_timm(ltcli, own):
    torch.manual_seed(3)
    state = models.resnet18(num_classes=3).state_dict()
    torch.save(state, own / "resnet18.pth")
    command = ("pretrain", "--backbone", "timm.resnet18", "--weights", own / "resnet18.pth")
    done = ltcli(*command, "--epochs", "0", "-d", own / "images")
    assert done.code == 0, done.err
    with open_artifact(own / "images" / "pretrain.safetensors") as model:
        tensors = model.load("*")
    for name, value in state.items():
        key = f"classifier.{name[3:]}" if name.startswith("fc.") else f"backbone.body.{name}"
        assert tensors[key].equal(value)


def test_a_changed_file_of_weights_is_seen_and_a_moved_one_is_the_same(ltcli, own, weights):
    shutil.copy(weights, own / "w.pth")
    folder = own / "images"
    command = (*START, "--epochs", "0", "-d", folder, "--weights")
    assert ltcli(*command, own / "w.pth").code == 0
    assert ltcli(*command, weights).err.splitlines()[-1] == "pretrain: up to date"
    state = torch.load(weights, weights_only=True)
    state["classifier.bias"] += 1
    torch.save(state, own / "w.pth")
    done = ltcli(*command, own / "w.pth", "--dry-run")
    assert "would run: weights changed" in done.out
    assert ltcli(*START, "--epochs", "1", "-d", folder, "--dry-run").code == 0


def test_weights_that_are_kept_follow_the_class_prior_of_their_origin(ltcli, own, weights):
    kept = (*START, "--weights", weights, "--epochs", "0", "-d", own / "images")
    # Without epochs there is nothing that a sampler or weights could balance.
    assert ltcli(*kept, "--sampler", "class-aware", "--beta", "0.9").code == 0
    assert not read_header(own / "images" / "pretrain.safetensors").info["balanced"]


def test_training_starts_from_the_weights(ltcli, copy):
    start = build_network(small_images.backbone("resnet20"), 10, 3)
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


def test_a_model_s_own_weights_know_its_colours(ltcli, copy, tmp_path):
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    network = ("pretrain", "--backbone", "resnet20", "-d", copy)
    assert ltcli(*network, "--epochs", "1", "--out", first).code == 0
    # Other images, whose colours are others.
    split = ("split", "digits", "--imbalance-factor", "2", "-d", copy)
    assert ltcli(*split, "--seed", "5").code == 0
    assert ltcli(*network, "--weights", first, "--epochs", "0", "--out", again).code == 0
    own, new = backbone_of(read_header(first)), backbone_of(read_header(again))
    assert (new.mean, new.std) == (own.mean, own.std)
    assert list(own.mean) != read_header(copy / "split.safetensors").info["mean"]


@pytest.mark.parametrize(
    ("options", "code", "rule", "hint"),
    [
        (
            ("--backbone", "resnet33"),
            2,
            f"pretrain: backbone must be one of {OWN}, timm.NAME, got resnet33",
            "did you mean 'resnet34'?",
        ),
        (
            ("--backbone", "torchvision.resnet50"),
            2,
            f"pretrain: backbone must be one of {OWN}, timm.NAME, got torchvision.resnet50",
            "did you mean 'timm.resnet50'?",
        ),
        (
            ("--backbone", "timm.resnet51"),
            2,
            "pretrain: no backbone 'timm.resnet51'",
            "did you mean 'timm.resnet51q'?",
        ),
        (
            ("--backbone", "timm.hf-hub:timm/test_vit"),
            2,
            "pretrain: no backbone 'timm.hf-hub:timm/test_vit'",
            "did you mean 'timm.test_vit'?",
        ),
        (
            ("--backbone", "timm.resnet50", "--method", "ride"),
            2,
            f"pretrain: backbone must be one of {OWN} for ride, got timm.resnet50",
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
            "pretrain: weights of resnet32 must be a file, got default",
            "nobody publishes weights of this network",
        ),
        (
            ("--weights", "default", "--backbone", "timm.resnet10"),
            2,
            "pretrain: weights of timm.resnet10 must be a file, got default",
            "nobody publishes weights of this network",
        ),
    ],
    ids=[
        *("own", "torchvision", "timm", "hub", "ride", "epochs", "method", "file", "default"),
        "resnet10",
    ],
)
def test_what_training_cannot_start_from_is_refused(ltcli, chain, options, code, rule, hint):
    done = ltcli("pretrain", *options, "--dry-run", "-d", chain)
    assert done.code == code
    assert done.lines == [f"error: {rule}", *([f"hint: {hint}"] if hint else [])]


def test_published_weights_are_part_of_what_a_model_is(ltcli, chain):
    record = small_images.backbone("resnet20")
    prints = [
        Start(record, weights, origin, ()).fingerprint
        for weights, origin in (("default", "a"), ("default", "b"), ("f", "c"), (None, None))
    ]
    assert prints[0] != prints[1]
    assert (len(prints[0]["weights"]), *prints[2:]) == (64, {"weights": "c"}, {})
    command = ("pretrain", "--backbone", "timm.test_vit", "--weights", "default", "--dry-run")
    done = ltcli(*command, "-d", chain)
    assert done.code == 0
    assert "would run: weights changed" in done.out


def test_default_weights_are_those_that_timm_fetches(ltcli, own, monkeypatch):
    torch.manual_seed(5)
    state = timm.create_model("test_efficientnet").state_dict()
    hub = "timm.models._builder.load_state_dict_from_hf"
    asked = []
    monkeypatch.setattr(hub, lambda place, **_: asked.append(place) or dict(state))
    folder = own / "images"
    command = (*START, "--weights", "default", "--epochs", "0", "-d", folder)
    done = ltcli(*command)
    assert done.code == 0, done.err
    assert asked == ["timm/test_efficientnet.r160_in1k"]
    line = f"took {len(state) - 2} tensors of the backbone and none of the classifier from default"
    assert f"pretrain: {line}" in done.err
    with open_artifact(folder / "pretrain.safetensors") as model:
        header, tensors = model.header, model.load("backbone.body.*")
    assert all(tensors[name].equal(state[name]) for name in tensors)
    recipe = dict(header.info["recipe"])["pretrain"]
    assert recipe["weights"] == "timm.test_efficientnet.r160_in1k"
    assert ltcli(*command).err.splitlines()[-1] == "pretrain: up to date"


def test_without_a_network_the_error_says_what_to_fetch(ltcli, own, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(own / "cache"))
    command = ("pretrain", "--backbone", "timm.test_vit", "--weights", "default", "--epochs", "0")
    done = ltcli(*command, "-q", "-d", own / "images")
    assert done.code == 6
    start = "error: pretrain: weights of timm.test_vit cannot be fetched: "
    assert done.lines[0].startswith(start)
    place = "https://huggingface.co/timm/test_vit.r160_in1k"
    hint = f"hint: fetch {place} where there is a network, and name the file with --weights"
    assert done.lines[1:] == [hint]
    assert not (own / "images" / "pretrain.safetensors").exists()


def test_weights_of_an_older_version_are_refused(ltcli, copy):
    old = copy / "old.safetensors"
    content = (copy / "pretrain.safetensors").read_bytes()
    before, after = (rf"\"kind_version\":{version},".encode() for version in (3, 2))
    assert content.count(before) == 1
    old.write_bytes(content.replace(before, after))
    line = f"error: {old}: model version must be 3, got 2"
    hint = "hint: make it again with this version of ltcli"
    for command in (("evaluate", "--model", old), ("pretrain", "--weights", old, "--force")):
        done = ltcli(*command, "-d", copy)
        assert (done.code, done.lines) == (3, [line, hint])


def test_without_maps_what_needs_them_is_refused(ltcli, copy):
    path = changed(copy, {"map_size": []})
    rule = f"{path}: backbone resnet20 has no feature maps"
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


def changed(folder, record):
    """Write the model of a folder again with a changed record of its backbone."""
    path = folder / "changed.safetensors"
    with open_artifact(folder / "pretrain.safetensors") as model:
        header, tensors = model.header, model.load("*")
    facts = {"stage": "pretrain", "parameters": header.parameters, "inputs": header.inputs}
    info = header.info | {"backbone": header.info["backbone"] | record}
    save(path, "model", tensors, **facts, info=info)
    return path


def test_a_forged_record_is_refused_by_every_stage(ltcli, copy, monkeypatch):
    with monkeypatch.context() as forger:
        forger.setattr("ltcli.artifacts.store.check_schema", lambda *_: {})
        path = changed(copy, {"feature_dim": 10**9})
    rule = "feature_dim of the backbone must be a width, got 1000000000"
    for command in (("evaluate",), ("dump-features",)):
        done = ltcli(*command, "--model", path, "-d", copy)
        assert (done.code, done.lines) == (3, [f"error: {path}: {rule}"])


def check_fusion(stages_after, model):
    """Let feature-fusion on images look at a model."""
    values = {"method": "feature-fusion", "data": "images", "stages_after": stages_after}
    params = build(Params, values, "finetune", options=feature_fusion.Options)
    feature_fusion.METHOD.check(params.options, run_of(params, {"model": model}))


def test_maps_of_timm_s_networks_are_fused_where_there_are_positions(chain):
    model = read_header(chain / "pretrain.safetensors")

    def of(record):
        info = model.info | {"backbone": json.loads(json.dumps(asdict(record)))}
        return replace(model, info=info)

    split = read_header(chain / "split.safetensors")
    record = timm_networks.SOURCE.resolve("resnet10", "", split)
    assert (record.map_size, record.feature_dim) == ((7, 7), 512)
    check_fusion(0, of(record))
    with pytest.raises(ParamError, match="stages-after must be at most 0, got 1"):
        check_fusion(1, of(record))
    with pytest.raises(ArtifactError, match=r"maps of timm.resnet10 are 1x1 for these images"):
        check_fusion(0, of(replace(record, map_size=(1, 1))))
