"""The table of sources, records that go into headers and come back, and the networks of timm."""

import json
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from ltcli.artifacts.backbone import Backbone, backbone_of, require_maps
from ltcli.artifacts.header import read_header
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.models import small_images
from ltcli.models.backbones import BACKBONES, build_backbone, resolve
from ltcli.models.source import Source

IMAGES = SimpleNamespace(
    path="split.safetensors",
    info={"store": "images", "image_size": [8, 9], "mean": [0.5] * 3, "std": [0.25] * 3},
)
FILES = SimpleNamespace(path="split.safetensors", info=IMAGES.info | {"store": "files"})
OWN = "resnet20, resnet32, resnet44, resnet56, resnet110, resnet10, resnet18, resnet34"


def of(name, split=IMAGES, variant=""):
    return resolve(name, split, "a-method", variant)


def header(record):
    """A header with a record, as JSON gives it back."""
    return SimpleNamespace(path="m", info={"backbone": json.loads(json.dumps(record))})


def test_the_table_names_its_sources():
    assert list(BACKBONES) == ["small-images", "timm", "embeddings"]
    assert ", ".join(BACKBONES["small-images"].names()) == OWN
    known = BACKBONES["timm"].names()
    assert len(known) == len(set(known)) > 1000
    assert {"resnet10", "resnet50", "tf_efficientnet_lite0", "vit_small_patch14_dinov2"} < {*known}


def test_small_images_keep_their_size_and_colours():
    record = of("resnet32")
    assert record == of("auto")
    assert (record.image_size, record.stored_size, record.crop_share) == ((8, 9), (8, 9), 1)
    assert (record.mean, record.std, record.map_size) == ((0.5,) * 3, (0.25,) * 3, (2, 3))
    in_files = of("resnet32", FILES)
    assert in_files == replace(record, stored_size=(), crop_share=0.875)


@pytest.mark.parametrize(
    ("name", "dim", "size", "maps"),
    [
        ("resnet10", 512, 224, (7, 7)),
        ("resnet18", 512, 224, (7, 7)),
        ("resnet152.tv_in1k", 2048, 224, (7, 7)),
        ("tf_efficientnet_lite0", 1280, 224, (7, 7)),
        # Channels last.
        ("swin_tiny_patch4_window7_224", 768, 224, (7, 7)),
        # A normalisation, or layers with weights, behind the pooling; tokens; a token of the class.
        ("convnext_atto", 320, 224, ()),
        ("mobilenetv3_small_050", 1024, 224, ()),
        ("vgg11", 4096, 224, ()),
        ("vit_base_patch16_siglip_224", 768, 224, ()),
        ("vit_small_patch14_dinov2", 384, 518, ()),
        ("mixer_s16_224", 512, 224, ()),
    ],
)
def test_shapes_and_maps_of_timm_s_networks_are_known_without_values(name, dim, size, maps):
    record = of(f"timm.{name}")
    assert (record.source, record.name, str(record)) == ("timm", name, f"timm.{name}")
    assert (record.feature_dim, record.map_size, record.stages) == (dim, maps, 0)
    assert (record.image_size, record.stored_size) == ((size, size), (8, 9))
    assert of(f"timm.{name}", FILES).stored_size == ()


def test_pooling_by_the_largest_value_is_no_mean(monkeypatch):
    plain = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: plain(*a, **k, global_pool="max"))
    assert of("timm.resnet18").map_size == ()


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "resnet50.tv_in1k", "test_vit"])
def test_images_are_prepared_as_timm_says(name):
    record, known = of(f"timm.{name}"), timm.get_pretrained_cfg(name)
    assert (record.mean, record.std) == (known.mean, known.std)
    assert (record.interpolation, record.crop_mode) == (known.interpolation, known.crop_mode)
    assert record.crop_share == known.crop_pct


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "resnet10"])
def test_features_are_what_timm_s_own_last_layer_gets(rng, name):
    record = of(f"timm.{name}")
    torch.manual_seed(1)
    backbone = build_backbone(record).eval()
    images = torch.randn(2, 3, *record.image_size, generator=rng)
    if name != "resnet10":
        whole = timm.create_model(name).eval()
        whole.load_state_dict(backbone.body.state_dict(), strict=False)
        seen = []
        whole.get_classifier().register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        features = backbone(images)
        assert features.shape == (2, record.feature_dim)
        if name != "resnet10":
            whole(images)
            torch.testing.assert_close(features, seen[0])
        if record.map_size:
            maps = backbone.maps(images)
            assert maps.shape == (2, record.feature_dim, *record.map_size)
            torch.testing.assert_close(maps.mean((2, 3)), features)
        else:
            with pytest.raises(ValueError, match="not the mean of feature maps"):
                backbone.maps(images)


def test_maps_of_networks_with_channels_last_have_them_first(rng):
    record = of("timm.swin_tiny_patch4_window7_224")
    backbone = build_backbone(record).eval()
    with torch.no_grad():
        images = torch.randn(1, 3, 224, 224, generator=rng)
        torch.testing.assert_close(backbone.maps(images).mean((2, 3)), backbone(images))


def test_resnet10_is_resnet18_with_one_block_in_each_stage():
    small, large = (
        build_backbone(of(f"timm.resnet{depth}")).body.state_dict() for depth in (10, 18)
    )
    kept = {name: value.shape for name, value in large.items() if ".1." not in name[6:9]}
    assert {name: value.shape for name, value in small.items()} == kept


def test_looking_at_a_network_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    of("timm.test_resnet")
    BACKBONES["timm"].head("test_resnet")
    assert torch.get_rng_state().equal(before)


def test_published_weights_are_told_apart_by_their_tag():
    published = BACKBONES["timm"].published
    assert published("resnet50") == "timm.resnet50.a1_in1k"
    assert published("resnet50.tv_in1k") == "timm.resnet50.tv_in1k"
    assert published("resnet10") is published("test_resnet2") is None
    assert BACKBONES["small-images"].published("resnet20") is None


@pytest.mark.parametrize("name", ["timm.resnet51", "timm.resnet18.no_tag", "timm.", "timm.a/b"])
def test_names_that_timm_does_not_have_are_refused(name):
    with pytest.raises(ParamError) as caught:
        of(name)
    assert caught.value.message == f"no backbone '{name}'"


def test_a_prefix_that_is_no_source_is_refused_with_a_name_of_another():
    for name, hint in (
        ("torchvision.resnet152", "did you mean 'timm.resnet152'?"),
        ("torchvision.resnet10", "did you mean 'timm.resnet10'?"),
        ("embeddings.resnet20", "did you mean 'timm.resnet200'?"),
    ):
        with pytest.raises(ParamError) as caught:
            of(name)
        rule = f"backbone must be one of {OWN}, timm.NAME, got {name}"
        assert (caught.value.message, caught.value.hint) == (rule, hint)


RECORDS = [
    small_images.backbone("resnet20"),
    small_images.backbone("resnet32", "ride3", in_files=True, image_size=(40, 30)),
    Backbone("embeddings", "embeddings", 7),
    of("timm.test_vit"),
]


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_a_record_comes_back_from_a_header(record):
    assert backbone_of(header(asdict(record))) == record


def test_a_record_is_all_that_a_network_needs():
    for record in RECORDS:
        width = record.feature_dim if record.source == "embeddings" else 3
        shape = (2, 3, *record.image_size) if record.image_size else (2, width)
        with torch.no_grad():
            features = build_backbone(record).eval()(torch.zeros(shape))
        assert features.shape == (2, record.feature_dim)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("source", 7, "a text, got 7"),
        ("name", "a\nb", r"a text, got 'a\nb'"),
        ("name", "x" * 201, f"a text, got {repr('x' * 201)[:80]}"),
        ("variant", None, "a text, got None"),
        ("feature_dim", True, "a width, got True"),
        ("feature_dim", 0, "a width, got 0"),
        ("feature_dim", 2**21, "a width, got 2097152"),
        ("map_size", [3], "a height and a width, or nothing, got [3]"),
        ("stages", -1, "a count, got -1"),
        ("views", 0, "a count, got 0"),
        ("image_size", [8, 10**9], "a height and a width, or nothing, got [8, 1000000000]"),
        ("stored_size", "8", "a height and a width, or nothing, got '8'"),
        ("mean", [0, 0, 10**400], f"three numbers, or nothing, got {str([0, 0, 10**400])[:80]}"),
        ("mean", [0.1, 0.2], "three numbers, or nothing, got [0.1, 0.2]"),
        ("std", [0.1, 0.2, 0], "three numbers, or nothing, above 0, got [0.1, 0.2, 0]"),
        ("interpolation", "lanczos", "bilinear or bicubic, got 'lanczos'"),
        ("crop_mode", "none", "box, center, squash or border, got 'none'"),
        ("crop_share", 1.5, "in 0 ... 1, got 1.5"),
    ],
)
def test_a_forged_record_is_refused(name, value, rule):
    with pytest.raises(ArtifactError) as caught:
        backbone_of(header(asdict(RECORDS[0]) | {name: value}))
    assert str(caught.value) == f"m: {name} of the backbone must be {rule}"


@pytest.mark.parametrize("found", ["resnet20", {}, {"source": "timm"}, None, [1]])
def test_what_is_no_record_is_refused(found):
    with pytest.raises(ArtifactError) as caught:
        backbone_of(header(found))
    names = ", ".join(field.name for field in fields(Backbone))
    assert str(caught.value) == f"m: backbone must be a mapping of {names}"


def test_images_without_colours_are_refused():
    with pytest.raises(ArtifactError) as caught:
        backbone_of(header(asdict(RECORDS[0]) | {"mean": []}))
    assert str(caught.value) == "m: image_size, mean and std of the backbone must be given together"


def test_maps_are_required_by_record():
    assert require_maps(header(asdict(small_images.backbone("resnet20")))) == (8, 8)
    with pytest.raises(ArtifactError) as caught:
        require_maps(header(asdict(Backbone("embeddings", "embeddings", 7))))
    assert str(caught.value) == "m: backbone embeddings has no feature maps"


class Toy(nn.Module):
    """Colours of the four quarters of an image."""

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def toy_record(name, variant, split):
    if name != "quarters":
        raise KeyError(name)
    facts = {key: tuple(split.info[key]) for key in ("image_size", "mean", "std")}
    return Backbone("toy", name, 12, variant, stored_size=facts["image_size"], **facts)


def test_another_source_is_one_file_and_one_line(ltcli, tmp_path, monkeypatch):
    # What a file of its own would hold.
    toy = Source(names=lambda: ["quarters"], resolve=toy_record, build=lambda _record: Toy())
    monkeypatch.setitem(BACKBONES, "toy", toy)
    command = ("pretrain", "--backbone", "toy.quarters", "--epochs", "1", "-q", "-d", tmp_path)
    assert ltcli("split", "digits", "--imbalance-factor", "10", "-q", "-d", tmp_path).code == 0
    for words in (command, ("dump-features", "-q"), ("evaluate", "-q"), ("compare",)):
        done = ltcli(*words, "-d", tmp_path)
        assert done.code == 0, done.err
    bank = read_header(tmp_path / "dump-features.safetensors")
    assert bank.tensors["test.features"][1][1] == 12
    assert str(backbone_of(bank)) == "toy.quarters"
    done = ltcli("pretrain", "--backbone", "toy.halves", "--dry-run", "-d", tmp_path)
    hint = "hint: did you mean 'toy.quarters'?"
    assert done.lines == ["error: pretrain: no backbone 'toy.halves'", hint]
    done = ltcli("pretrain", "--backbone", "resnet33", "--dry-run", "-d", tmp_path)
    forms = f"{OWN}, timm.NAME, toy.NAME"
    assert done.lines[0] == f"error: pretrain: backbone must be one of {forms}, got resnet33"
