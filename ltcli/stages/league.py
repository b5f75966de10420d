"""Which results can be compared like for like, from what their artifacts record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltcli.artifacts.backbone import Backbone, backbone_of
from ltcli.core.errors import ArtifactError, LtcliError
from ltcli.core.params import build
from ltcli.core.text import plural
from ltcli.data.source_table import SOURCES
from ltcli.methods import METHODS
from ltcli.stages import finetune, pretrain

if TYPE_CHECKING:
    from ltcli.artifacts.header import Header
    from ltcli.methods.method import Method, Run, Training


@dataclass(frozen=True)
class League:
    """Resources of a result beside its method. Equal leagues are compared like for like.

    Attributes:
        pretraining: Weights that the backbone started from: none, unknown, or their digest.
        training_images: Images of all classes, also those that only merged covariances contain.
        extra_images: Held-out labelled images that a method trained on or chose a parameter by.
        epochs: Those that trained the backbone.
        augmentation: Changes of the training images: crop, flip, jitter, mixup with its alpha.
        classifier_epochs: Further epochs of the classifier on a frozen backbone. They take seconds
            and make no league.
    """

    network_parameters: int
    pretraining: str
    training_images: int
    extra_images: int
    epochs: int
    augmentation: tuple[str, ...]
    views: int
    classifier_epochs: int = dataclasses.field(compare=False)


@dataclass(frozen=True)
class Benchmark:
    """Setting that a published figure must share with a result to stand beside it."""

    dataset: str
    profile: str
    imbalance_factor: float
    backbone: str

    def __str__(self) -> str:
        """Say it in one phrase."""
        counts = self.profile
        if counts != "natural":
            counts = f"{counts} profile, imbalance factor {self.imbalance_factor:g}"
        return f"{self.dataset}, {counts}, {self.backbone}"


def read_provenance(header: Header) -> tuple[League, Benchmark]:
    """League and setting of predictions, from their header."""
    info, backbone = header.info, backbone_of(header)
    with sound_recipe(header):
        split = dict(info["recipe"])["split"]
        profile = str(split["profile"])
        if profile == "auto":
            profile = "natural" if SOURCES[split["source"]].natural else "exp"
        factor = float(split["imbalance_factor"])
        if not math.isfinite(factor):
            raise ValueError(factor)
        benchmark = Benchmark(str(split["source"]), profile, factor, backbone.label)
        return _league(info, backbone), benchmark


@contextmanager
def sound_recipe(header: Header) -> Iterator[None]:
    """Raise ArtifactError where reading the recipe of an artifact fails."""
    try:
        yield
    except (AttributeError, KeyError, LtcliError, TypeError, ValueError, OverflowError):
        # Recipes of other versions have other stages, methods and parameters.
        hint = "train the model again, or leave it out"
        raise ArtifactError(header.path, "recipe is not one of this ltcli", hint) from None


def _league(info: dict[str, Any], backbone: Backbone) -> League:
    epochs, of_classifier, extra, pretraining, store = 0, 0, 0, "unknown", "images"
    augmentation: set[str] = set()
    images = sum(info["class_counts"])
    for stage, parameters in info["recipe"]:
        if stage == "split":
            store = parameters.get("store", "images")
        elif stage == "merge-covariances":
            # They contain the images of the model.
            images = max(images, sum(parameters["class_counts"]))
        elif stage == "adjust" and parameters["tau"] == "auto":
            extra = info["held_out"]
        elif stage in ("pretrain", "finetune"):
            method, run = recorded(stage, parameters)
            if "held-out" in method.reads(run.params.options, run):
                extra = info["held_out"]
            if stage == "pretrain":
                # The SHA-256 of a weights file; its beginning tells files apart. The origin of
                # embeddings is not recorded.
                origin = str(parameters.get("weights", "none"))[:40]
                pretraining = "unknown" if store == "features" else origin
                epochs = run.epochs
            elif parameters["from_epoch"] is not None:
                epochs = int(parameters["from_epoch"])
            # Closed forms and solvers pass over the features without an epoch.
            if stage == "finetune" and method.solve is None:
                epochs += run.epochs if run.whole else 0
                of_classifier += 0 if run.whole else run.epochs
            if run.epochs and method.solve is None:
                augmentation |= _augmentation(run.params, "features" if run.bank else store)
    return League(
        network_parameters=info["network_parameters"],
        pretraining=pretraining,
        training_images=images,
        extra_images=extra,
        epochs=epochs,
        augmentation=tuple(sorted(augmentation)),
        views=backbone.views,
        classifier_epochs=of_classifier,
    )


def recorded(stage: str, parameters: Mapping[str, Any]) -> tuple[Method[Any], Run]:
    """Method and run that a recipe records for pretrain or finetune.

    Raises:
        LtcliError, KeyError: The parameters are not those of this version.
    """
    method = METHODS[parameters["method"]]
    module = {"pretrain": pretrain, "finetune": finetune}[stage]
    params = build(module.Params, parameters, stage, options=method.options)
    return method, module.run_of(params, {})


def _augmentation(of: Training, store: str) -> set[str]:
    """Augmentations of the images that a run trained on, in words."""
    kinds = {f"mixup {of.mixup:g}": of.mixup}
    if store == "images":
        kinds |= {"flip": of.flip, "crop": of.padding}
    elif store == "files":
        kinds |= {"flip": of.flip, f"crop of {of.least_area:g} to 1": of.least_area < 1}
        kinds |= {f"jitter {of.jitter:g}": of.jitter}
    return {kind for kind, amount in kinds.items() if amount}


def names_of_differences(leagues: Sequence[League]) -> list[str]:
    """Names of the facts in which some leagues differ."""
    names = [field.name for field in dataclasses.fields(League) if field.compare]
    return [name for name in names if len({getattr(league, name) for league in leagues}) > 1]


def words(league: League, names: Sequence[str]) -> str:
    """Some facts of a league in words."""
    said = {
        "network_parameters": plural(league.network_parameters, "parameter"),
        "pretraining": f"pre-training {league.pretraining}",
        "training_images": plural(league.training_images, "training image"),
        "extra_images": plural(league.extra_images, "extra labelled image"),
        "epochs": plural(league.epochs, "epoch"),
        "augmentation": ", ".join(league.augmentation) or "no augmentation",
        "views": plural(league.views, "view"),
    }
    return "; ".join(said[name] for name in names)
