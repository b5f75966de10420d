import pytest
import torch

from ltcli.artifacts.backbone import backbone_of
from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact
from ltcli.models.network import load_network
from ltcli.stages.samples import open_samples

CPU = torch.device("cpu")


def tensors_of(path):
    with open_artifact(path) as artifact:
        return artifact.load("*")


@pytest.fixture
def exact(ltcli, copy):
    """The folder, and a bank in float32 with everything in it."""
    out = copy / "exact.safetensors"
    options = ("--maps", "--views", "2", "--precision", "fp32", "--out", out)
    assert ltcli("dump-features", *options, "-d", copy).code == 0
    return copy, tensors_of(out)


def error(made, expected):
    return ((made - expected).norm() / expected.norm()).item()


def test_every_tensor_has_its_axes(chain):
    bank = tensors_of(chain / "dump-features.safetensors")
    sizes = {"train": 454, "val": 100, "test": 535}
    shapes = {name: tuple(tensor.shape) for name, tensor in bank.items()}
    expected = {"train.maps": (454, 64, 2, 2), "train.views": (2, 454, 64)}
    for part, size in sizes.items():
        expected[f"{part}.features"] = (size, 64)
        expected[f"{part}.labels"] = (size,)
        if part != "train":
            expected[f"{part}.logits"] = (size, 10)
    assert shapes == expected
    info = read_header(chain / "dump-features.safetensors").info
    assert info["model"] == read_header(chain / "pretrain.safetensors").digest
    assert info["split"] == read_header(chain / "split.safetensors").digest


def test_features_and_logits_are_those_of_the_network_image_by_image(exact):
    folder, bank = exact
    with open_artifact(folder / "pretrain.safetensors") as model:
        network, backbone = load_network(model, CPU), backbone_of(model.header)
    for part in ("train", "val", "test"):
        with open_artifact(folder / "split.safetensors") as split:
            images = open_samples(split, part, CPU, None, backbone)
            assert bank[f"{part}.labels"].equal(split.tensor(f"{part}.labels"))
        for row in (0, 7, images.size - 1):
            with torch.no_grad():
                features = network.backbone(images.plain(slice(row, row + 1)))
                logits = network.classifier(features)
            assert error(bank[f"{part}.features"][row], features[0]) < 1e-4
            if part != "train":
                assert error(bank[f"{part}.logits"][row], logits[0]) < 1e-4


def test_features_are_the_maps_averaged_over_positions(exact):
    _, bank = exact
    torch.testing.assert_close(bank["train.maps"].mean((2, 3)), bank["train.features"])


def test_views_differ_from_each_other_and_from_the_plain_images(exact):
    _, bank = exact
    first, second = bank["train.views"]
    assert error(first, second) > 0.1
    assert error(first, bank["train.features"]) > 0.1


def test_views_without_crop_and_flip_are_the_plain_images(ltcli, exact):
    folder, bank = exact
    out = folder / "still.safetensors"
    options = ("--views", "1", "--padding", "0", "--no-flip", "--precision", "fp32", "--out", out)
    assert ltcli("dump-features", *options, "-d", folder).code == 0
    torch.testing.assert_close(tensors_of(out)["train.views"][0], bank["train.features"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_view_without_a_crop_is_as_exact_as_the_features(ltcli, copy, precision):
    # Without a border an image is only flipped, or not: those that are not are the plain images.
    out = copy / "views.safetensors"
    options = ("--views", "1", "--padding", "0", "--precision", precision)
    assert ltcli("dump-features", *options, "--out", out, "-d", copy).code == 0
    bank = tensors_of(out)
    gap = (bank["train.views"][0] - bank["train.features"]).abs().amax(1)
    scale = bank["train.features"].abs().max()
    share = (gap < 1e-5 * scale).double().mean().item()
    assert 0.4 < share < 0.65


def test_bfloat16_is_close_in_computation_and_in_storage(ltcli, exact):
    folder, bank = exact
    for option in ("--precision", "--storage"):
        out = folder / "coarse.safetensors"
        options = (option, "bf16", "--out", out, "--force")
        if option == "--storage":
            options += ("--precision", "fp32")
        assert ltcli("dump-features", *options, "-d", folder).code == 0
        coarse = tensors_of(out)
        stored = torch.bfloat16 if option == "--storage" else torch.float32
        assert coarse["test.features"].dtype == stored
        assert 0 < error(coarse["test.features"].float(), bank["test.features"]) < 2e-2


def test_logits_are_those_of_the_features_as_stored(ltcli, copy):
    out = copy / "coarse.safetensors"
    options = ("--storage", "bf16", "--out", out)
    assert ltcli("dump-features", *options, "-d", copy).code == 0
    bank, model = tensors_of(out), tensors_of(copy / "pretrain.safetensors")
    features = bank["test.features"].float()
    logits = features @ model["classifier.weight"].T + model["classifier.bias"]
    torch.testing.assert_close(bank["test.logits"], logits)


def test_dumping_again_gives_the_same_bytes(ltcli, copy):
    path = copy / "dump-features.safetensors"
    before = path.read_bytes()
    command = ("dump-features", "--maps", "--views", "2", "-d", copy)
    assert ltcli(*command, "--force").code == 0
    assert path.read_bytes() == before
    assert ltcli(*command).err == "dump-features: up to date\n"


@pytest.mark.parametrize("option", [("--padding", "2"), ("--no-flip",), ("--seed", "1")], ids=str)
def test_options_of_views_are_refused_without_them(ltcli, copy, option):
    done = ltcli("dump-features", *option, "-d", copy)
    name = option[0].removeprefix("--").removeprefix("no-")
    line = f"error: dump-features: {name} must not be given without --views"
    assert (done.code, done.lines) == (2, [line])


def test_a_model_of_another_split_is_refused(ltcli, copy):
    other = copy / "other.safetensors"
    assert ltcli("split", "digits", "--out", other, "-d", copy).code == 0
    done = ltcli("dump-features", "--split", other, "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: dump-features: {copy}/pretrain.safetensors belongs to another split than {other}",
        "hint: make both from the same artifacts, or name others",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_gives_the_bank_of_a_cpu(ltcli, exact, precision):
    folder, bank = exact
    out = folder / "gpu.safetensors"
    options = ("--maps", "--views", "2", "--precision", precision, "--device", "cuda")
    assert ltcli("dump-features", *options, "--out", out, "-d", folder).code == 0
    made = tensors_of(out)
    assert made.keys() == bank.keys()
    for name, tensor in bank.items():
        if tensor.is_floating_point():
            assert error(made[name], tensor) < 2e-2, name
        else:
            assert made[name].equal(tensor)
