"""Leagues and benchmarks of recorded recipes, without running anything."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from ltcli.core.errors import ArtifactError
from ltcli.core.params import as_dict, build
from ltcli.methods import METHODS
from ltcli.models import small_images
from ltcli.stages import STAGES
from ltcli.stages.league import names_of_differences, read_provenance, recorded, words
from ltcli.stages.stage import recipe


def step(name, method=None, **given):
    """A stage's parameters as its header would hold them, defaults where nothing is given."""
    stage = next(stage for stage in STAGES if stage.name == name)
    if method is None:
        return as_dict(build(stage.params, given, name))
    found, given = METHODS[method], {"method": method, **given}
    defaults = {**stage.defaults, **found.defaults.get(name, {})}
    return as_dict(build(stage.params, given, name, options=found.options, defaults=defaults))


def read(*steps, held_out=100, counts=(50, 30, 5), store="images"):
    made = []
    for name, parameters in steps:
        if name == "split":
            parameters = {**parameters, "store": store}
        elif parameters.get("backbone") == "auto":
            parameters = {**parameters, "backbone": "resnet32"}
        made = recipe(made, name, parameters)
    record = small_images.backbone(dict(made)["pretrain"]["backbone"])
    info = {"network_parameters": 1000, "held_out": held_out, "recipe": made}
    # As JSON gives it back.
    info |= {"class_counts": list(counts), "backbone": json.loads(json.dumps(asdict(record)))}
    return read_provenance(SimpleNamespace(path=Path("x"), info=info))


def after_pretraining(*steps, store="images", **pretrain):
    first = ("split", step("split", source="cifar10"))
    base = ("pretrain", step("pretrain", "cross-entropy", **pretrain))
    return read(first, base, *steps, store=store)[0]


def adjust(**given):
    return ("adjust", step("adjust", **given))


def finetune(method, **given):
    return ("finetune", step("finetune", method, **given))


def test_a_plain_network_by_hand():
    league, benchmark = read(
        ("split", step("split", source="cifar100", imbalance_factor=50)),
        ("pretrain", step("pretrain", "cross-entropy", backbone="resnet18", schedule="fsa")),
    )
    assert (league.network_parameters, league.training_images, league.views) == (1000, 85, 1)
    assert (league.pretraining, league.extra_images) == ("none", 0)
    assert (league.epochs, league.classifier_epochs) == (300, 0)
    assert league.augmentation == ("crop", "flip")
    assert str(benchmark) == "cifar100, exp profile, imbalance factor 50, resnet18"


def test_image_files_are_cropped_by_area():
    plain = after_pretraining(store="files", padding=0)
    assert plain.augmentation == ("crop of 0.08 to 1", "flip")
    more = after_pretraining(
        finetune("crt", data="images", jitter=0.4), store="files", least_area=1
    )
    assert more.augmentation == ("crop of 0.08 to 1", "flip", "jitter 0.4")
    assert after_pretraining(store="files", least_area=1, flip=False).augmentation == ()


def test_embeddings_are_not_augmented_and_come_from_somewhere():
    league = after_pretraining(finetune("crt", data="images"), store="features", mixup=0.5)
    assert league.augmentation == ("mixup 0.5",)
    assert league.pretraining == "unknown"


def test_weights_from_elsewhere_are_another_league():
    split = ("split", step("split", source="cifar100"))
    first = step("pretrain", "cross-entropy", epochs=0)
    leagues = [
        read(split, ("pretrain", first | weights))[0]
        for weights in ({}, {"weights": "ResNet50_Weights.IMAGENET1K_V2"}, {"weights": "ab" * 32})
    ]
    assert [league.pretraining for league in leagues] == [
        "none",
        "ResNet50_Weights.IMAGENET1K_V2",
        "ab" * 20,
    ]
    assert names_of_differences(leagues) == ["pretraining"]
    assert (leagues[0].epochs, leagues[0].augmentation) == (0, ())


def test_own_images_keep_their_own_counts():
    _, benchmark = read(
        ("split", step("split", source="folder", root="x")),
        ("pretrain", step("pretrain", "cross-entropy")),
    )
    assert str(benchmark) == "folder, natural, resnet32"


def test_a_classifier_trained_on_a_frozen_backbone_stays_in_the_league_of_its_backbone():
    plain, tuned = after_pretraining(), after_pretraining(finetune("crt", epochs=7))
    assert tuned == plain
    assert tuned.classifier_epochs == 7
    assert after_pretraining(finetune("ncm")).classifier_epochs == 0


@pytest.mark.parametrize(
    ("method", "options", "extra"),
    [
        ("tau-norm", {}, 100),
        ("tau-norm", {"tau": 1.0}, 0),
        ("metasaug", {}, 100),
        ("metasaug", {"meta_source": "train"}, 0),
        ("risda", {}, 0),
        ("logit-adjustment", {}, 0),
    ],
)
def test_held_out_images_count_where_a_method_trains_or_chooses_by_them(method, options, extra):
    league = after_pretraining(finetune(method, **options))
    assert league.extra_images == extra


@pytest.mark.parametrize("method", ["l2rw", "meta-weight-net"])
def test_held_out_images_count_from_scratch_too(method):
    split = ("split", step("split", source="cifar10"))
    assert read(split, ("pretrain", step("pretrain", method)))[0].extra_images == 100
    taken = step("pretrain", method, meta_source="train")
    assert read(split, ("pretrain", taken))[0].extra_images == 0


def test_images_of_merged_covariances_count():
    merged = ("merge-covariances", step("merge-covariances") | {"class_counts": [60, 60, 60]})
    assert after_pretraining(merged, finetune("isda")).training_images == 180


@pytest.mark.parametrize(("tau", "extra"), [("auto", 100), (1.0, 0), (None, 0)])
def test_held_out_images_count_where_adjust_chooses_tau_by_them(tau, extra):
    assert after_pretraining(adjust(tau=tau)).extra_images == extra


def test_what_a_later_method_does_not_use_stays_used():
    steps = [finetune("metasaug"), finetune("crt")]
    assert after_pretraining(*steps).extra_images == 100


def test_epochs_count_from_the_epoch_that_was_started_from():
    whole = {"data": "images", "train": "all", "from_epoch": 160, "epochs": 40}
    league = after_pretraining(finetune("metasaug", meta_source="train", **whole), snapshots=40)
    assert (league.epochs, league.classifier_epochs) == (200, 0)
    assert league == after_pretraining(snapshots=40)
    longer = after_pretraining(finetune("cross-entropy", data="images", train="all", epochs=5))
    assert longer.epochs == 205


def test_augmentation_is_what_any_stage_did_to_images():
    assert after_pretraining(mixup=0.2).augmentation == ("crop", "flip", "mixup 0.2")
    bare = {"padding": 0, "flip": False}
    assert after_pretraining(**bare).augmentation == ()
    on_images = finetune("crt", data="images")
    assert after_pretraining(on_images, **bare).augmentation == ("crop", "flip")
    flipped = finetune("crt", data="images", padding=0)
    assert after_pretraining(flipped, **bare).augmentation == ("flip",)
    assert after_pretraining(finetune("crt", data="images", **bare), **bare).augmentation == ()
    # Of before the option.
    del flipped[1]["flip"]
    assert after_pretraining(flipped, **bare).augmentation == ("flip",)
    # Nothing is trained on these images.
    assert after_pretraining(finetune("ncm", data="images"), **bare).augmentation == ()


@pytest.mark.parametrize(
    "gone",
    [{"schedule": "mcw"}, {"method": "none-such"}, {"colour": 1}, {"epochs": -1}],
    ids=["schedule", "method", "parameter", "value"],
)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_recipe_that_this_version_cannot_run_is_refused(stage, gone):
    if stage == "finetune" and "schedule" in gone:
        gone = {"decay": "mcw"}
    steps = {name: step(name, "cross-entropy") for name in ("pretrain", "finetune")}
    steps[stage] |= gone
    with pytest.raises(ArtifactError) as caught:
        read(("split", step("split", source="cifar10")), *steps.items())
    assert str(caught.value) == "x: recipe is not one of this ltcli"
    assert caught.value.hint == "train the model again, or leave it out"


def test_a_recorded_run_is_the_run_that_was_made():
    given = {"beta": 0.99, "schedule": "mwn", "epochs": 50, "defer": 80, "lr": 0.2, "gamma": 2.0}
    method, run = recorded("pretrain", step("pretrain", "focal", **given))
    assert method is METHODS["focal"]
    assert run.params.options == method.options(gamma=2.0)
    assert (run.epochs, run.deferred, run.schedule.epochs) == (50, 40, 100)
    assert (run.schedule.lr, run.whole, run.bank) == (0.2, True, False)
    method, run = recorded("finetune", step("finetune", "class-balanced-finetuning"))
    assert method is METHODS["class-balanced-finetuning"]
    assert (run.epochs, run.schedule.lr, run.whole, run.bank) == (20, 1e-3, True, False)


def test_only_what_differs_is_said():
    short, long = after_pretraining(epochs=100), after_pretraining(epochs=1, padding=0, flip=False)
    names = names_of_differences([short, long, short])
    assert names == ["epochs", "augmentation"]
    assert words(short, names) == "100 epochs; crop, flip"
    assert words(long, names) == "1 epoch; no augmentation"
    assert names_of_differences([short, short]) == []


def test_every_fact_has_its_words():
    league = after_pretraining(finetune("tau-norm"))
    names = [
        *("network_parameters", "pretraining", "training_images", "extra_images"),
        *("epochs", "augmentation", "views"),
    ]
    assert words(league, names) == (
        "1,000 parameters; pre-training none; 85 training images; 100 extra labelled images;"
        " 200 epochs; crop, flip; 1 view"
    )
    assert names_of_differences([league, after_pretraining()]) == ["extra_images"]
